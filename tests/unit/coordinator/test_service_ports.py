"""Where a coordinator listens."""

from __future__ import annotations

import socket

import pytest

from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.ports import bind


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answers_second_part_does_not_wait_for_the_first_to_be_confirmed(host: str) -> None:
    try:
        listener = bind(host, 0, 0)
    except CoordinatorError:
        pytest.skip(f"{host} is no address of this machine")
    with listener, socket.create_connection(listener.getsockname()[:2], timeout=10):
        listener.setblocking(True)
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
