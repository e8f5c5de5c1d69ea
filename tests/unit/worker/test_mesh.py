"""Laws of the mesh: members find each other whoever comes first; nobody else gets in, or in the way."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cordee.trainer.elastic.protocols import PeerLostError
from cordee.worker import handshake
from cordee.worker.abort import Abort
from cordee.worker.communicator import TcpCommunicator, connect
from cordee.worker.handshake import Hello, mesh_key
from cordee.worker.listener import Listener, parse_address
from cordee.worker.mesh import Peer
from cordee.worker.testing import KEY, connected, in_threads, listeners, successes


def join(listener: Listener, rank: int, members: list[Peer], **changes: Any) -> TcpCommunicator:
    options: dict[str, Any] = {"generation": 1, "rank": rank, "members": members, "key": KEY, "timeout_seconds": 10.0}
    return connect(listener, **(options | changes))


def close(communicators: list[Any]) -> None:
    for communicator in communicators:
        communicator.close()


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_every_pair_is_connected(size: int) -> None:
    with connected(size) as world:
        for rank, communicator in enumerate(world):
            assert (communicator.rank, communicator.size) == (rank, size)

        def meet(rank: int) -> list[tuple[bytes, list[memoryview]]]:
            for peer in range(rank):
                world[rank].send_states([peer], f"{rank} to {peer}".encode(), [])
            return [world[rank].recv_states([peer])[0] for peer in range(rank + 1, size)]

        for rank, heard in enumerate(successes(in_threads(size, meet))):
            assert [meta for meta, _ in heard] == [f"{peer} to {rank}".encode() for peer in range(rank + 1, size)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_it_does_not_matter_who_comes_first(order: tuple[int, ...]) -> None:
    with listeners(3) as (opened, members):
        begun = [threading.Event() for _ in order]

        def work(rank: int) -> TcpCommunicator:
            place = order.index(rank)
            if place:
                assert begun[place - 1].wait(10)
            begun[place].set()
            return join(opened[rank], rank, members)

        close(successes(in_threads(3, work)))


def test_a_peer_that_knows_the_next_world_earlier_waits_for_us() -> None:
    with listeners(3) as (opened, members):
        # Ranks 0 and 1 still try to form generation 1 with rank 2, which is in generation 2 already, with rank 0.
        next_members = [members[0], replace(members[2], rank=1)]
        told = threading.Event()
        abort = Abort()

        def work(rank: int) -> Any:
            if rank == 2:
                told.set()
                return join(opened[2], 1, next_members, generation=2)
            if rank == 1:
                with pytest.raises(PeerLostError):
                    join(opened[1], 1, members, timeout_seconds=5)
                return None
            assert told.wait(5)
            threading.Timer(0.3, abort.set, ["rank 1 is lost"]).start()
            with pytest.raises(PeerLostError, match="rank 1 is lost"):
                join(opened[0], 0, members, abort=abort)
            return join(opened[0], 0, next_members, generation=2)

        here, _, there = successes(in_threads(3, work))
        assert (here.size, there.size) == (2, 2)
        close([here, there])


def test_a_stale_generation_is_refused_and_disturbs_nobody() -> None:
    with listeners(3) as (opened, members):
        pair = members[:2]

        def work(rank: int) -> Any:
            if rank == 2:  # comes from the world before, in which it had rank 1
                stale = [members[0], replace(members[2], rank=1)]
                return join(opened[2], 1, stale, generation=4)
            return join(opened[rank], rank, pair, generation=5)

        first, second, refused = in_threads(3, work)
        assert isinstance(refused, PeerLostError)
        # Refused in words when rank 0 was there to do so, by a closed door when it had gone on.
        assert refused.ranks == (0,)
        close(successes([first, second]))


def test_a_stale_worker_is_told_why() -> None:
    with listeners(2) as (opened, members):
        abort = Abort()

        def work(rank: int) -> Any:
            try:
                return join(opened[rank], rank, members, generation=5 - rank, abort=abort if rank == 0 else None)
            finally:
                abort.set("enough")

        _, refused = in_threads(2, work)
        assert isinstance(refused, PeerLostError)
        assert "later generation" in str(refused)


@pytest.mark.parametrize(
    "wrong",
    [
        {"incarnation": "another"},
        {"worker": "job-w9"},
    ],
)
def test_another_process_in_a_members_place_is_refused(wrong: dict[str, str]) -> None:
    with listeners(2) as (opened, members):
        mistaken = [members[0], replace(members[1], **wrong)]
        abort = Abort()

        def work(rank: int) -> Any:
            if rank == 0:
                return join(opened[0], 0, mistaken, abort=abort)
            try:
                return join(opened[1], 1, members)
            finally:
                abort.set("the stranger has its answer")

        waiting, refused = in_threads(2, work)
        assert isinstance(refused, PeerLostError)
        assert "another world" in str(refused)
        assert isinstance(waiting, PeerLostError)


def test_a_wrong_key_is_refused_on_either_side_and_disturbs_nobody() -> None:
    with listeners(3) as (opened, members):
        pair = members[:2]
        outcome = threading.Event()

        def work(rank: int) -> Any:
            if rank == 2:
                intruder = [members[0], Peer(1, members[1].worker, members[1].incarnation, opened[2].address)]
                try:
                    return join(opened[2], 1, intruder, key=mesh_key("guessed"))
                finally:
                    outcome.set()
            if rank == 1:
                assert outcome.wait(10)
            return join(opened[rank], rank, pair)

        first, second, refused = in_threads(3, work)
        assert isinstance(refused, PeerLostError)
        close(successes([first, second]))


def test_strangers_who_babble_or_stay_silent_disturb_nobody() -> None:
    with listeners(2) as (opened, members):
        where = parse_address(opened[0].address)
        strangers = [socket.create_connection(where) for _ in range(20)]
        for index, stranger in enumerate(strangers):
            if index % 2:
                stranger.sendall(os.urandom(4096))
            if index % 3 == 0:
                stranger.close()
        close(successes(in_threads(2, lambda rank: join(opened[rank], rank, members))))
        for stranger in strangers:
            stranger.close()


def test_more_strangers_than_room_disturb_nobody() -> None:
    with listeners(2) as (opened, members):
        where = parse_address(opened[0].address)
        strangers = [socket.create_connection(where) for _ in range(200)]
        close(successes(in_threads(2, lambda rank: join(opened[rank], rank, members))))
        for stranger in strangers:
            stranger.close()


def test_strangers_make_room_and_known_peers_that_wait_do_not() -> None:
    with listeners(1) as (opened, _):
        listener, where = opened[0], parse_address(opened[0].address)
        strangers = [socket.create_connection(where) for _ in range(128)]
        listener.accept()
        known = listener.incoming[0]
        known.claim = Hello(2, 2, 1, 0, b"", b"")
        strangers.append(socket.create_connection(where))
        (fresh,) = listener.accept()
        assert known in listener.incoming
        assert fresh in listener.incoming
        assert len(listener.incoming) == 128
        for stranger in strangers:
            stranger.close()


def test_a_second_connection_of_a_member_is_refused_and_the_first_one_stands() -> None:
    with listeners(3) as (opened, members):
        abort = Abort()

        def dial() -> tuple[socket.socket, int | None]:
            connection = socket.create_connection(parse_address(members[0].address), timeout=10)
            nonce = handshake.open_challenge(connection.recv(handshake.CHALLENGE_BYTES, socket.MSG_WAITALL))
            assert nonce is not None
            message = handshake.hello(KEY, nonce, Hello(1, 3, 1, 0, members[1].identity, members[0].identity))
            connection.sendall(message)
            verdict = connection.recv(handshake.ANSWER_BYTES, socket.MSG_WAITALL)
            return connection, handshake.check_answer(KEY, nonce, message, verdict)

        def work(rank: int) -> Any:
            if rank == 0:
                return join(opened[0], 0, members, abort=abort)  # rank 2 never comes
            first, accepted = dial()
            second, refused = dial()
            first.setblocking(False)
            with pytest.raises(BlockingIOError):
                first.recv(1)
            assert second.recv(1) == b""
            abort.set("enough")
            first.close()
            second.close()
            return accepted, refused

        lost, statuses = in_threads(2, work)
        assert isinstance(lost, PeerLostError)
        assert statuses == (handshake.ACCEPTED, handshake.DUPLICATE)


def test_a_recorded_hello_is_of_no_use() -> None:
    claim = Hello(1, 2, 1, 0, handshake.identity("a", "1"), handshake.identity("b", "2"))
    _, first = handshake.challenge()
    _, second = handshake.challenge()
    recorded = handshake.hello(KEY, first, claim)
    assert handshake.open_hello(KEY, first, recorded) == claim
    assert handshake.open_hello(KEY, second, recorded) is None
    assert handshake.open_hello(mesh_key("other"), first, recorded) is None


@pytest.mark.parametrize("position", [0, 9, 20, 40, 80, 100, 130])
def test_a_changed_bit_of_a_hello_or_answer_is_found(position: int) -> None:
    claim = Hello(1, 2, 1, 0, handshake.identity("a", "1"), handshake.identity("b", "2"))
    _, nonce = handshake.challenge()
    hello = bytearray(handshake.hello(KEY, nonce, claim))
    verdict = bytearray(handshake.answer(KEY, nonce, bytes(hello), handshake.ACCEPTED))
    assert handshake.check_answer(KEY, nonce, bytes(hello), bytes(verdict)) == handshake.ACCEPTED
    hello[position] ^= 1
    assert handshake.open_hello(KEY, nonce, bytes(hello)) is None
    assert handshake.check_answer(KEY, nonce, bytes(hello), bytes(verdict)) is None


def test_an_answer_is_not_a_hello_sent_back() -> None:
    """The two directions are signed under different labels, so nobody can be made to talk to itself."""
    _, nonce = handshake.challenge()
    claim = Hello(1, 2, 1, 0, bytes(32), bytes(32))
    hello = handshake.hello(KEY, nonce, claim)
    assert handshake.check_answer(KEY, nonce, hello, b"\0" + hello[-32:]) is None


def test_names_cannot_be_shifted_into_each_other() -> None:
    assert handshake.identity("ab", "c") != handshake.identity("a", "bc")


def test_a_dead_peers_address_fails_at_once() -> None:
    with listeners(2) as (opened, members):
        opened[0].close()
        start = time.monotonic()
        with pytest.raises(PeerLostError, match=r"job-w0 \(rank 0\).*refused") as caught:
            join(opened[1], 1, members)
        assert caught.value.ranks == (0,)
        assert time.monotonic() - start < 1


def test_whoever_does_not_come_is_named() -> None:
    with listeners(3) as (opened, members):

        def work(rank: int) -> Any:
            return join(opened[rank], rank, members, timeout_seconds=0.5)

        results = in_threads(2, work)  # rank 2 never comes
        for result in results:
            assert isinstance(result, PeerLostError)
        assert any(result.ranks == (2,) and "within 0.5 s" in str(result) for result in results)


def test_a_peer_that_dies_while_others_are_awaited_is_reported_at_once() -> None:
    with listeners(3) as (opened, members):
        stands = threading.Event()

        def work(rank: int) -> Any:
            if rank == 1:
                # Speaks the handshake with rank 0, then dies; rank 2 never comes.
                with socket.create_connection(parse_address(members[0].address)) as connection:
                    nonce = handshake.open_challenge(connection.recv(handshake.CHALLENGE_BYTES))
                    assert nonce is not None
                    claim = Hello(1, 3, 1, 0, members[1].identity, members[0].identity)
                    connection.sendall(handshake.hello(KEY, nonce, claim))
                    assert len(connection.recv(handshake.ANSWER_BYTES)) == handshake.ANSWER_BYTES
                    stands.set()
                return time.monotonic()
            try:
                join(opened[0], 0, members, timeout_seconds=15)
            except PeerLostError as error:
                assert stands.is_set()
                return error.ranks, time.monotonic()
            raise AssertionError("connected with a peer that never came")

        (ranks, seen), died = successes(in_threads(2, work))
        assert ranks == (1,)
        assert seen - died < 0.5


def test_an_abort_from_another_thread_ends_the_wait() -> None:
    with listeners(2) as (opened, members):
        abort = Abort()
        threading.Timer(0.1, abort.set, ["the coordinator says rank 1 is lost", [1]]).start()
        start = time.monotonic()
        with pytest.raises(PeerLostError, match="the coordinator says") as caught:
            join(opened[0], 0, members, abort=abort)
        assert caught.value.ranks == (1,)
        assert time.monotonic() - start < 2


def test_an_abort_set_before_connecting_counts() -> None:
    with listeners(2) as (opened, members):
        abort = Abort()
        abort.set("too late")
        with pytest.raises(PeerLostError, match="too late"):
            join(opened[0], 0, members, abort=abort)


def test_attempts_that_fail_leave_no_descriptor_open() -> None:
    with listeners(3) as (opened, members):
        before = len(list(Path("/proc/self/fd").iterdir()))
        for generation in range(1, 6):
            in_threads(
                2, lambda rank, g=generation: join(opened[rank], rank, members, generation=g, timeout_seconds=0.1)
            )
        for listener in opened:
            for incoming in list(listener.incoming):
                listener.drop(incoming)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("address", ["", "localhost", ":80", "host:", "host:port", "[::1]"])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_address(address)


def test_ipv6_addresses_are_bracketed() -> None:
    assert parse_address("[::1]:80") == ("::1", 80)
    try:
        listener = Listener("::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with listener:
        assert parse_address(listener.address)[0] == "::1"


def test_a_world_is_given_in_rank_order() -> None:
    with listeners(2) as (opened, members):
        with pytest.raises(ValueError, match="rank order"):
            join(opened[0], 0, members[::-1])
        with pytest.raises(ValueError, match="rank 2 is not in a world of 2"):
            join(opened[0], 2, members)
