"""What is said when the API server does not answer: the address and the cause, the same every time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from cordee.coordinator.config import Kubernetes
from cordee.k8s import api as module
from cordee.k8s.api import Api
from cordee.k8s.errors import UnreachableError


def connect(folder: Path, server: str) -> Api:
    path = folder / "kubeconfig"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return Api.connect(Kubernetes(kubeconfig=str(path)))


@contextlib.contextmanager
def served(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port where every connection gets this answer, and its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def said(api: Api, *, timeout_seconds: float = 10.0) -> str:
    """What two requests fail with, which is the same."""
    words = set()
    for _ in range(2):
        with pytest.raises(UnreachableError) as caught:
            api.request("GET", "/version", timeout_seconds=timeout_seconds)
        words.add(caught.value.message)
    (message,) = words
    assert "0x" not in message
    assert "urllib3" not in message
    return message


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    message = said(connect(tmp_path, f"https://127.0.0.1:{port}"))
    assert message == f"the API server at 127.0.0.1:{port} cannot be reached: Connection refused"


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    message = said(connect(tmp_path, "https://api.invalid"))
    assert message.startswith("the API server at api.invalid:443 cannot be reached: its name is not found (")


def test_no_answer_in_time(tmp_path: Path) -> None:
    released = threading.Event()
    with served(lambda _: bool(released.wait(60)) and None) as port:
        message = said(connect(tmp_path, f"http://127.0.0.1:{port}"), timeout_seconds=0.2)
        released.set()
    assert message == f"the API server at 127.0.0.1:{port} cannot be reached: it does not answer in time"


def test_no_connection_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECT_SECONDS", 0.2)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        address = listener.getsockname()
        for _ in range(4):  # the queue of those that nobody takes in is full: whoever comes now gets no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        message = said(connect(tmp_path, f"https://127.0.0.1:{address[1]}"))
    assert message == f"the API server at 127.0.0.1:{address[1]} cannot be reached: it does not answer in time"


def test_what_answers_does_not_speak_tls(tmp_path: Path) -> None:
    with served(lambda c: c.sendall(b"220 this is no web server\r\n" * 4)) as port:
        message = said(connect(tmp_path, f"https://127.0.0.1:{port}"))
    assert message == f"the API server at 127.0.0.1:{port} cannot be reached: TLS fails (wrong version number)"


def test_an_answer_that_breaks_off(tmp_path: Path) -> None:
    def half(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")

    with served(half) as port:
        api = connect(tmp_path, f"http://127.0.0.1:{port}")
        stream = api.stream("/api/v1/pods", query={"watch": "true"}, timeout_seconds=10)
        with pytest.raises(UnreachableError) as caught:
            list(stream)
        message = said(api)
    assert message == f"the answer of the API server at 127.0.0.1:{port} broke off: it was closed in the middle"
    wanted = f"the connection to the API server at 127.0.0.1:{port} broke: it was closed in the middle"
    assert caught.value.message == wanted


def test_addresses() -> None:
    assert module._address("https://[fd00::1]:6443") == "[fd00::1]:6443"
    assert module._address("http://name") == "name:80"
