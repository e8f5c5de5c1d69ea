"""The worker process: attaches to the coordinator, unpacks the source, runs the script, says how it ended.

Mostly it is a fork of its agent's warm process (`cordee.worker.zygote`), which has imported everything; started afresh
(`python -P -m cordee.worker.main`) it does the same, only later. A dead worker's way back into its world leads through
here, so the order is: bind, start attaching (the coordinator answers while what is missing is imported), run. What is
heavy is imported after the thread counts are set, and only once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from cordee.worker import exit_codes
from cordee.worker.gpu import count_gpus, visible_devices
from cordee.worker.lifeline import Lifeline
from cordee.worker.postmortem import PostMortem, leave_stacks
from cordee.worker.settings import SettingsError, WorkerSettings
from cordee.worker.wire import fit

if TYPE_CHECKING:
    from cordee.worker.faults import Faults
    from cordee.worker.listener import Listener
    from cordee.worker.session import Session

__all__ = ["main", "prepare_environment"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Threads per worker are part of the job: another split of a product gives other bits. Read when NumPy is imported."""


def main() -> int:
    """Runs this worker and returns its exit code."""
    lifeline = Lifeline()
    lifeline.hold()
    leave_stacks()
    previous = PostMortem.take(os.environ)
    try:
        settings = WorkerSettings.from_environment()
    except SettingsError as error:
        sys.stderr.write(f"cordee: {error}\n")
        lifeline.ending(exit_codes.UNUSABLE)
        return exit_codes.UNUSABLE
    os.environ.pop("CORDEE_TOKEN", None)  # a script that prints its environment does not print the job's key
    prepare_environment(os.environ)
    os.environ["CORDEE_OUTPUT_DIR"] = str(settings.output)
    for stream in (sys.stdout, sys.stderr):
        # A pipe is buffered by blocks otherwise: a log would come in lumps, and a killed worker's last lines never.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    code = _work(settings, lifeline, previous)
    lifeline.ending(code)
    return code


def prepare_environment(environment: MutableMapping[str, str]) -> None:
    """Sets what libraries read as they are loaded: how many threads they use, how those wait, and which GPU."""
    for variable in THREAD_VARIABLES:
        environment[variable] = environment.get("CORDEE_THREADS") or "1"
    environment.setdefault("OMP_WAIT_POLICY", "passive")  # what waits by spinning takes the cores from its neighbours
    device = environment.get("CORDEE_DEVICE", "auto")
    gpu = visible_devices(environment.get("CORDEE_WORKER", ""), device, environment, count_gpus())
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu


def _work(settings: WorkerSettings, lifeline: Lifeline, previous: PostMortem | None) -> int:
    from cordee.rpc.v1 import worker_pb2 as pb
    from cordee.worker.departure import Departure
    from cordee.worker.listener import Listener
    from cordee.worker.prober import Prober
    from cordee.worker.session import Leave, Session
    from cordee.worker.session_state import WorkerIdentity

    try:
        listener = Listener(settings.mesh_host)
    except OSError as error:
        sys.stderr.write(f"cordee: cannot listen on {settings.mesh_host} (CORDEE_MESH_HOST): {error}\n")
        return exit_codes.CRASHED
    identity = WorkerIdentity(
        settings.job,
        settings.worker,
        settings.incarnation,
        listener.address,
        os.getpid(),
        previous=None if previous is None else pb.PostMortem(**previous.fields()),
    )
    session = Session(identity, settings.coordinator, settings.credentials, orphan_seconds=settings.orphan_seconds)
    departure = Departure(session, lifeline.ending)
    faults = _faults(settings, session, listener, lifeline)
    session.on_probe = Prober(listener.cut, session.post).start
    session.start()
    # From here on the coordinator is being reached in the background; NumPy and the trainer are imported meanwhile.
    try:
        from cordee.trainer.elastic import runtime
        from cordee.worker.membership import WorkerMembership
        from cordee.worker.script import describe_failure, is_machine_fault, name_failure, run_script

        membership = WorkerMembership(
            session, listener, settings, on_connected=lifeline.became_member, on_committed=lifeline.committed
        )
        departure.break_off = membership.break_off
        if faults is not None:
            faults.connections = membership.connections
        departure.saving = runtime.saving
        try:
            source = _source(settings, session)
            settings.output.mkdir(parents=True, exist_ok=True)
            os.chdir(source)
            runtime.install(membership)
            run_script(source, settings.script, settings.args)
            runtime.conclude()
            where = _deliver(settings, session)
            last_word = pb.WorkerMessage(finished=membership.last_word(where))
        except Leave:
            raise
        except BaseException as error:
            departure.finishing()
            exception, trace = describe_failure(error, settings.source)
            sys.stderr.write(trace)
            if is_machine_fault(error):
                lifeline.because(name_failure(error))
                words = "the machine's fault, not the script's: worth another start"
                departure.end(exit_codes.CRASHED, f"cordee: {words}\n")
            failed = pb.ScriptFailed(exception=exception, traceback=trace, step=membership.step)
            departure.end(session.finish(pb.WorkerMessage(script_failed=failed)))
        departure.finishing()
        code = session.finish(last_word)
    except Leave as leave:
        departure.finishing()
        if leave.code == exit_codes.DRAINED:
            _leave_output(settings)
        departure.end(leave.code, f"cordee: {leave.message}\n")
    session.close()
    listener.close()
    return code


