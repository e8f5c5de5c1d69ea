"""A training script on the stage: a rendezvous, a heal, a step's exchange and its commit, as pure moves.

What `trainer/elastic` does with arrays and sockets; a state is a number that follows from the one before it, and every
commit is checked: all shards, each once, all from the same state, and the same everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.stage_parts import Process

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.trainer.elastic.tree import deal
from cordee.worker.activity import COMPUTING, EXCHANGING, MEETING, OUTSIDE

if TYPE_CHECKING:
    from tests.model.stage import Stage

__all__ = ["LAST_STEP", "act", "break_off", "join", "world_of"]

LAST_STEP = 4
SHARDS = 5
STEP_SECONDS = 0.05


def join(stage: Stage, process: Process, world: pb.World) -> None:
    process.world, process.mode, process.healed, process.abort = world, "training", False, None
    process.sent, process.got = set(), {}
    process.deed_at = stage.now
    process.session.activity.members = tuple(m.worker for m in world.members)


def arrive(stage: Stage, process: Process, reason: pb.ArrivalReason, suspects: tuple[str, ...] = ()) -> None:
    process.mode = "meeting"
    process.session.activity.enter(MEETING)
    process.session.has_state, process.session.step = process.step is not None, process.step or 0
    process.session.change_pending = process.session.change_pending and reason == pb.ARRIVAL_REASON_JOIN
    arrived = pb.Arrived(
        generation=process.session.generation,
        step=process.step or 0,
        has_state=process.step is not None,
        reason=reason,
        suspects=suspects,
    )
    stage.post(process, arrived=arrived)


def break_off(stage: Stage, process: Process, suspects: tuple[str, ...]) -> None:
    fresh = process.step is None
    arrive(stage, process, pb.ARRIVAL_REASON_JOIN if fresh else pb.ARRIVAL_REASON_PEER_LOST, suspects)


def act(stage: Stage, process: Process) -> bool:
    """The script's next deed."""
    if not process.alive or process.frozen or stage.now < process.deed_at:
        return False
    if process.mode == "importing":
        arrive(stage, process, pb.ARRIVAL_REASON_JOIN)
        return True
    if process.mode == "outside":
        process.mode = "finished"
        assert process.step is not None
        finished = pb.Finished(step=process.step, samples=process.step, weights_sha256=f"{process.weights:x}")
        stage.post(process, finished=finished)
        return True
    return process.mode == "training" and train(stage, process)


def world_of(stage: Stage, process: Process) -> list[Process]:
    assert process.world is not None
    return [stage.everybody[m.incarnation] for m in process.world.members]


def train(stage: Stage, process: Process) -> bool:
    assert process.world is not None
    mates = world_of(stage, process)
    gone = tuple(
        m.worker
        for m in mates
        if m is not process
        and ((not m.alive and not m.vanished) or (m.alive and m.generation > process.generation)
             or (m.alive and m.generation == process.generation and m.mode != "training"))
    )  # fmt: skip
    if process.abort is not None:
        break_off(stage, process, process.abort)
        return True
    if not process.healed:
        return heal(stage, process, mates, gone)
    assert process.step is not None
    step = process.step + 1
    rank = process.rank
    for other, mate in enumerate(mates):
        if other == rank or other in process.sent:
            continue
        if mate.alive and mate.mode == "training" and mate.generation == process.generation:
            if not process.sent:
                process.header = process.session.change_pending
            shards = deal(SHARDS, len(mates))[rank]
            assert mate.world == process.world, "one world at one generation"
            assert rank not in mate.got.setdefault(step, {}), "no contribution twice"
            mate.got[step][rank] = (shards, process.header, process.weights)
        elif not mate.vanished:
            continue
        process.sent.add(other)
        process.session.activity.enter(EXCHANGING, step)
        return True
    got = process.got.get(step, {})
    if len(process.sent) == len(mates) - 1 and len(got) == len(mates) - 1:
        commit(stage, process, got, len(mates))
        return True
    if gone:
        break_off(stage, process, gone)
        return True
    return False


def heal(stage: Stage, process: Process, mates: list[Process], gone: tuple[str, ...]) -> bool:
    assert process.world is not None
    steps = [m.step if m.has_state else None for m in process.world.members]
    furthest = max((s for s in steps if s is not None), default=None)
    giver = steps.index(furthest) if furthest is not None else 0
    if steps[process.rank] == furthest and (furthest is not None or process.rank == 0):
        if process.step is None:
            process.step, process.weights = stage.saved, stage.committed[stage.saved]
    else:
        source = mates[giver]
        if not (source.alive and source.healed and source.generation == process.generation and not source.frozen):
            if gone:
                break_off(stage, process, gone)
            return bool(gone)
        assert source.step is not None
        assert process.step is None or process.step <= source.step, "nobody goes back"
        process.step, process.weights = source.step, source.weights
    process.healed = True
    process.session.has_state, process.session.step = True, process.step
    go_on(stage, process)
    return True


def commit(stage: Stage, process: Process, got: dict[int, tuple[tuple[int, int], bool, int]], size: int) -> None:
    assert process.step is not None
    step = process.step + 1
    own = (deal(SHARDS, size)[process.rank], process.header or (size == 1 and process.session.change_pending))
    parts = [*((shards, flag) for shards, flag, _ in got.values()), own]
    covered = sorted(shard for shards, _ in parts for shard in range(*shards))
    assert covered == list(range(SHARDS)), "every shard, exactly once"
    assert all(base == process.weights for _, _, base in got.values()), "all from the same state"
    process.weights = hash((process.weights, step)) & 0xFFFFFFFF
    assert stage.committed.setdefault(step, process.weights) == process.weights, "the same everywhere"
    process.step = step
    process.sent, process.header = set(), False
    process.got.pop(step, None)
    process.session.step = step
    if stage.saves and process.rank == 0:
        stage.saved = max(stage.saved, step)
    go_on(stage, process)
    if process.mode == "training" and any(flag for _, flag in parts):
        arrive(stage, process, pb.ARRIVAL_REASON_CHANGE)


def go_on(stage: Stage, process: Process) -> None:
    """The next step's share is computed; or the run is over."""
    assert process.step is not None
    process.deed_at = stage.now + STEP_SECONDS
    if process.step >= LAST_STEP:
        process.mode = "outside"
        process.session.activity.enter(OUTSIDE)
    else:
        process.session.activity.enter(COMPUTING, process.step + 1)
