"""A forwarder against the coordinator's own store of appended files, over connections that break: every byte, once."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from cordee.coordinator.config import Uploads
from cordee.coordinator.service.appends import Appends
from cordee.worker import forwarder as forwarder_module
from cordee.worker.forwarder import Forwarder, folder_id, ledger_arrived, run
from cordee.worker.logfile import LogFile
from cordee.worker.uplink import AwayError, RefusedError, Uplink, read_token


class Server:
    """The coordinator's `Appends` behind HTTP; `trouble` may lose an answer, refuse, or not answer at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trouble: Iterator[str] = iter(())
        self.tokens: list[str] = []
        self.clients: list[Forwarder | Uplink] = []
        appends = Appends(Uploads())
        lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = urlsplit(self.path)
                kind = asked.path.rpartition("/")[2]
                query = {key: values[0] for key, values in parse_qs(asked.query).items()}
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.tokens.append(self.headers["Authorization"])
                trouble = next(outer.trouble, "")
                if trouble == "gone":
                    self.close_connection = True
                    return
                if trouble == "torn":  # it was killed as it wrote
                    body = body[: len(body) // 2]
                if trouble != "busy":
                    with lock:
                        there = asyncio.run(
                            appends.append(outer.folder, "w0", kind, query["name"], int(query["offset"]), body)  # type: ignore[arg-type]
                        )
                if trouble in ("lost", "torn"):
                    self.close_connection = True
                    return
                answer = json.dumps({"offset": there} if trouble != "busy" else {"error": {"message": "busy"}}).encode()
                self.send_response(503 if trouble == "busy" else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None: ...

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1/workers/w0"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def arrived(self, kind: str = "logs") -> bytes:
        files = sorted((self.folder / kind).glob("*"), key=lambda path: path.stat().st_mtime_ns)
        return b"".join(file.read_bytes() for file in files)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "coordinator")
    yield server
    server.close()


def make(server: Server, workdir: Path, said: list[str] | None = None) -> Forwarder:
    forwarder = Forwarder(
        str(workdir), "w0", Uplink(server.url, lambda: "token"), ([] if said is None else said).append
    )
    server.clients.append(forwarder)
    return forwarder


@pytest.mark.parametrize("case", range(8))
def test_whatever_breaks_every_line_arrives_once_and_in_order(
    server: Server, tmp_path: Path, case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder_module, "BATCH_BYTES", 3000)
    rng = random.Random(case)
    workdir = tmp_path / "pod"
    log = LogFile(str(workdir / "logs" / "w0.jsonl"), "w0", max_bytes=60_000)
    forwarder = make(server, workdir)
    server.trouble = iter(rng.choices(["", "lost", "torn", "gone", "busy"], weights=[3, 1, 1, 1, 1], k=200))
    wanted: list[str] = []
    ledger = b"first line\n"
    for number in range(40):
        lines = [f"{number}.{index} " + "ü" * rng.randrange(300) for index in range(rng.randrange(4))]
        log.write(rng.choice(["stdout", "stderr", "agent"]), "i", lines)
        wanted += lines
        ledger += rng.randbytes(rng.randrange(500))
        (workdir / "ledger").mkdir(exist_ok=True, parents=True)
        (workdir / "ledger" / "samples.ledger").write_bytes(ledger)
        if rng.random() < 0.1:  # it dies, and another goes on
            forwarder = make(server, workdir)
        if rng.random() < 0.6:
            try:
                forwarder.bring()
            except AwayError:
                assert ledger_arrived(workdir) <= len(server.arrived("ledger"))
    log.close()
    server.trouble = iter(())
    forwarder.bring()
    assert [json.loads(line)["line"] for line in server.arrived().splitlines()] == wanted
    assert server.arrived("ledger") == ledger
    assert ledger_arrived(workdir) == len(ledger)


def test_lines_of_before_and_after_a_rotation_arrive(server: Server, tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "pod" / "logs" / "w0.jsonl"), "w0", max_bytes=20_000)
    forwarder = make(server, tmp_path / "pod")
    for number in range(100):
        log.write("stdout", "i", [f"{number} " + "x" * 700])
        if number in (3, 30, 31, 70):  # between two of these at most one file begins
            forwarder.bring()
        if number % 20 == 19:
            forwarder.bring()
    forwarder.bring()
    log.close()
    assert len(list((server.folder / "logs").iterdir())) > 2
    shown = [int(json.loads(line)["line"].split()[0]) for line in server.arrived().splitlines()]
    assert sorted(shown) == list(range(100))


