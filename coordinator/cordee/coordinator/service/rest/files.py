"""The pages for what a job keeps: a list of its files, and each of them."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path as FilePath
from typing import Annotated, Final

from fastapi import FastAPI, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.files import Files
from cordee.coordinator.service.rest.models import FileList, FileView

__all__ = ["SentFile", "add_files"]

_BLOCK_BYTES: Final = 1 << 20
_RANGE: Final = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_BINARY: Final = "application/octet-stream"

Ref = Annotated[str, Path(description="a job's id, or its name: the newest job of that name", max_length=128)]


def add_files(app: FastAPI, controller: Controller, files: Files) -> None:
    """The pages below /v1/jobs/{ref}/files."""

    @app.get("/v1/jobs/{ref}/files", tags=["jobs"])
    async def listed(ref: Ref) -> FileList:
        """What a job keeps: its result, what its script has put into its output folder, its ledger."""
        folder = FilePath(controller.find(ref).folder)
        found = await asyncio.to_thread(files.list, folder)
        return FileList(
            files=[FileView(path=file.path, size=file.size, modified_at=file.modified_at) for file in found]
        )

    @app.get("/v1/jobs/{ref}/files/{path:path}", tags=["jobs"], response_class=Response)
    async def file(ref: Ref, path: Annotated[str, Path(max_length=1024)], request: Request) -> Response:
        """One of its files. The ETag is its SHA-256; a Range with a beginning is understood."""
        opened = await _opened(files, FilePath(controller.find(ref).folder), path)
        try:
            return _answer(*opened, request.headers)
        except BaseException:
            os.close(opened[0])
            raise


async def _opened(files: Files, folder: FilePath, path: str) -> tuple[int, int, str]:
    """`Files.open`, beside the loop. What is opened for a request that is given up meanwhile is closed again."""
    opening = asyncio.ensure_future(asyncio.to_thread(files.open, folder, path))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(
            lambda done: None if done.cancelled() or done.exception() else os.close(done.result()[0])
        )
        raise


def _answer(descriptor: int, size: int, sha256: str, asking: Headers) -> Response:
    """The file, or a part of it, or that it need not be sent. Takes the descriptor over."""
    headers = {
        "ETag": f'"{sha256}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": "attachment",  # no browser is to show what a script has written as a page of ours
        "X-Content-Type-Options": "nosniff",
    }
    start, stop = 0, size
    asked = _RANGE.fullmatch(asking.get("range", ""))
    if asked is not None and asking.get("if-range", headers["ETag"]) == headers["ETag"]:
        start = int(asked[1])
        stop = min(int(asked[2]) + 1, size) if asked[2] else size
    if headers["ETag"] in asking.get("if-none-match", ""):
        os.close(descriptor)
        return Response(status_code=304, headers=headers)
    if asked is not None and start >= stop:
        os.close(descriptor)
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    headers["Content-Length"] = str(stop - start)
    if asked is not None and (start, stop) != (0, size):
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return SentFile(descriptor, start, stop, 206 if "Content-Range" in headers else 200, headers)


class SentFile(StreamingResponse):
    """A part of an open file, which is closed afterwards: also where nobody is there any more to take it."""

    def __init__(self, descriptor: int, start: int, stop: int, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(_pieces(descriptor, start, stop), status, headers, _BINARY)
        self._descriptor = descriptor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)


async def _pieces(descriptor: int, start: int, stop: int) -> AsyncIterator[bytes]:
    while start < stop:
        piece = await asyncio.to_thread(os.pread, descriptor, min(_BLOCK_BYTES, stop - start), start)
        if not piece:
            return  # it has become shorter: the answer breaks off, and whoever reads it sees that
        start += len(piece)
        yield piece
