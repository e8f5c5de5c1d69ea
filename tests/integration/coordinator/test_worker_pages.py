"""What workers bring over REST: only their own, whole, once, and no further than their job's folder."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest

NAME = "0123456789abcdef" * 2


async def worker_of(coordinator: Any, name: str = "job") -> tuple[str, httpx2.AsyncClient]:
    """A job's first worker, and a client that comes as it."""
    job = (await coordinator.submit())["id"]
    environment = await coordinator.environment(job)
    return f"{job}-w0", httpx2.AsyncClient(
        base_url=f"{coordinator.server.rest_url}/v1/workers/{job}-w0/",
        headers={"Authorization": f"Bearer {environment['CORDEE_TOKEN']}"},
        trust_env=False,
    )


async def append(http: httpx2.AsyncClient, offset: int, data: bytes, kind: str = "logs", name: str = NAME) -> int:
    answer = await http.post(kind, params={"name": name, "offset": offset}, content=data)
    assert answer.status_code == 200, answer.text
    return answer.json()["offset"]


async def put(http: httpx2.AsyncClient, path: str, data: bytes, sha256: str | None = None) -> httpx2.Response:
    sha256 = sha256 or hashlib.sha256(data).hexdigest()
    return await http.put(f"files/{path}", content=data, headers={"Cordee-Sha256": sha256})


def line(worker: str, text: str, time: float = 1.0) -> bytes:
    entry = {"time": time, "worker": worker, "incarnation": "i", "stream": "stdout", "line": text}
    return json.dumps(entry).encode() + b"\n"


async def test_bytes_that_come_twice_or_too_early_are_there_once_and_in_order(coordinator: Any) -> None:
    worker, http = await worker_of(coordinator)
    async with http:
        assert await append(http, 0, b"one\n") == 4
        assert await append(http, 0, b"one\n") == 4  # the answer was lost
        assert await append(http, 0, b"one\ntwo\n") == 8
        assert await append(http, 100, b"far\n") == 8  # what comes before it is missing
        assert await append(http, 8, b"") == 8
        assert await append(http, 0, b"else\n", kind="ledger") == 5
    folder = coordinator.state / "jobs" / worker.rpartition("-w")[0]
    assert (folder / "logs" / f"{worker}.jsonl.{NAME}").read_bytes() == b"one\ntwo\n"
    assert (folder / "ledger" / f"{worker}.{NAME}.ledger").read_bytes() == b"else\n"


async def test_what_a_worker_says_of_others_is_not_shown(coordinator: Any) -> None:
    worker, http = await worker_of(coordinator)
    job = worker.rpartition("-w")[0]
    hostile = [
        line(f"{job}-w1", "forged"),
        line(worker, "nan").replace(b"1.0", b"NaN"),
        line(worker, "huge").replace(b"1.0", b"1" + b"0" * 400),
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ]
    async with http:
        await append(http, 0, b"".join(hostile) + line(worker, "mine"))
    shown = (await coordinator.http.get(f"/v1/jobs/{job}/logs")).text.splitlines()
    assert [json.loads(each)["line"] for each in shown] == ["mine"]


async def test_a_workers_token_opens_its_own_pages_only(coordinator: Any) -> None:
    _, one = await worker_of(coordinator)
    other, two = await worker_of(coordinator)
    async with one, two:
        base = f"{coordinator.server.rest_url}/v1/workers/{other}"
        for method, page in (("POST", "logs"), ("POST", "ledger"), ("POST", "results"), ("PUT", "files/result/x")):
            answer = await one.request(method, f"{base}/{page}", params={"name": NAME, "offset": 0}, content=b"x")
            assert answer.status_code == 403, page
        for page in ("/v1/jobs", f"/v1/jobs/{other.rpartition('-w')[0]}/files", "/metrics"):
            assert (await one.get(f"{coordinator.server.rest_url}{page}")).status_code == 401
        assert (await coordinator.http.post(f"/v1/workers/{other}/logs?name={NAME}&offset=0")).status_code == 401


@pytest.mark.parametrize(
    "path",
    ["result/../../x", "../x", "result/%2e%2e/%2e%2e/x", "output//x", "logs/x", "x", "output/a%00b", "output/%0aline",
     "output/" + "x" * 300, "output/" + "a/" * 40 + "x"],
)  # fmt: skip
async def test_a_file_has_no_other_place_than_its_jobs(coordinator: Any, path: str) -> None:
    worker, http = await worker_of(coordinator)
    async with http:
        url = f"{coordinator.server.rest_url}/v1/workers/{worker}/files/{path}"
        answer = await http.put(url, content=b"x", headers={"Cordee-Sha256": hashlib.sha256(b"x").hexdigest()})
        assert answer.status_code in (403, 404, 405, 422), answer.text
    assert not [found for found in coordinator.state.rglob("*") if found.is_file() and found.read_bytes() == b"x"]