def test_half_a_line_is_not_sent(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "pod" / "logs" / "w0.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"line": 1}\n{"li')
    forwarder = make(server, tmp_path / "pod")
    forwarder.bring()
    assert server.arrived() == b'{"line": 1}\n'
    with path.open("r+b") as file:  # the disk was full: the agent has taken it back, and written another
        file.truncate(12)
        file.seek(0, os.SEEK_END)
        file.write(b'{"line": 2}\n')
    forwarder.bring()
    assert server.arrived() == b'{"line": 1}\n{"line": 2}\n'


def test_a_folder_keeps_its_name_and_another_has_another(tmp_path: Path) -> None:
    assert folder_id(str(tmp_path / "a")) == folder_id(str(tmp_path / "a"))
    assert folder_id(str(tmp_path / "a")) != folder_id(str(tmp_path / "b"))
    (tmp_path / "c").write_text("no folder")
    assert len(folder_id(str(tmp_path / "c"))) == 32


def test_it_ends_when_its_agent_has_ended_and_all_is_sent(server: Server, tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "pod" / "logs" / "w0.jsonl"), "w0")
    log.write("stdout", "i", ["one"])
    log.close()
    theirs, ours = os.pipe()
    os.close(ours)
    server.trouble = iter(["lost", "busy", "gone"])
    said: list[str] = []
    assert run(make(server, tmp_path / "pod", said), theirs)
    os.close(theirs)
    assert json.loads(server.arrived())["line"] == "one"


def test_it_gives_up_when_nobody_answers_for_too_long(server: Server, tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "pod" / "logs" / "w0.jsonl"), "w0")
    log.write("stdout", "i", ["one"])
    log.close()
    theirs, ours = os.pipe()
    os.close(ours)
    server.trouble = iter(["busy"] * 100)
    said: list[str] = []
    assert not run(make(server, tmp_path / "pod", said), theirs, end_seconds=0.3)
    os.close(theirs)
    assert len(said) == 1, said
    assert "busy (HTTP 503)" in said[0]


# --- the way there ---


def test_the_token_is_read_for_every_request(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "token"
    environment = {"CORDEE_UPLOADS": server.url, "CORDEE_TOKEN_FILE": str(path), "CORDEE_TOKEN": "not this one"}
    uplink = Uplink.from_environment(environment)
    assert uplink is not None
    server.clients.append(uplink)
    for token in ("first", "second"):
        path.write_text(f"{token}\n")
        uplink.post(f"logs?name={'0' * 32}&offset=0", b"")
    assert server.tokens == ["Bearer first", "Bearer second"]
    path.unlink()
    assert read_token(environment) == ""
    assert read_token({"CORDEE_TOKEN": "plain"}) == "plain"
    assert Uplink.from_environment({}) is None
    with pytest.raises(ValueError, match="no http or https URL"):
        Uplink("ftp://somewhere", lambda: "")


def test_nobody_there_is_away_and_a_refusal_is_final() -> None:
    with pytest.raises(AwayError, match="refused"):
        Uplink("http://127.0.0.1:9/v1/workers/w0", lambda: "").post("logs", b"")

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.send_response(413)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "it is too large"}}')

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        thread = threading.Thread(target=refusing.handle_request)
        thread.start()
        uplink = Uplink(f"http://127.0.0.1:{refusing.server_address[1]}", lambda: "")
        with Path(__file__).open("rb") as file, pytest.raises(RefusedError, match="too large"):
            uplink.put("files/x", file, Path(__file__).stat().st_size, "0" * 64)
        uplink.close()
        thread.join()
