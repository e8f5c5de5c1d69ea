"""The client: it finds the coordinators that live, trusts no stale file, and says in a sentence what is wrong.

What answers is the coordinator itself; only where the point is that something else answers, a stranger does.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import pytest

from cordee.coordinator import views
from cordee.coordinator.bundle import pack
from cordee.coordinator.cli.log_lines import lines_to_the_end
from cordee.coordinator.client import (
    Client,
    ClientError,
    ConflictError,
    Endpoint,
    InvalidError,
    JobNotFoundError,
    UnauthorizedError,
    UnreachableError,
    read_endpoint,
)
from cordee.coordinator.discovery import connect
from cordee.coordinator.endpoint import reach_hint, reason
from cordee.coordinator.folders import default_state, runs_folder
from cordee.coordinator.service.embedded import EmbeddedCoordinator
from cordee.coordinator.service.rest import models
from cordee.coordinator.spec import parse_job

RAISES = "raise RuntimeError('out of snow')\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without coordinators."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in ("CORDEE_SERVER", "CORDEE_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[EmbeddedCoordinator]:
    with EmbeddedCoordinator(tmp_path / "state") as running:
        yield running


@pytest.fixture
def client(coordinator: EmbeddedCoordinator, tmp_path: Path) -> Iterator[Client]:
    with Client(Endpoint(coordinator.rest_url, coordinator.token, tmp_path / "state")) as there:
        yield there


def document(name: str = "falls", workers: str = "1") -> dict[str, Any]:
    head = {"apiVersion": "cordee.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}}
    return parse_job({**head, "spec": {"script": "train.py", "workers": workers}}, bundled=True).to_document()


def submit(client: Client, folder: Path, name: str = "falls", script: str = RAISES) -> views.JobView:
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(script)
    bundle = pack(folder)
    return client.submit(document(name), bundle.data, bundle.sha256)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_endpoint(state: Path, url: str, token: str = "t" * 20) -> None:
    state.mkdir(parents=True, exist_ok=True)
    (state / "token").write_text(token)
    (state / "endpoint.json").write_text(json.dumps({"url": url, "pid": os.getpid(), "token_file": "token"}))


@pytest.mark.parametrize(
    ("view", "model"),
    [
        (views.JobView, models.JobView),
        (views.WorkerCounts, models.WorkersView),
        (views.Member, models.MemberView),
        (views.Event, models.EventView),
        (views.JobFailure, models.JobError),
        (views.InjectedFault, models.FaultView),
        (views.LogLine, models.LogView),
        (views.Placement, models.Placement),
        (views.Plan, models.Plan),
    ],
)
def test_the_client_s_shapes_are_the_server_s(view: type, model: Any) -> None:
    assert list(get_type_hints(view)) == list(model.model_fields)


@pytest.mark.slow
def test_a_job_is_submitted_watched_and_read(client: Client, tmp_path: Path) -> None:
    plan = client.dry_run(document())
    assert plan["valid"]
    assert plan["placement"]["launcher"] == "process"
    job = submit(client, tmp_path / "source")
    seen = list(client.watch(job["id"]))
    assert seen[-1]["state"] == "failed"
    error = seen[-1]["error"]
    assert error is not None
    assert error["exception"] == "RuntimeError: out of snow"
    assert error["traceback"].startswith("Traceback (most recent call last)")
    assert client.job("falls")["id"] == job["id"] == client.jobs()[0]["id"]
    lines = [line["line"] for line in client.logs(job["id"]) if line["stream"] == "stderr"]
    assert "RuntimeError: out of snow" in lines
    assert [line["line"] for line in client.logs(job["id"], follow=True) if line["stream"] == "stderr"] == lines
    with pytest.raises(ConflictError):
        client.cancel(job["id"])


def test_refusals_are_errors_of_their_kind(client: Client) -> None:
    with pytest.raises(JobNotFoundError, match="nope"):
        client.job("nope")
    with pytest.raises(JobNotFoundError):
        client.scale("no/pe?x", 1, 2)
    with pytest.raises(JobNotFoundError):
        list(client.watch("nope"))
    broken = document()
    broken["spec"]["threads"] = 0
    with pytest.raises(InvalidError, match=r"spec\.threads is 0; it must be at least 1"):
        client.dry_run(broken)
    with pytest.raises(InvalidError, match="SHA-256"):
        client.submit(document(), b"not that", "0" * 64)


def test_a_wrong_token_is_said_to_be_so(coordinator: EmbeddedCoordinator) -> None:
    for token in ("", "wrong" * 5):
        with Client(Endpoint(coordinator.rest_url, token)) as stranger, pytest.raises(UnauthorizedError) as caught:
            stranger.jobs()
        assert "token" in caught.value.message
        assert "set CORDEE_TOKEN" in caught.value.hint
        assert "what the file 'token' in the coordinator's state folder holds" in caught.value.hint


def test_nobody_there_is_a_sentence_with_the_address_and_the_command_to_try(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError, match=f"coordinator at {url}: nobody listens there") as caught:
        connect(url)
    assert caught.value.hint == "start one: cordee coordinator"
    with pytest.raises(UnreachableError, match="no coordinator runs on the state folder") as caught:
        connect(state=tmp_path / "none")
    assert caught.value.hint == f"start one: cordee coordinator --state {tmp_path / 'none'}"
    with connect() as coordinators, pytest.raises(UnreachableError, match="no coordinator runs here"):
        coordinators.find("job")


@pytest.mark.parametrize(
    ("url", "said", "words", "hint"),
    [
        (
            "https://h:1",
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch (_ssl.c:1006)",
            "its certificate is not trusted (Hostname mismatch)",
            "CORDEE_CA (--ca) names the file",
        ),
        (
            "https://h:1",
            "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF (_ssl.c:1)",
            "it ended the connection",
            "port",
        ),
        ("https://h:1", "[Errno 104] Connection reset by peer", "it ended the connection", "(kubectl port-forward)"),
        ("https://h:1", "[SSL: WRONG_VERSION_NUMBER] wrong (_ssl.c:1)", "it does not speak TLS", "port-forward"),
        ("https://h:1", "[Errno -2] Name or service not known", "this name is not known here", "port-forward"),
        (
            "http://h:1",
            "Server disconnected without sending a response.",
            "it ended the connection",
            "TLS: https://h:1",
        ),
        ("http://h:1", "[Errno 111] Connection refused", "nobody listens there", "start one: cordee coordinator"),
    ],
)
def test_what_a_library_says_of_a_connection_becomes_words_and_a_hint(
    url: str, said: str, words: str, hint: str
) -> None:
    assert reason(OSError(said)) == words
    assert hint in reach_hint(Endpoint(url, ""), words)


@pytest.mark.parametrize("address", ["", "localhost:80", "ftp://x", "http://", "http://[::1", "http://a:x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ClientError, match="not the address of a coordinator"):
        connect(address or "not an address")


def test_a_named_state_folder_a_server_and_the_environment_lead_to_the_coordinator(
    coordinator: EmbeddedCoordinator, tmp_path: Path
) -> None:
    with connect(state=tmp_path / "state") as found:
        assert found.jobs() == []
    environ = {"CORDEE_SERVER": coordinator.rest_url + "/", "CORDEE_TOKEN": coordinator.token}
    with connect(environ=environ) as found:
        assert found.service.jobs() == []
    with connect(coordinator.rest_url, environ={"CORDEE_TOKEN": coordinator.token}) as found:
        assert found.jobs() == []
    with connect(state=tmp_path / "state", environ={"CORDEE_SERVER": "http://127.0.0.1:1"}) as found:
        assert found.jobs() == []  # what is typed goes before what the environment says


def test_no_proxy_sees_the_token_of_a_coordinator_on_this_machine(
    client: Client, monkeypatch: pytest.MonkeyPatch, coordinator: EmbeddedCoordinator
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{free_port()}")
    with Client(Endpoint(coordinator.rest_url, coordinator.token)) as local:
        assert local.jobs() == []


@pytest.mark.slow
def test_without_a_name_all_living_coordinators_are_meant_and_the_running_job_of_a_name_wins(tmp_path: Path) -> None:
    waits = "import time\ntime.sleep(600)\n"
    state, run_state = default_state(), runs_folder() / "20260101-run"
    with EmbeddedCoordinator(state), EmbeddedCoordinator(run_state), connect() as found:
        service, run = found.clients
        assert found.service is service
        submit(run, tmp_path / "source", "same", waits)
        ended = submit(service, tmp_path / "source", "same")
        list(service.watch(ended["id"]))
        running = found.find("same")
        assert running[0] is run
        assert found.find(ended["id"])[1]["state"] == "failed"
        assert [job["id"] for job in found.jobs()] == [ended["id"], running[1]["id"]]
        with pytest.raises(JobNotFoundError, match="there is no job 'other'"):
            found.find("other")


def test_a_run_takes_no_new_jobs() -> None:
    with EmbeddedCoordinator(runs_folder() / "20260101-run"), connect() as found:
        assert len(found.clients) == 1
        with pytest.raises(UnreachableError, match="no coordinator runs here"):
            _ = found.service


class Speechless(http.server.BaseHTTPRequestHandler):
    """A coordinator that lives, and breaks off whenever a job is submitted."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        body = json.dumps({"status": "ok"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_submission_without_an_answer_is_sent_again_under_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cordee.coordinator.client._SUBMIT_AGAIN_SECONDS", 0.3)
    monkeypatch.setattr(Speechless, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Speechless) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}", "t" * 20)
            unknown = pytest.raises(UnreachableError, match="whether it has taken the job in is not known")
            with Client(endpoint) as client, unknown as refused:
                client.submit(document(), b"source", "0" * 64)
        finally:
            server.shutdown()
            thread.join()
    assert "cordee jobs" in refused.value.hint
    assert len(Speechless.asked) > 1
    assert len({asked["key"] for asked in Speechless.asked}) == 1