def _faults(settings: WorkerSettings, session: Session, listener: Listener, lifeline: Lifeline) -> Faults | None:
    """Lets the coordinator inject faults into this process, if the job allows it."""
    from cordee.rpc.v1 import worker_pb2 as pb

    def note(text: str) -> None:
        session.post(pb.WorkerMessage(note=pb.Note(kind="fault", message=text)))

    if not settings.chaos:
        session.on_fault = lambda fault: note(f"{fault.kind} is refused: this job allows no faults (chaos: true)")
        return None
    from cordee.worker.faults import Faults

    faults = Faults(
        activity=session.activity,
        listener=listener,
        coordinator=settings.coordinator,
        checkpoints=Path(settings.checkpoints),
        agent=lifeline.agent,
        note=note,
    )
    session.on_fault = faults.inject
    return faults


def _leave_output(settings: WorkerSettings) -> None:
    """Brings what the script has put out so far, as far as that can be done in the time there is."""
    from cordee.worker.delivery import LEAVING_SECONDS, OUTPUT, deliver, gather, num_files
    from cordee.worker.uplink import Uplink, read_token

    def refused(text: str) -> None:
        sys.stderr.write(f"cordee: {text}\n")

    began = time.monotonic()
    uplink = Uplink.from_environment(os.environ, lambda: read_token(os.environ) or settings.token)
    if uplink is not None:
        parcels = gather(settings.workdir, (OUTPUT,), until=began + LEAVING_SECONDS / 2)
        there = deliver(uplink, parcels, refused, until=began + LEAVING_SECONDS, leaving=True)
        uplink.close()
        found = num_files(settings.workdir, OUTPUT)
        if len(there) < found:
            refused(f"{found - len(there)} of the script's {found} files in its output folder stay here")


def _deliver(settings: WorkerSettings, session: Session) -> Callable[[Path], str]:
    """Brings the job's result to the coordinator, if that is not where it was written: where each file is now."""
    from cordee.rpc.v1 import worker_pb2 as pb
    from cordee.worker.delivery import deliver, gather
    from cordee.worker.uplink import Uplink, read_token

    uplink = Uplink.from_environment(os.environ, lambda: read_token(os.environ) or settings.token)
    if uplink is None:
        return str

    def refused(text: str) -> None:
        sys.stderr.write(f"cordee: {text}\n")
        session.post(pb.WorkerMessage(note=pb.Note(kind="result_failed", message=fit(text))))

    there = deliver(uplink, gather(settings.workdir), refused)
    uplink.close()
    return lambda path: there.get(path.relative_to(settings.workdir).as_posix(), "")


def _source(settings: WorkerSettings, session: Session) -> Path:
    """The unpacked source; nothing is fetched when a worker of this job has been here before."""
    if settings.source.is_dir():
        return settings.source
    if settings.image_source:
        raise FileNotFoundError(
            f"the workers' image has no folder {settings.image_source}, where spec.sourceFrom.image.path says that the "
            "source lies"
        )
    from cordee.worker.source import ensure_source

    return ensure_source(
        settings.source_root, settings.bundle, lambda: session.fetch_bundle(silence_seconds=settings.orphan_seconds)
    )


if __name__ == "__main__":
    sys.exit(main())