async def test_no_link_leads_out_of_a_jobs_folder(coordinator: Any, tmp_path: Path) -> None:
    worker, http = await worker_of(coordinator)
    job = worker.rpartition("-w")[0]
    folder = coordinator.state / "jobs" / job
    (tmp_path / "secret").write_text("secret")
    (folder / "output").mkdir()
    (folder / "output" / "link").symlink_to(tmp_path / "secret")
    (folder / "output" / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "output" / "pipe")
    (folder / "result").symlink_to(tmp_path)
    async with http:
        for path in ("result/x", "output/folder/x"):
            assert (await put(http, path, b"x")).status_code == 422
        assert (await put(http, "output/link", b"mine")).status_code == 200  # in the link's place
    assert (tmp_path / "secret").read_text() == "secret"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "state"]
    listed = (await coordinator.http.get(f"/v1/jobs/{job}/files")).json()["files"]
    assert [file["path"] for file in listed] == ["output/link"]
    for path in (
        "output/folder/secret",
        "result/secret",
        "output/pipe",
        "output",
        "job.json",
        "logs/x",
        "output/%2e%2e/x",
    ):
        assert (await coordinator.http.get(f"/v1/jobs/{job}/files/{path}")).status_code in (404, 422), path


async def test_a_file_is_there_whole_or_not_at_all(coordinator: Any) -> None:
    worker, http = await worker_of(coordinator)
    folder = coordinator.state / "jobs" / worker.rpartition("-w")[0]
    async with http:
        wrong = await put(http, "output/x", b"data", hashlib.sha256(b"other").hexdigest())
        assert wrong.status_code == 422
        with pytest.raises(httpx2.HTTPError):
            await http.put("files/output/x", content=_broken(), headers=_headers(b"whole data"))
        assert (await http.post("files/output/x")).status_code == 405
        assert not (folder / "output").exists()
        stored = await put(http, "output/x", b"data")
        assert stored.json() == {"where": str(folder / "output" / "x")}
    assert not list(folder.glob(".incoming-*"))


async def _broken() -> Any:
    yield b"whole "
    raise httpx2.HTTPError("the pod is gone")


def _headers(data: bytes) -> dict[str, str]:
    return {"Cordee-Sha256": hashlib.sha256(data).hexdigest(), "Content-Length": str(len(data))}


async def test_of_several_workers_with_the_same_file_one_is_asked_for_it(coordinator: Any) -> None:
    worker, http = await worker_of(coordinator)
    job = worker.rpartition("-w")[0]
    data = b"weights" * 1000
    offer = {"files": [{"path": "result/w", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}]}
    places = [f"{coordinator.server.rest_url}/v1/workers/{job}-w{index}/results" for index in range(3)]
    async with http:

        async def states() -> list[str]:
            return [(await http.post(place, json=offer)).json()["files"][0]["state"] for place in places]

        assert await states() == ["wanted", "coming", "coming"]
        assert await states() == ["wanted", "coming", "coming"]  # the first one asks again: its answer was lost
        assert (await put(http, "result/w", b"", hashlib.sha256(b"").hexdigest())).status_code == 200  # another content
        assert await states() == ["wanted", "coming", "coming"]
        assert (await put(http, "result/w", data)).status_code == 200
        assert await states() == ["there", "there", "there"]


async def test_a_file_is_fetched_whole_in_part_and_not_again(coordinator: Any) -> None:
    worker, http = await worker_of(coordinator)
    job = worker.rpartition("-w")[0]
    data = os.urandom(3_000_000)
    async with http:
        assert (await put(http, "result/w", data)).status_code == 200
    page = f"/v1/jobs/{job}/files/result/w"
    whole = await coordinator.http.get(page)
    etag = whole.headers["etag"]
    assert (whole.content, etag) == (data, f'"{hashlib.sha256(data).hexdigest()}"')
    part = await coordinator.http.get(page, headers={"Range": "bytes=1000-", "If-Range": etag})
    assert (part.status_code, part.content) == (206, data[1000:])
    part = await coordinator.http.get(page, headers={"Range": "bytes=5-9"})
    assert (part.content, part.headers["content-range"]) == (data[5:10], f"bytes 5-9/{len(data)}")
    other = await coordinator.http.get(page, headers={"Range": "bytes=1000-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, data)
    assert (await coordinator.http.get(page, headers={"Range": f"bytes={len(data)}-"})).status_code == 416
    assert (await coordinator.http.get(page, headers={"If-None-Match": etag})).status_code == 304
