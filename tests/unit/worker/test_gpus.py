"""The exchange between GPUs: the bits of the CPU's way, and a loss is seen by all. Without GPUs, on CuPy's stand-in."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.trainer.elastic import tree
from cordee.trainer.elastic.protocols import PeerLostError
from cordee.worker import communicator as communicator_module
from cordee.worker import nccl
from cordee.worker.device_reduction import make_moves, reduce
from cordee.worker.plan import ONE_ROUND_BYTES, make_plan
from cordee.worker.reduction import OutOfStepError
from cordee.worker.testing import connected, in_threads, successes

sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))
from cuda_support import cupy_of_tests

LARGE = ONE_ROUND_BYTES // 4 + 37


@pytest.fixture
def xp(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.config.getoption("--device") == "cuda":
        pytest.skip("workers are threads here: NCCL wants a GPU for each")
    with cupy_of_tests("stand-in") as module:
        yield module


@given(st.integers(1, 20), st.integers(1, 9), st.one_of(st.integers(0, 200), st.integers(20_000, 10**7)))
def test_what_is_sent_is_what_is_received_and_what_the_cpus_way_moves(shards: int, size: int, elements: int) -> None:
    plan = make_plan(shards, size, elements, 4)
    moves = [make_moves(shards, size, elements, 4, rank) for rank in range(size)]
    for a in range(size):
        start = 0
        for peer, _, first, last in moves[a].partials_received:
            assert peer != a
            assert first == start  # no hole in the scratch memory, and nothing twice
            start = last
        assert moves[a].scratch == start
        for b in range(size):
            sent = [(span, last - first) for peer, span, first, last in moves[a].partials_sent if peer == b]
            received = [(span, last - first) for peer, span, first, last in moves[b].partials_received if peer == a]
            assert sent == received
            if a != b:
                assert sum(length for _, length in sent) * 4 == plan.partials_bytes(a, b)
            finished = [(first, last) for peer, first, last in moves[b].sums_received if peer == a]
            assert (b in moves[a].sums_sent) == bool(finished)
            assert finished in ([], [plan.slices[a]])
            assert bool(finished) == (a != b and not plan.one_round and plan.length(a) > 0)


class Queues:
    """Lines between arrays of one process, for all ranks in turn: first all send, then all receive."""

    def __init__(self) -> None:
        self.ways: dict[tuple[int, int], list[Any]] = defaultdict(list)
        self.come = threading.Barrier(1)

    def at(self, rank: int) -> Any:
        outer = self

        class Lines:
            def exchange(self, sent: Any, received: Any) -> None:
                for peer, buffer in sent:
                    outer.ways[rank, peer].append(buffer.copy())
                outer.come.wait()
                for peer, buffer in received:
                    buffer[...] = outer.ways[peer, rank].pop(0)
                outer.come.wait()

        return Lines()


@pytest.mark.parametrize("size", range(1, 7))
@pytest.mark.parametrize("elements", [0, 5, LARGE])
def test_the_sums_are_the_trees_in_every_world(size: int, elements: int) -> None:
    for shards in (1, 2, 5, 8):
        gradients = gradients_of(shards, elements)
        expected = tree_sum(gradients).tobytes()
        queues = Queues()
        queues.come = threading.Barrier(size)

        def work(rank: int, shards: int = shards, gradients: Any = gradients, queues: Queues = queues) -> bytes:
            partials = partials_of(gradients, rank, size)
            out = next(iter(partials.values())) if rank % 2 and partials else np.full(elements, 9, np.float32)
            scratch = np.empty(make_moves(shards, size, elements, 4, rank).scratch, np.float32)
            reduce(np, shards, size, rank, partials, out, scratch, queues.at(rank))
            return out.tobytes()

        assert set(successes(in_threads(size, work))) == {expected}


def tree_sum(terms: Any) -> Any:
    level = list(terms)
    while len(level) > 1:
        level = [level[i] + level[i + 1] if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
    return level[0]


def partials_of(gradients: Any, rank: int, size: int) -> Any:
    cover = tree.cover(*tree.deal(len(gradients), size)[rank], len(gradients))
    return {span: tree_sum(gradients[span.start : min(span.stop, len(gradients))]).copy() for span in cover}


def gradients_of(shards: int, elements: int) -> Any:
    rng = np.random.default_rng([shards, elements])
    return [
        (rng.standard_normal(elements) * 10.0 ** rng.uniform(-6, 6, elements)).astype(np.float32) for _ in range(shards)
    ]


def everywhere(xp: Any, world: Any, gradients: Any) -> list[bytes]:
    def work(rank: int) -> bytes:
        partials = {span: xp.asarray(each) for span, each in partials_of(gradients, rank, len(world)).items()}
        out = xp.zeros(gradients[0].size, np.float32)
        headers = world[rank].all_reduce(partials, out, num_shards=len(gradients), header=b"%d" % rank)
        assert headers == [b"%d" % peer for peer in range(len(world))]
        return bytes(out.get().tobytes())

    return successes(in_threads(len(world), work))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_world_of_gpus_sums_to_the_same_bits(xp: Any, size: int) -> None:
    with connected(size) as world:
        for shards, elements in ((3, 7), (8, LARGE), (2, LARGE + 1)):
            gradients = gradients_of(shards, elements)
            assert set(everywhere(xp, world, gradients)) == {tree_sum(gradients).tobytes()}
            assert not any(each._gpus.apart for each in world)


def test_partial_sums_stay_where_they_are_to_stay(xp: Any) -> None:
    gradients = gradients_of(7, LARGE)

    def work(rank: int) -> None:
        before = partials_of(gradients, rank, 2)
        partials = {span: xp.asarray(each) for span, each in before.items()}
        world[rank].all_reduce(partials, xp.zeros(LARGE, np.float32), num_shards=7, keep=True)
        for span, each in before.items():
            assert partials[span].get().tobytes() == each.tobytes()

    with connected(2) as world:
        successes(in_threads(2, work))


def test_gpus_that_nothing_joins_go_through_the_host(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xp.cuda.nccl, "get_version", lambda: 0)
    monkeypatch.setattr(communicator_module, "on_host", lambda a: a if isinstance(a, np.ndarray) else a.get())
    with connected(2) as world:
        gradients = gradients_of(5, LARGE)
        for _ in range(2):
            assert set(everywhere(xp, world, gradients)) == {tree_sum(gradients).tobytes()}
            assert all(each._gpus.apart for each in world)


def test_a_worker_whose_nccl_fails_takes_all_to_the_host(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = xp.cuda.nccl.NcclCommunicator

    def failing(size: int, place: bytes, rank: int) -> Any:
        if rank == 1:
            made(size, place, rank)
            raise xp.cuda.nccl.NcclError("no network")
        return made(size, place, rank)

    monkeypatch.setattr(xp.cuda.nccl, "NcclCommunicator", failing)
    monkeypatch.setattr(communicator_module, "on_host", lambda a: a if isinstance(a, np.ndarray) else a.get())
    with connected(2) as world:
        gradients = gradients_of(5, 100)
        assert set(everywhere(xp, world, gradients)) == {tree_sum(gradients).tobytes()}


def lose(xp: Any, world: Any, how: Any, *, rounds: int) -> list[Any]:
    """Rank 2 is lost while the others wait for it in NCCL's exchange."""
    gradients = gradients_of(6, LARGE)
    for _ in range(rounds):
        everywhere(xp, world, gradients)
    joined = world[2]._gpus._joined
    joined.exchange = lambda sent, received: how()

    def work(rank: int) -> Any:
        partials = {span: xp.asarray(each) for span, each in partials_of(gradients, rank, 3).items()}
        return world[rank].all_reduce(partials, xp.zeros(LARGE, np.float32), num_shards=6)

    return in_threads(3, work)


