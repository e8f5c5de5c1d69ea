"""What befalls the players on the stage: by name, each a function of the stage and a number that picks the victim."""

from __future__ import annotations

from collections.abc import Callable

from tests.model.stage import Stage
from tests.model.stage_elastic import act, break_off, world_of
from tests.model.stage_parts import Process, Stream

from cordee.coordinator.core import events as ev
from cordee.rpc.v1 import worker_pb2 as pb

__all__ = ["FAULTS"]


def _victim(stage: Stage, k: int) -> Process | None:
    processes = stage.processes()
    return processes[k % len(processes)] if processes else None


def _kill(stage: Stage, k: int) -> None:
    if (victim := _victim(stage, k)) is not None:
        stage.die(victim, -9)


def _kill_silently(stage: Stage, k: int) -> None:
    if (victim := _victim(stage, k)) is not None:
        stage.die(victim, -9, words_arrive=False)


def _kill_agent(stage: Stage, k: int) -> None:
    victim = _victim(stage, k)
    agent = stage.agents.get(victim.worker) if victim is not None else None
    if agent is not None:
        stage.end_agent(agent, -9)


def _freeze(stage: Stage, k: int) -> None:
    if (victim := _victim(stage, k)) is not None:
        victim.frozen = victim.suspect = True


def _thaw(stage: Stage, _k: int) -> None:
    for process in stage.processes():
        process.frozen = False


def _lose_power(stage: Stage, k: int) -> None:
    """No connection to it breaks; its agent's end is not noticed by the launcher."""
    if (victim := _victim(stage, k)) is not None:
        stage.agents.pop(victim.worker, None)
        victim.vanished = True
        stream, victim.stream = victim.stream, None
        if stream is not None:
            stream.up.clear()
        victim.mode = "dead"


def _break_stream(stage: Stage, k: int) -> None:
    if (victim := _victim(stage, k)) is not None and victim.stream is not None:
        stream = victim.stream
        stage.cut(victim)
        victim.stream = Stream(error="UNAVAILABLE: reset")
        victim.stream.down.extend(m for m in list(stream.down)[: k % 2] if m is not None)


def _break_streams(stage: Stage, _k: int) -> None:
    for process in stage.processes():
        if process.stream is not None:
            stage.cut(process, words_arrive=False)
            process.stream = Stream(error="UNAVAILABLE: reset")


def _break_link(stage: Stage, k: int) -> None:
    victim = _victim(stage, k)
    if victim is not None and victim.mode == "training" and not victim.frozen:
        mates = [m.worker for m in world_of(stage, victim) if m is not victim]
        break_off(stage, victim, tuple(mates[:1]))


def _crash(stage: Stage, _k: int) -> None:
    if stage.machine is not None:
        stage.crash()


def _crash_in_mid_turn(stage: Stage, k: int) -> None:
    if stage.machine is not None:
        stage.crash_after = k


def _hang(stage: Stage, _k: int) -> None:
    """SIGSTOP of the coordinator, for ten seconds; then it is killed, or goes on."""
    if stage.machine is None or stage.hangs:
        return
    stage.hangs = True
    until = stage.now + 10.0
    for _ in range(10_000):
        if stage.now >= until or stage.machine is None:
            break
        for process in stage.processes():
            while stage.listen(process) or act(stage, process):
                pass
        stage.pass_time(until)
    stage.hangs = False
    if _k % 2:
        stage.crash()


def _leave(stage: Stage, k: int) -> None:
    victim = _victim(stage, k)
    if victim is not None and not victim.frozen and victim.mode in ("importing", "meeting", "training"):
        stage.post(victim, leaving=pb.Leaving(reason="SIGTERM"))


def _scale(stage: Stage, k: int) -> None:
    if stage.machine is not None and not stage.hangs:
        record = stage.machine.record
        count = record.minimum if k % 2 == 0 else record.maximum
        stage.turn(ev.Scheduled(count))


FAULTS: dict[str, Callable[[Stage, int], None]] = {
    "kill": _kill,
    "kill, last words lost": _kill_silently,
    "kill agent": _kill_agent,
    "freeze": _freeze,
    "thaw": _thaw,
    "lose power": _lose_power,
    "break stream": _break_stream,
    "break all streams": _break_streams,
    "break link": _break_link,
    "crash": _crash,
    "crash in mid-turn": _crash_in_mid_turn,
    "hang": _hang,
    "leave": _leave,
    "scale": _scale,
}
"""By name: what it does to a stage; the number picks the victim, or the manner."""
