"""Probes: what is reached, what is not, and what they leave behind at those who are probed."""

from __future__ import annotations

import queue
import socket
import time

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker.communicator import connect
from cordee.worker.listener import Listener
from cordee.worker.mesh import Peer
from cordee.worker.prober import Prober, reach
from cordee.worker.testing import KEY, in_threads, listeners, successes

WAIT_SECONDS = 20.0


def members(*peers: Peer) -> list[pb.Member]:
    return [pb.Member(worker=peer.worker, incarnation=peer.incarnation, address=peer.address) for peer in peers]


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def waiting_at(listener: Listener) -> int:
    """How many connections wait in a listener's queue, dead ones included."""
    with socket.socket(fileno=socket.dup(listener.fileno())) as accepting:
        count = 0
        while True:
            try:
                accepting.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


def test_a_process_that_accepts_nobody_is_reached_and_one_that_is_gone_or_cut_off_is_not() -> None:
    with listeners(3) as (_, world):
        peers = members(*world)
        gone = pb.Member(worker="w", incarnation="gone", address=closed_port())
        wrong = pb.Member(worker="w", incarnation="wrong", address="nowhere")
        never = time.monotonic() + 3600.0
        cut = {peers[1].worker: never, peers[2].worker: never - 7200.0}
        reached = reach([*peers, gone, wrong], cut, 0.2)
        assert reached == {peers[0].incarnation, peers[2].incarnation}
        assert reach([], {}) == frozenset()


def test_what_is_known_by_the_time_that_it_is_over_counts() -> None:
    with listeners(1) as (_, world):
        assert reach(members(*world), {}, 0.0) == {world[0].incarnation}


def test_probes_do_not_disturb_the_next_rendezvous() -> None:
    with listeners(2) as (opened, world):
        for _ in range(50):
            assert len(reach(members(*world), {})) == 2
        arguments = {"generation": 1, "members": world, "key": KEY, "timeout_seconds": WAIT_SECONDS}
        results = in_threads(2, lambda rank: connect(opened[rank], rank=rank, **arguments))
        for communicator in successes(results):
            communicator.close()
        # Rank 1 accepted nobody, and finds them the next time.
        assert opened[1].accept() == opened[1].incoming == opened[0].incoming == []


def test_peers_that_answer_are_left_alone_until_all_of_them_might() -> None:
    answers: queue.SimpleQueue[pb.WorkerMessage] = queue.SimpleQueue()
    with listeners(2) as (opened, world):
        here, away = members(*world)
        cut = {away.worker: time.monotonic() + 3600.0}
        prober = Prober(cut, answers.put)

        def ask() -> list[str]:
            prober.start(pb.Probe(peers=[here, away]))
            return list(answers.get(timeout=WAIT_SECONDS).reached.incarnations)

        assert ask() == [here.incarnation]
        assert (waiting_at(opened[0]), waiting_at(opened[1])) == (1, 0)
        assert [ask() for _ in range(3)] == [[]] * 3
        assert waiting_at(opened[0]) == 0
        cut.clear()
        assert ask() == sorted([here.incarnation, away.incarnation])
        assert (waiting_at(opened[0]), waiting_at(opened[1])) == (1, 1)


def test_one_probe_at_a_time() -> None:
    answers: queue.SimpleQueue[pb.WorkerMessage] = queue.SimpleQueue()
    with listeners(1) as (_, world):
        [peer] = members(*world)
        cut = {peer.worker: time.monotonic() + 3600.0}
        prober = Prober(cut, answers.put)
        for _ in range(5):
            prober.start(pb.Probe(peers=[peer]))
        assert not answers.get(timeout=WAIT_SECONDS).reached.incarnations
        cut.clear()
        prober.start(pb.Probe(peers=[peer]))
        assert list(answers.get(timeout=WAIT_SECONDS).reached.incarnations) == [peer.incarnation]
        assert answers.empty()
