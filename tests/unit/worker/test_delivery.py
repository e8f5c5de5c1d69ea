"""What a drained worker brings in the little time it has: a large file does not keep the small ones from coming."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cordee.worker.delivery import deliver, gather, num_files
from cordee.worker.uplink import Uplink

SIZES = {"a-large": 64 << 20, "b": 3, "c": 2}


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    (tmp_path / "output").mkdir()
    for name, size in SIZES.items():
        with (tmp_path / "output" / name).open("wb") as file:
            file.truncate(size)
    return tmp_path


class Coordinator(HTTPServer):
    """Wants every file; its clock, which is the worker's as well, goes on while the large one comes."""

    now = 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: dict[str, int] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        files = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["files"]
        self._answer({"files": [{"path": file["path"], "state": "wanted"} for file in files]})

    def do_PUT(self) -> None:
        name, left = self.path.rpartition("/")[2], int(self.headers["Content-Length"])
        if left > 1 << 20:
            self.rfile.read(1)
            cast("Coordinator", self.server).now = 5.0
            while self.rfile.read(1 << 20):
                pass
        else:
            cast("Coordinator", self.server).got[name] = len(self.rfile.read(left))
            self._answer({"where": name})

    def _answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    with Coordinator() as server:
        clock = SimpleNamespace(monotonic=lambda: server.now, sleep=lambda _seconds: None)
        monkeypatch.setattr("cordee.worker.delivery.time", clock)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_without_much_time_the_small_ones_are_gone_through(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr("cordee.worker.delivery.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    assert [parcel.name for parcel in gather(workdir, ("output",), until=20.0)] == ["output/c", "output/b"]
    assert [parcel.name for parcel in gather(workdir, ("output",))] == [f"output/{name}" for name in SIZES]
    assert num_files(workdir, "output") == 3


def test_a_large_one_is_given_up_when_the_time_is_over(workdir: Path, coordinator: Coordinator) -> None:
    uplink = Uplink(f"http://127.0.0.1:{coordinator.server_port}/v1/workers/job-w0", lambda: "secret")
    there = deliver(uplink, gather(workdir, ("output",), until=4.0), pytest.fail, until=4.0, leaving=True)
    uplink.close()
    assert sorted(there) == ["output/b", "output/c"]
    assert coordinator.got == {"b": 3, "c": 2}
