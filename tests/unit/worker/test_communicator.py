"""Laws of the exchange: the same bits in every world, and a world that is broken is broken for all, at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordee.trainer.elastic import tree
from cordee.trainer.elastic.protocols import Communicator, PeerLostError
from cordee.trainer.elastic.tree import Span
from cordee.worker import communicator as communicator_module
from cordee.worker.communicator import TcpCommunicator
from cordee.worker.plan import CHUNK_BYTES, ONE_ROUND_BYTES, SHARED_BYTES
from cordee.worker.reduction import OutOfStepError
from cordee.worker.streams import SharedStream
from cordee.worker.testing import connected, in_threads, successes

Array = np.ndarray[Any, Any]

LARGE = ONE_ROUND_BYTES  # elements: of any type that is more bytes than go to everybody


def tree_sum(terms: Sequence[Array]) -> Array:
    """The sum by the definition of the tree: neighbours are paired, level by level; an odd one out goes up as it is."""
    level = list(terms)
    while len(level) > 1:
        level = [level[i] + level[i + 1] if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
    return level[0]


def partials_of(gradients: Sequence[Array], rank: int, size: int) -> dict[Span, Array]:
    """The partial sums that `rank` holds of the shards' gradients."""
    num_shards = len(gradients)
    cover = tree.cover(*tree.deal(num_shards, size)[rank], num_shards)
    return {span: tree_sum(gradients[span.start : min(span.stop, num_shards)]).copy() for span in cover}


def gradients_of(num_shards: int, elements: int, dtype: str = "float32", seed: int = 0) -> list[Array]:
    """Gradients of very different magnitudes, so that another order of additions gives other bits."""
    rng = np.random.default_rng(seed)
    scale = 2 if dtype == "float16" else 6
    return [
        (rng.standard_normal(elements) * 10.0 ** rng.uniform(-scale, scale, elements)).astype(dtype)
        for _ in range(num_shards)
    ]


def reduce_everywhere(
    world: Sequence[TcpCommunicator], gradients: Sequence[Array], *, in_place: bool = False
) -> list[Array]:
    """Every worker's result."""
    size, num_shards = len(world), len(gradients)

    def work(rank: int) -> Array:
        partials = partials_of(gradients, rank, size)
        out = partials[max(partials)] if in_place and partials else np.full_like(gradients[0], 99)
        headers = world[rank].all_reduce(partials, out, num_shards=num_shards, header=b"%d" % rank * rank)
        assert headers == [b"%d" % peer * peer for peer in range(size)]
        return out

    return successes(in_threads(size, work))


def check(communicator: Communicator) -> Communicator:
    """What mypy checks here: that it is what the elastic step asks for."""
    return communicator