class Restarted(Speechless):
    """A coordinator that ends a job's log in good order in the middle of it, as one does that is upgraded."""

    told: ClassVar[list[list[float]]] = []
    states: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if self.path.startswith("/v1/jobs/a/logs"):
            lines = [
                {"time": at, "worker": "a-w0", "rank": 0, "stream": "stdout", "line": ""} for at in self.told.pop(0)
            ]
            body = "".join(json.dumps(line) + "\n" for line in lines).encode()
        else:
            body = json.dumps({"state": self.states.pop(0)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_log_is_followed_to_the_job_s_end_and_not_to_the_answer_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cordee.coordinator.cli.log_lines._RETRY_SECONDS", 0.0)
    monkeypatch.setattr(Restarted, "told", [[1.0, 2.0], [], [1.0, 2.0, 3.0]])
    monkeypatch.setattr(Restarted, "states", ["running", "recovering", "succeeded"])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Restarted) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with Client(Endpoint(f"http://127.0.0.1:{server.server_port}", "t" * 20)) as client:
                lines = list(lines_to_the_end(client, "a", patience_seconds=0.0, stop=threading.Event()))
        finally:
            server.shutdown()
            thread.join()
    assert [line["time"] for line in lines] == [1.0, 2.0, 3.0]
    assert Restarted.told == Restarted.states == []
    gone = Client(Endpoint(f"http://127.0.0.1:{server.server_port}", "t" * 20))
    with gone, pytest.raises(UnreachableError, match="nobody listens there"):
        list(lines_to_the_end(gone, "a", patience_seconds=0.0, stop=threading.Event()))


class Stranger(http.server.BaseHTTPRequestHandler):
    """Something else that listens where a coordinator did."""

    def do_GET(self) -> None:
        body = b"<html>hello</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_stale_endpoint_is_not_trusted(stranger: str) -> None:
    write_endpoint(default_state(), f"http://127.0.0.1:{free_port()}")
    write_endpoint(runs_folder() / "a", stranger)
    write_endpoint(runs_folder() / "b", "not a url")
    (runs_folder() / "c").mkdir()
    (runs_folder() / "c" / "endpoint.json").write_text("{")
    with connect() as found:
        assert found.clients == []


def test_a_stranger_at_the_address_is_told_from_a_coordinator(stranger: str) -> None:
    with pytest.raises(UnreachableError, match="is not a Cordee coordinator"):
        connect(stranger)
    # A 404 in somebody else's words is no "there is no such job".
    with Client(Endpoint(stranger, "")) as elsewhere, pytest.raises(UnreachableError, match="answered 501, not as"):
        elsewhere.cancel("job")


def test_a_coordinator_that_took_over_a_stale_port_is_passed_over_not_taken_for_the_old_one(
    coordinator: EmbeddedCoordinator,
) -> None:
    write_endpoint(runs_folder() / "old", coordinator.rest_url, token="an old token of another")
    with EmbeddedCoordinator(default_state()), connect() as found:
        assert found.jobs() == []
        with pytest.raises(JobNotFoundError):
            found.find("job")


def test_an_endpoint_file_says_where_and_with_which_token(tmp_path: Path) -> None:
    write_endpoint(tmp_path / "s", "http://127.0.0.1:1", "token" * 4)
    assert read_endpoint(tmp_path / "s") == Endpoint("http://127.0.0.1:1", "token" * 4, tmp_path / "s")
    assert read_endpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("url", "token", "exposed"),
    [
        ("http://10.0.0.7:8470", "t", True),
        ("http://training.example", "t", True),
        ("http://training.example", "", False),
        ("https://training.example", "t", False),
        ("http://127.0.0.1:8470", "t", False),
        ("http://localhost:8470", "t", False),
        ("http://[::1]:8470", "t", False),
    ],
)
def test_a_token_is_exposed_where_it_leaves_this_machine_unencrypted(url: str, token: str, exposed: bool) -> None:
    assert Endpoint(url, token).exposes_token is exposed


def test_waiting_for_a_coordinator_ends_when_it_answers_or_time_is_up(coordinator: EmbeddedCoordinator) -> None:
    with Client(Endpoint(coordinator.rest_url, "")) as there, Client(Endpoint("http://127.0.0.1:1", "")) as nowhere:
        assert there.wait_until_alive(5)
        started = time.monotonic()
        assert not nowhere.wait_until_alive(0.3)
        assert time.monotonic() - started < 5