def test_a_loss_is_seen_at_the_mesh_and_ends_what_waits_in_nccl(xp: Any) -> None:
    with connected(3) as world:

        def die() -> None:
            for connection in world[2].connections().values():
                connection.shutdown(2)

        results = lose(xp, world, die, rounds=1)
        for rank in (0, 1):
            assert isinstance(results[rank], PeerLostError)
            assert 2 in results[rank].ranks
            assert world[rank]._gpus._joined._aborted
            with pytest.raises(PeerLostError):
                world[rank].all_reduce({}, xp.zeros(1, np.float32), num_shards=6)


def test_a_word_from_the_coordinator_ends_what_waits_in_nccl(xp: Any) -> None:
    with connected(3) as world:

        def wait() -> None:
            for communicator in world:
                communicator.abort("worker 2 is lost")

        results = lose(xp, world, wait, rounds=1)
        assert all(isinstance(result, PeerLostError) and "worker 2 is lost" in str(result) for result in results[:2])


def test_workers_out_of_step_are_told_so(xp: Any) -> None:
    with connected(2) as world:
        results = in_threads(
            2,
            lambda rank: world[rank].all_reduce(
                {tree.Span(0, rank): xp.zeros(5 + rank, np.float32)}, xp.zeros(5 + rank, np.float32), num_shards=2
            ),
        )
        assert any(isinstance(result, OutOfStepError) for result in results)
        assert all(isinstance(result, (OutOfStepError, PeerLostError)) for result in results)


def test_workers_agree_on_nccl_or_on_none() -> None:
    def told(version: int, gpu: bytes, place: bytes = b"") -> bytes:
        return nccl._OFFER.pack(version, gpu, place)

    place = b"p" * 128
    assert nccl.agree([told(23203, b"a", place), told(23203, b"b")]) == place
    assert nccl.agree([told(23203, b"a", place), told(23203, b"a")]) is None  # one GPU for two
    assert nccl.agree([told(23203, b"a", place), told(22501, b"b")]) is None
    assert nccl.agree([told(0, b""), told(0, b"")]) is None