@pytest.mark.parametrize("size", range(1, 9))
def test_the_bits_depend_on_the_shards_alone(size: int) -> None:
    with connected(size) as world:
        check(world[0])
        for num_shards in range(1, 17):
            # To everybody; slices over TCP; slices through shared memory.
            lengths = (33, LARGE + 5, SHARED_BYTES // 4 + num_shards)
            for elements in lengths if num_shards in {1, 3, 8, 13} else lengths[:1]:
                gradients = gradients_of(num_shards, elements, seed=num_shards)
                expected = tree_sum(gradients).tobytes()
                for result in reduce_everywhere(world, gradients, in_place=num_shards % 2 == 0):
                    assert result.tobytes() == expected


@pytest.mark.parametrize("sharing", [(), (0, 1, 2)])
@pytest.mark.parametrize("num_shards", [3, 5, 8])
def test_what_is_begun_goes_on_beside_and_keeps_its_partial_sums(num_shards: int, sharing: tuple[int, ...]) -> None:
    """A worker that begins its exchanges, one that makes them at once, and one that does both, are in one world."""
    pieces = [gradients_of(num_shards, elements, seed=elements) for elements in (7, SHARED_BYTES // 4, LARGE + 3)]
    with connected(3, sharing=sharing) as world:

        def work(rank: int) -> list[bytes]:
            handed = [partials_of(gradients, rank, 3) for gradients in pieces]
            before = [{span: partial.tobytes() for span, partial in partials.items()} for partials in handed]
            outs = [np.full_like(gradients[0], 99) for gradients in pieces]
            for number, (partials, out) in enumerate(zip(handed, outs, strict=True)):
                if number < rank:
                    world[rank].begin(partials, out, num_shards=num_shards)
                else:
                    world[rank].all_reduce(partials, out, num_shards=num_shards, keep=True)
            world[rank].finish()
            after = [{span: partial.tobytes() for span, partial in partials.items()} for partials in handed]
            assert before == after
            return [out.tobytes() for out in outs]

        for results in successes(in_threads(3, work)):
            assert results == [tree_sum(gradients).tobytes() for gradients in pieces]


def test_what_goes_wrong_beside_is_raised_by_whoever_waits_for_it() -> None:
    gradients = gradients_of(2, LARGE)
    with connected(2) as world:
        out = np.empty_like(gradients[0])
        world[0].begin(partials_of(gradients, 0, 2), out, num_shards=2)
        world[1].close()
        with pytest.raises(PeerLostError):
            world[0].finish()
        world[0].begin(partials_of(gradients, 0, 2), out, num_shards=2)  # training goes on to the next exchange
        with pytest.raises(PeerLostError):
            world[0].all_reduce(partials_of(gradients, 0, 2), out, num_shards=2)


def test_a_communicator_is_closed_in_the_middle_of_what_was_begun() -> None:
    gradients = gradients_of(2, LARGE)
    with connected(2) as world:
        for _ in range(3):
            world[0].begin(partials_of(gradients, 0, 2), np.empty_like(gradients[0]), num_shards=2)
        world[0].close()
        assert not [thread for thread in threading.enumerate() if thread.name == "cordee-exchange"]
        with pytest.raises(PeerLostError):
            world[1].all_reduce(partials_of(gradients, 1, 2), np.empty_like(gradients[0]), num_shards=2)


def test_another_order_would_give_other_bits() -> None:
    """Otherwise the test above would prove nothing."""
    gradients = gradients_of(8, 1000)
    assert np.sum(gradients, axis=0).tobytes() != tree_sum(gradients).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("sharing", [(), (0, 1, 2), (0, 2)])
def test_every_type_every_way_and_several_chunks(dtype: str, sharing: tuple[int, ...]) -> None:
    elements = 3 * (CHUNK_BYTES // np.dtype(dtype).itemsize) + 7
    in_place = dtype != "float32"
    gradients = gradients_of(7, elements, dtype)
    with connected(3, sharing=sharing) as world:
        for rank in range(3):
            expected = tuple(peer for peer in sharing if peer != rank) if rank in sharing else ()
            assert world[rank].shared_with == expected
        for result in reduce_everywhere(world, gradients, in_place=in_place):
            assert result.tobytes() == tree_sum(gradients).tobytes()


@settings(max_examples=25)
@given(st.integers(0, 3 * ONE_ROUND_BYTES // 4), st.integers(1, 9), st.booleans(), st.integers(0, 2**32 - 1))
def test_any_length(elements: int, num_shards: int, in_place: bool, seed: int) -> None:
    gradients = gradients_of(num_shards, elements, seed=seed)
    with connected(3) as world:
        for result in reduce_everywhere(world, gradients, in_place=in_place):
            assert result.tobytes() == tree_sum(gradients).tobytes()


def test_a_vector_of_several_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(communicator_module, "SEGMENT_BYTES", SHARED_BYTES)
    gradients = gradients_of(5, 5 * SHARED_BYTES // 8 + 1)
    with connected(3) as world:
        for in_place in (False, True):
            for result in reduce_everywhere(world, gradients, in_place=in_place):
                assert result.tobytes() == tree_sum(gradients).tobytes()


def test_sizes_may_change_from_call_to_call() -> None:
    with connected(3) as world:
        for elements in (5, LARGE, 0, 3 * LARGE, 1, SHARED_BYTES, LARGE, 2 * SHARED_BYTES):
            gradients = gradients_of(5, elements)
            for result in reduce_everywhere(world, gradients):
                assert result.tobytes() == tree_sum(gradients).tobytes()


def test_headers_of_any_length_come_by_rank() -> None:
    with connected(3) as world:
        for lengths in ((0, 0, 0), (1, 0, 100_000), (3_000_000, 2_000_000, 0)):
            headers = [os.urandom(length) for length in lengths]
            gradients = gradients_of(4, 10)

            def work(rank: int, headers: list[bytes] = headers, gradients: list[Array] = gradients) -> list[bytes]:
                partials = partials_of(gradients, rank, 3)
                return world[rank].all_reduce(partials, np.empty(10, "float32"), num_shards=4, header=headers[rank])

            assert successes(in_threads(3, work)) == [headers] * 3


@pytest.mark.parametrize("elements", [100, LARGE, SHARED_BYTES])
def test_a_slow_worker_gets_what_the_fast_ones_sent_long_ago(elements: int) -> None:
    """And a fast one that has everything may close, while others still receive."""
    gradients = gradients_of(4, elements)
    go = threading.Event()
    with connected(4) as world:

        def work(rank: int) -> bytes:
            if rank == 3:
                assert go.wait(10)
            elif rank == 0:
                threading.Timer(0.2, go.set).start()
            out = np.empty(elements, "float32")
            world[rank].all_reduce(partials_of(gradients, rank, 4), out, num_shards=4)
            world[rank].close()
            return out.tobytes()

        assert successes(in_threads(4, work)) == [tree_sum(gradients).tobytes()] * 4


def test_state_goes_from_peer_to_peer() -> None:
    rng = np.random.default_rng(0)
    buffers = [rng.random(length).astype(np.float32) for length in (0, 1, 3_000_001, 0, 17)]
    buffers += [
        np.arange(5, dtype=np.int64),
        np.zeros(0, np.float64),
        *(np.full(3, i % 256, np.uint8) for i in range(500)),
    ]
    with connected(3) as world:

        def work(rank: int) -> Any:
            if rank == 1:
                world[1].send_states([0, 2], b"meta of the state", buffers)
                return None
            meta, received = world[rank].recv_states([1])[0]
            assert meta == b"meta of the state"
            for buffer, data in zip(buffers, received, strict=True):
                assert data.nbytes == buffer.nbytes
                np.testing.assert_array_equal(np.frombuffer(data, buffer.dtype), buffer)
            return None

        successes(in_threads(3, work))
        # The streams are whole: a reduction works after it.
        gradients = gradients_of(4, 1000)
        for result in reduce_everywhere(world, gradients):
            assert result.tobytes() == tree_sum(gradients).tobytes()


def test_state_without_buffers_is_its_meta() -> None:
    with connected(2) as world:
        received = successes(
            in_threads(2, lambda rank: world[1].recv_states([0])[0] if rank else world[0].send_states([1], b"", []))
        )
        assert received[1] == (b"", [])


def test_an_abort_from_another_thread_ends_a_blocked_exchange_for_all() -> None:
    with connected(3) as world:
        gradients = gradients_of(3, LARGE)
        blocked = threading.Barrier(3)

        def work(rank: int) -> float:
            if rank == 2:  # never comes to the exchange
                blocked.wait()
                time.sleep(0.05)  # lets the others block; if they have not yet, the law holds all the same
                world[0].abort("the coordinator says that rank 2 is lost")
                return time.monotonic()
            blocked.wait()
            with pytest.raises(PeerLostError) as caught:
                world[rank].all_reduce(partials_of(gradients, rank, 3), gradients[0].copy(), num_shards=3)
            if rank == 0:
                assert "the coordinator says" in str(caught.value)
            return time.monotonic()

        first, second, aborted = successes(in_threads(3, work))
        assert max(first, second) - aborted < 0.5
        with pytest.raises(PeerLostError, match="the coordinator says"):
            world[0].all_reduce(partials_of(gradients, 0, 3), gradients[0].copy(), num_shards=3)


def test_an_abort_between_calls_is_raised_by_the_next_one() -> None:
    with connected(2) as world:
        world[0].abort("stop")
        world[0].abort("a second reason changes nothing")
        for call in (lambda: world[0].recv_states([1])[0], lambda: world[0].send_states([1], b"", [])):
            with pytest.raises(PeerLostError, match="stop"):
                call()
        with pytest.raises(PeerLostError) as caught:  # the peer sees it as well
            world[1].recv_states([0])[0]
        assert caught.value.ranks == (0,)


def test_a_closed_communicator_says_so_and_can_be_closed_and_aborted_again() -> None:
    with connected(2) as world:
        world[0].close()
        world[0].close()
        world[0].abort("late")
        with pytest.raises(PeerLostError, match="closed"):
            world[0].recv_states([1])[0]
        with pytest.raises(PeerLostError):
            world[1].recv_states([0])[0]


def test_an_exception_in_the_middle_breaks_the_world_rather_than_the_sums() -> None:
    """A signal handler that raises leaves the streams half read; nobody may go on with them."""
    with connected(2) as world:
        gradients = gradients_of(2, LARGE)

        class Interrupted(BaseException):
            pass

        def interrupt(signum: int, frame: object) -> None:
            raise Interrupted

        previous = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupted):
                world[0].all_reduce(partials_of(gradients, 0, 2), gradients[0].copy(), num_shards=2)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        with pytest.raises(PeerLostError, match="half done"):
            world[0].recv_states([1])[0]
        with pytest.raises(PeerLostError):
            world[1].all_reduce(partials_of(gradients, 1, 2), gradients[0].copy(), num_shards=2)


def test_workers_that_do_different_things_are_told() -> None:
    for elements in ((10, 11), (10, LARGE)):
        with connected(2) as world:

            def work(rank: int, elements: tuple[int, ...] = elements, world: list[TcpCommunicator] = world) -> None:
                gradients = gradients_of(2, elements[rank])
                world[rank].all_reduce(partials_of(gradients, rank, 2), gradients[0].copy(), num_shards=2)

            errors = in_threads(2, work)
            assert any(isinstance(error, OutOfStepError) and "same on every worker" in str(error) for error in errors)
            assert all(isinstance(error, OutOfStepError | PeerLostError) for error in errors)


def test_mistaken_buffers_are_refused_before_anything_is_sent() -> None:
    with connected(2) as world:
        gradients = gradients_of(2, 10)
        partials = partials_of(gradients, 0, 2)
        (span,) = partials
        for wrong, message in (
            ({}, "partial sums of"),
            ({span: np.ones(9, np.float32)}, "like `out`"),
            ({span: np.ones(10, np.float64)}, "like `out`"),
            ({span: np.ones(20, np.float32)[::2]}, "contiguous"),
        ):
            with pytest.raises(ValueError, match=message):
                world[0].all_reduce(wrong, np.empty(10, np.float32), num_shards=2)
        with pytest.raises(TypeError, match="cannot sum"):
            world[0].all_reduce({span: np.ones(10, "M8[s]")}, np.ones(10, "M8[s]"), num_shards=2)
        with pytest.raises(ValueError, match="no peer"):
            world[0].recv_states([0])[0]
        for result in reduce_everywhere(world, gradients):
            assert result.tobytes() == tree_sum(gradients).tobytes()


def test_a_closed_world_leaves_nothing_open() -> None:
    with connected(4) as world:
        reduce_everywhere(world, gradients_of(4, SHARED_BYTES))
    before = open_things()
    for _ in range(3):
        with connected(4) as world:
            reduce_everywhere(world, gradients_of(4, SHARED_BYTES))
            assert open_things() > before, "it must count what it is about"
    assert open_things() <= before


def open_things() -> int:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return len(list(Path("/proc/self/fd").iterdir())) + sum("memfd" in line or "/dev/shm" in line for line in maps)


class Processes:
    """Workers as processes of their own, which reduce until one of them is killed."""

    def __init__(self, size: int, elements: int, compute_seconds: float, *options: str) -> None:
        script = Path(__file__).with_name("mesh_worker.py")
        self.workers = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank), str(elements), str(compute_seconds), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        addresses = [self.read(rank) for rank in range(size)]
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(addresses) + "\n")
            worker.stdin.flush()
        for rank in range(size):
            assert "running" in json.loads(self.read(rank))

    def read(self, rank: int) -> str:
        output = self.workers[rank].stdout
        assert output is not None
        return output.readline().strip()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                assert pipe is not None
                pipe.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "elements", "compute_seconds", "killed"),
    [(2, 100, 0.0, 1), (4, 4_000_000, 0.0, 0), (4, 4_000_000, 0.0, 3), (3, 100, 0.05, 1), (3, 1_000_000, 0.05, 2)],
)
def test_a_killed_process_is_seen_by_all_survivors_at_once(
    size: int, elements: int, compute_seconds: float, killed: int
) -> None:
    with Processes(size, elements, compute_seconds) as world:
        os.kill(world.workers[killed].pid, signal.SIGKILL)
        at = time.monotonic()
        for rank in range(size):
            if rank == killed:
                continue
            heard = json.loads(world.read(rank))
            assert heard["ranks"], "it must say whose connection broke"
            assert rank not in heard["ranks"]
            assert heard["again"] == [heard["ranks"]] * 2, "every later call raises it again"
            # A fraction of a second, on a machine that may be busy; what the worker computes meanwhile is not ours.
            assert heard["seen"] - at < 1.0 + compute_seconds


@pytest.mark.slow
def test_a_worker_that_only_stands_still_is_not_lost() -> None:
    with Processes(2, 100, 0.0) as world:
        world.workers[1].send_signal(signal.SIGSTOP)
        try:
            assert world.workers[0].stdout is not None
            os.set_blocking(world.workers[0].stdout.fileno(), False)
            time.sleep(0.3)
            assert world.workers[0].stdout.readline() == ""
        finally:
            world.workers[1].send_signal(signal.SIGCONT)


def test_a_reset_connection_is_a_lost_peer() -> None:
    with connected(2) as world:
        (link,) = world[0]._links.values()
        link.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        link.connection.close()
        with pytest.raises(PeerLostError) as caught:
            world[1].recv_states([0])[0]
        assert caught.value.ranks == (0,)


@pytest.mark.parametrize("num_shards", [2, 4])
def test_what_lies_in_shared_memory_is_not_overwritten_while_a_slow_peer_reads(
    num_shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox is reused by the next exchange, at once. Of two shards, rank 0 of three holds none: nobody needs its
    sums to go on, and yet everybody has to wait until it has read theirs."""
    received = SharedStream.received

    def slowly(stream: SharedStream) -> None:
        # Rank 0 finishes its slice first; from then on nobody waits for it, and it takes long to read the others'.
        if stream._task.rank != 0:
            time.sleep(0.001)
        elif stream._passed_on == stream._task.plan.length(0):
            time.sleep(0.02)
        received(stream)

    monkeypatch.setattr(SharedStream, "received", slowly)
    many = [gradients_of(num_shards, SHARED_BYTES // 4, seed=seed) for seed in range(5)]
    expected = [tree_sum(gradients).tobytes() for gradients in many]
    with connected(3) as world:

        def work(rank: int) -> list[bytes]:
            held = [partials_of(gradients, rank, 3) for gradients in many]
            results = [np.empty_like(gradients[0]) for gradients in many]
            for partials, out in zip(held, results, strict=True):
                world[rank].all_reduce(partials, out, num_shards=num_shards)
            return [out.tobytes() for out in results]

        for results in successes(in_threads(3, work)):
            assert results == expected


@pytest.mark.slow
def test_a_killed_worker_is_seen_although_its_forked_child_lives_on() -> None:
    with Processes(2, 100, 0.0, "--fork") as world:
        child = int(world.read(1))
        try:
            os.kill(world.workers[1].pid, signal.SIGKILL)
            at = time.monotonic()
            heard = json.loads(world.read(0))
            assert heard["ranks"] == [1]
            assert heard["seen"] - at < 1.0
            os.kill(child, 0)  # it is still there
        finally:
            os.kill(child, signal.SIGKILL)


def test_state_comes_from_several_peers_at_once() -> None:
    size = 4
    with connected(size) as world:

        def work(rank: int) -> Any:
            if rank < 2:
                return world[rank].send_states([2, 3], b"from %d" % rank, [np.full(700_000 + rank, rank, np.float32)])
            return [(meta, [bytes(data) for data in buffers]) for meta, buffers in world[rank].recv_states([1, 0])]

        expected = [(b"from %d" % rank, [np.full(700_000 + rank, rank, np.float32).tobytes()]) for rank in (1, 0)]
        assert successes(in_threads(size, work)) == [None, None, expected, expected]


def test_a_peer_that_dies_while_it_gives_state_is_named() -> None:
    with connected(3) as world:

        def work(rank: int) -> Any:
            if rank == 0:
                return world[0].send_states([2], b"", [np.zeros(1000, np.float32)])
            if rank == 1:
                world[1].close()
                return None
            with pytest.raises(PeerLostError) as lost:
                world[2].recv_states([0, 1])
            return lost.value.ranks

        assert 1 in successes(in_threads(3, work))[2]
