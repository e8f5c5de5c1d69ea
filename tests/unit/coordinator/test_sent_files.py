"""Sending a file: whatever becomes of whoever has asked for it, nothing stays open."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.requests import ClientDisconnect

from cordee.coordinator.service.files import Files
from cordee.coordinator.service.rest.files import SentFile, add_files

ASKS: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "headers": []}


def is_open(descriptor: int) -> bool:
    """Whether it is still the file's: the number may be another's by now."""
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name == "weights"
    except OSError:
        return False


@pytest.fixture
def opened(tmp_path: Path) -> int:
    (tmp_path / "weights").write_bytes(b"12345")
    return os.open(tmp_path / "weights", os.O_RDONLY)


@pytest.mark.parametrize("version", ["2.3", "2.4"])  # of ASGI: from 2.4 on a send says that nobody is there
@pytest.mark.parametrize("leaves", ["before", "at the head", "at the body", "never"])
async def test_a_file_is_closed_however_early_its_reader_goes(opened: int, leaves: str, version: str) -> None:
    gone = asyncio.Event()
    if leaves == "before":
        gone.set()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if gone.is_set() or leaves == {"http.response.start": "at the head"}.get(message["type"], "at the body"):
            gone.set()
            if version == "2.4":
                raise OSError("nobody is there")

    scope = ASKS | {"asgi": {"version": "3.0", "spec_version": version}}
    try:
        await SentFile(opened, 0, 5, 200, {"Content-Length": "5"})(scope, receive, send)
    except ClientDisconnect:
        assert leaves != "never"
    assert not is_open(opened)


async def test_what_is_opened_for_a_request_that_was_given_up_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "weights").write_bytes(b"12345")
    files, begun, goes_on = Files(), threading.Event(), threading.Event()
    descriptors: list[int] = []
    read = files.open

    def slow(folder: Path, path: str) -> tuple[int, int, str]:
        begun.set()
        assert goes_on.wait(20)
        found = read(folder, path)
        descriptors.append(found[0])
        return found

    monkeypatch.setattr(files, "open", slow)
    app = FastAPI()
    controller: Any = SimpleNamespace(find=lambda _ref: SimpleNamespace(folder=str(tmp_path)))
    add_files(app, controller, files)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://here") as http:
        asking = asyncio.create_task(http.get("/v1/jobs/a/files/result/weights"))
        assert await asyncio.to_thread(begun.wait, 20)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        goes_on.set()
        async with asyncio.timeout(20):
            while not descriptors or is_open(descriptors[0]):
                await asyncio.sleep(0.01)
        begun.clear()
        assert (await http.get("/v1/jobs/a/files/result/weights")).content == b"12345"
        assert not is_open(descriptors[1])
