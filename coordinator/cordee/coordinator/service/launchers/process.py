"""Agents as detached processes of this machine.

Each agent leads a session of its own, reads nothing and writes to its own log, so it outlives the coordinator: training
goes on while nobody supervises it. What is needed to find it again lies in `agents/<worker>.json`, written before the
process starts (a promise) and again once its pid is known: a coordinator killed in between finds the agent by the
environment it was given. Ends are seen through pidfds, which work for processes that are not our children too.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cordee.coordinator.places import checkpoint_root
from cordee.coordinator.service.launchers import processes
from cordee.coordinator.service.launchers.base import AgentExit, AgentSpec, AgentStatus, Home, LauncherError
from cordee.coordinator.spec import JobSpec
from cordee.coordinator.spec_fields import KERNEL_VARIABLES
from cordee.coordinator.spec_pod import PodSpec

__all__ = ["AGENT_COMMAND", "ProcessLauncher", "default_slots", "living_agents"]

_log = logging.getLogger(__name__)

# -P: the job's folder, where the agent starts, is not a place to import from.
AGENT_COMMAND = (sys.executable, "-P", "-m", "cordee.worker.agent")
_LAST_WORDS_BYTES = 1000
_POLL_SECONDS = 0.1  # only where the kernel knows no pidfd


def default_slots() -> int:
    """Agents that this machine takes by default: small jobs share cores well, so more than it has."""
    return max(8, 2 * len(os.sched_getaffinity(0)))


def living_agents(state_dir: Path) -> list[str]:
    """The job of each agent of this state folder that runs, for who only looks: nothing is adopted."""
    jobs: list[str] = []
    for path in (state_dir / "agents").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            record: dict[str, Any] = json.loads(path.read_text())
            if record["process"] and processes.is_alive(processes.Identity(**record["process"])):
                jobs.append(str(record["job"]))
    return jobs


@dataclass(slots=True)
class _Agent:
    worker: str
    job: str
    folder: Path
    process: processes.Identity
    child: subprocess.Popen[bytes] | None = None  # None: started by an earlier coordinator
    said_from: int | None = None  # where in its file this agent's own words begin; None: nobody knows
    pidfd: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])


class ProcessLauncher:
    """Runs agents as processes of this machine; `state_dir` is where their records lie."""

    name = "process"
    where = "this machine"

    def __init__(
        self,
        state_dir: Path,
        *,
        slots: int | None = None,
        command: Sequence[str] = AGENT_COMMAND,
        connection: Mapping[str, str] | None = None,
    ) -> None:
        """`connection` are the variables that say how the coordinator is reached, where that is by TLS."""
        self._records = state_dir / "agents"
        self._records.mkdir(parents=True, exist_ok=True)
        self._slots = slots if slots is not None else default_slots()
        self._command = tuple(command)
        self._connection = dict(connection or {})
        self._agents: dict[str, _Agent] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._exits: asyncio.Queue[AgentExit] = asyncio.Queue()
        self._closed = False

    # -- the interface

    def check(self, spec: JobSpec) -> Sequence[str]:
        """Whatever is asked of pods is nothing to a process."""
        return () if spec.pod == PodSpec() else ("spec.pod has no effect: this coordinator's workers are processes",)

    def environment(self, job: str, folder: Path, token: str, spec: JobSpec) -> Mapping[str, str]:
        """The job's own folder on this machine; workers reach each other on the loopback only."""
        return {
            "CORDEE_TOKEN": token,
            "CORDEE_WORKDIR": str(folder),
            "CORDEE_CHECKPOINT_STORAGE": checkpoint_root(spec.checkpoint.storage, job, folder),
            "CORDEE_MESH_HOST": "127.0.0.1",
            **self._connection,
        }

    def capacity(self) -> int:
        """How many agents may run here."""
        return self._slots

    async def start(self, spec: AgentSpec) -> None:
        """Start the agent, unless one runs. One that is being stopped is waited for first."""
        async with self._locks.setdefault(spec.worker, asyncio.Lock()):
            agent = self._agents.get(spec.worker)
            if agent is not None:
                if not agent.stopping:
                    return
                await agent.ended.wait()
            self._write_record(spec.worker, spec.job, spec.folder, None)
            try:
                child, said_from = await asyncio.to_thread(self._spawn, spec)
            except OSError as error:
                self._record_path(spec.worker).unlink(missing_ok=True)
                raise LauncherError(f"could not start the agent of {spec.worker}: {error}") from error
            # It cannot be gone before it is waited for: a dead child keeps its number until then.
            process = processes.identify(child.pid) or processes.Identity(child.pid, 0, processes.boot_id())
            self._write_record(spec.worker, spec.job, spec.folder, process)
            self._watch(_Agent(spec.worker, spec.job, spec.folder, process, child, said_from))

    async def stop(self, worker: str, *, grace_seconds: float) -> bool:
        """Ask the agent to go; kill its process group after `grace_seconds`. False: there is none."""
        agent = self._agents.get(worker)
        if agent is None:
            return False
        agent.stopping = True
        if grace_seconds <= 0:
            processes.send_signal(agent.process, signal.SIGKILL, group=True)
            return True
        processes.send_signal(agent.process, signal.SIGTERM)
        self._spawn_task(agent, self._kill_later(agent, grace_seconds))
        return True

    async def list(self) -> list[AgentStatus]:
        """The agents that run; on the first call this is where those of an earlier coordinator are adopted."""
        for path in sorted(self._records.glob("*.json")):
            if path.stem not in self._agents:
                await self._adopt(path)
        return [AgentStatus(agent.worker, agent.job, agent.process.pid) for agent in self._agents.values()]

    async def home(self) -> Home | None:
        """What is known of agents is in the state folder."""
        return None

    async def exits(self) -> AsyncIterator[AgentExit]:
        """Ends of agents, as they happen."""
        while True:
            yield await self._exits.get()

    async def close(self) -> None:
        """Stop watching; the agents run on."""
        self._closed = True
        for agent in self._agents.values():
            tasks = list(agent.tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._release(agent)
            if agent.child is not None and agent.child.returncode is None:
                agent.child.returncode = 0  # ours no longer: Popen would warn about a child left running
        self._agents.clear()

    # -- starting and finding

    def _spawn(self, spec: AgentSpec) -> tuple[subprocess.Popen[bytes], int]:
        path = _said_path(spec.folder, spec.worker)
        path.parent.mkdir(parents=True, exist_ok=True)
        # What this process was told as a worker, if it is one itself, is not for its agents.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CORDEE_") or name in KERNEL_VARIABLES
        }
        with path.open("ab") as output:
            said_from = output.tell()
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=spec.folder,
                env=inherited | dict(spec.environment) | _marks(spec.worker, spec.folder),
                start_new_session=True,
            )
            return child, said_from

    async def _adopt(self, path: Path) -> None:
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            worker, job, folder = str(record["worker"]), str(record["job"]), Path(record["folder"])
            known = processes.Identity(**record["process"]) if record["process"] else None
        except (OSError, ValueError, TypeError, KeyError):
            _log.warning("the agent record %s cannot be read and is dropped", path)
            path.unlink(missing_ok=True)
            return
        marks = _marks(worker, folder)
        if known is None:  # killed between the promise and the pid: whoever leads a session with its marks is the agent
            pids = await asyncio.to_thread(processes.stragglers, marks)
            leaders = [pid for pid in pids if processes.leads_session(pid)]
            known = processes.identify(leaders[0]) if leaders else None
        if known is None or not processes.is_alive(known):
            # The agent is gone; a worker of its may not be, and must not train beside its successor.
            await asyncio.to_thread(processes.kill_leftovers, marks)
            path.unlink(missing_ok=True)
            return
        self._write_record(worker, job, folder, known)
        self._watch(_Agent(worker, job, folder, known))

    def _record_path(self, worker: str) -> Path:
        return self._records / f"{worker}.json"

    def _write_record(self, worker: str, job: str, folder: Path, process: processes.Identity | None) -> None:
        record = {
            "worker": worker,
            "job": job,
            "folder": str(folder),
            "process": asdict(process) if process is not None else None,
        }
        path = self._record_path(worker)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(record))
        draft.replace(path)

    # -- watching and ending

    def _watch(self, agent: _Agent) -> None:
        self._agents[agent.worker] = agent
        try:
            agent.pidfd = os.pidfd_open(agent.process.pid)
        except ProcessLookupError:  # an adopted one that ended this very moment
            self._on_end(agent)
            return
        except OSError:
            self._spawn_task(agent, self._poll(agent))
            return
        if agent.child is None and not processes.is_alive(agent.process):  # the pidfd may be another's by now
            self._on_end(agent)
            return
        asyncio.get_running_loop().add_reader(agent.pidfd, self._on_end, agent)

    async def _poll(self, agent: _Agent) -> None:
        while processes.is_alive(agent.process):
            await asyncio.sleep(_POLL_SECONDS)
        self._on_end(agent)

    async def _kill_later(self, agent: _Agent, grace_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(agent.ended.wait(), grace_seconds)
            return
        processes.send_signal(agent.process, signal.SIGKILL, group=True)

    def _on_end(self, agent: _Agent) -> None:
        self._release(agent)
        agent.stopping = True  # a start from now on waits until it is tidied away
        self._spawn_task(agent, self._finish(agent))

    async def _finish(self, agent: _Agent) -> None:
        # Before it is waited for, its number is nobody else's: whatever lives in its session is what it left behind.
        marks = _marks(agent.worker, agent.folder)
        await asyncio.to_thread(processes.kill_leftovers, marks, session=agent.process.pid)
        code = agent.child.wait() if agent.child is not None else None
        self._record_path(agent.worker).unlink(missing_ok=True)
        if self._agents.get(agent.worker) is agent:
            del self._agents[agent.worker]
        lock = self._locks.get(agent.worker)
        if lock is not None and not lock.locked():
            del self._locks[agent.worker]
        agent.ended.set()
        self._exits.put_nowait(AgentExit(agent.worker, agent.job, code, _last_words(agent)))

    def _release(self, agent: _Agent) -> None:
        if agent.pidfd is not None:
            asyncio.get_running_loop().remove_reader(agent.pidfd)
            os.close(agent.pidfd)
            agent.pidfd = None

    def _spawn_task(self, agent: _Agent, work: Any) -> None:
        if self._closed:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        agent.tasks.add(task)
        task.add_done_callback(agent.tasks.discard)


def _said_path(folder: Path, worker: str) -> Path:
    """Where an agent's own output goes; its worker's is in the log."""
    return folder / "logs" / f"{worker}.agent.log"


def _last_words(agent: _Agent) -> str:
    if agent.said_from is None:
        return ""
    try:
        with _said_path(agent.folder, agent.worker).open("rb") as said:
            size = said.seek(0, os.SEEK_END)
            said.seek(max(agent.said_from, size - _LAST_WORDS_BYTES))
            lines = said.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _marks(worker: str, folder: Path) -> dict[str, str]:
    """The environment by which an agent and all it started are known."""
    return {"CORDEE_WORKER": worker, "CORDEE_WORKDIR": str(folder)}
