"""`cordee fetch`: what a job keeps, from a coordinator that runs and from one that is gone; and nowhere but there."""

import hashlib
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.unit.coordinator.test_cli_commands import Home, make_home, read_until, stop

from cordee.coordinator.client import Client, Endpoint
from cordee.coordinator.downloads import DownloadError, place_below

pytestmark = pytest.mark.slow

KEEPS = """
import os, pathlib
folder = pathlib.Path(os.environ["CORDEE_OUTPUT_DIR"])
(folder / "plots").mkdir()
(folder / "plots" / "loss at the end.txt").write_text("0.25\\n")
(folder / "log.csv").write_text("step,loss\\n" * 1000)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = make_home(tmp_path)
    (tmp_path / "keeps.py").write_text(KEEPS)
    return home


def sums(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_a_job_keeps_is_fetched_and_not_twice(home: Home) -> None:
    service = home.start("coordinator", "--port", "0", "--grpc-port", "0")
    read_until(service.stderr, "submit a job")
    job = home.cordee("submit", "keeps.py", "--workers", "1").stdout.splitlines()[0]
    home.cordee("wait", job)
    listed = home.json("fetch", job, "--list")
    assert [file["path"] for file in listed["files"]] == ["output/log.csv", "output/plots/loss at the end.txt"]
    fetched = home.json("fetch", job)
    assert sums(home.folder / job) == {file["path"]: file["sha256"] for file in fetched["files"]}
    before = (home.folder / job / "output" / "log.csv").stat().st_mtime_ns
    told = home.cordee("fetch", job).stdout
    assert (home.folder / job / "output" / "log.csv").stat().st_mtime_ns == before
    assert told.count("sha256 ") == 2
    home.cordee("fetch", job, "output/plots", "--to", "some")
    assert list(sums(home.folder / "some")) == ["output/plots/loss at the end.txt"]
    assert "keeps no 'result'" in home.cordee("fetch", job, "result", code=102).stderr
    assert stop(service) == 0
    # Its coordinator is gone, its folder is not.
    home.cordee("fetch", job, "--to", "later")
    assert sums(home.folder / "later") == sums(home.folder / job)


class Sender:
    """A coordinator that sends what a test wants, perhaps not all of it."""

    def __init__(self, data: bytes, *, breaks_at: int | None = None, etag: str | None = None) -> None:
        self.data, self.breaks_at = data, breaks_at
        self.etag = etag or f'"{hashlib.sha256(data).hexdigest()}"'
        self.asked: list[httpx2.Headers] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.headers)
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        if request.headers.get("if-range", self.etag) != self.etag:
            start = 0

        def pieces() -> Any:
            yield self.data[start : self.breaks_at]
            if self.breaks_at is not None:
                raise httpx2.ReadError("it broke")

        return httpx2.Response(206 if start else 200, headers={"etag": self.etag}, content=pieces())


def client(sender: Sender) -> Client:
    made = Client(Endpoint("http://127.0.0.1:1", "token"))
    made._http.close()
    made._http = httpx2.Client(base_url="http://127.0.0.1:1", transport=httpx2.MockTransport(sender))
    return made


def test_a_download_that_broke_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data, to = os.urandom(100_000), tmp_path / "weights"
    broken, whole, other = Sender(data, breaks_at=60_000), Sender(data), Sender(os.urandom(50_000))
    with client(broken) as broke, pytest.raises(Exception, match="it broke"):
        broke.fetch("job", "result/weights", to)
    assert not to.exists()
    with client(whole) as goes_on:
        goes_on.fetch("job", "result/weights", to)
    assert to.read_bytes() == data
    assert whole.asked[0]["range"] == "bytes=60000-"
    to.unlink()
    with client(broken) as broke, pytest.raises(Exception, match="it broke"):
        broke.fetch("job", "result/weights", to)
    with client(other) as begins_again:  # it is another file by now
        begins_again.fetch("job", "result/weights", to)
    assert to.read_bytes() == other.data
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_what_is_not_as_announced_is_not_kept(tmp_path: Path) -> None:
    with client(Sender(b"data", etag=f'"{"0" * 64}"')) as liar, pytest.raises(DownloadError, match="has the SHA-256"):
        liar.fetch("job", "result/weights", tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a//b", "a/./b", "", "a/../../x", "a\0b"])
def test_a_coordinator_does_not_say_where_on_this_machine(path: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="not a path below a folder"):
        place_below(tmp_path, path)
    assert place_below(tmp_path, "a/b c") == tmp_path / "a" / "b c"
