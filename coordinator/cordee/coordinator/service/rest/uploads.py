"""The pages for workers in pods: they bring their logs, their ledger and their job's result, since they share no disk.

A worker comes in with its own token, and writes to its own files only: which job and which worker they are of, the
token says, not the worker.
"""

from typing import Annotated

from fastapi import Depends, FastAPI, Header, Path, Query, Request

from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.appends import LEDGER, LOGS, Appends, Kind
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.files import Files
from cordee.coordinator.service.rest.models import Arrived, Offer, OfferAnswer, OfferAnswers, Stored
from cordee.coordinator.service.rest.workers import Writer, writer_of

__all__ = ["add_uploads"]

_TAG = "workers"

Name = Annotated[str, Query(pattern=r"^[0-9a-f]{32}$", description="what this file of the worker's is called")]
Offset = Annotated[int, Query(ge=0, le=1 << 48, description="where in the file these bytes belong")]


def add_uploads(app: FastAPI, controller: Controller, appends: Appends, files: Files) -> None:
    """The pages below /v1/workers/{worker}/."""
    identity = Depends(writer_of(controller))

    async def append(writer: Writer, kind: Kind, name: str, offset: int, request: Request) -> Arrived:
        there = await appends.append(writer.folder, writer.worker, kind, name, offset, await request.body())
        return Arrived(offset=there)

    @app.post("/v1/workers/{worker}/logs", tags=[_TAG])
    async def logs(writer: Annotated[Writer, identity], name: Name, offset: Offset, request: Request) -> Arrived:
        """More of a worker's log; the answer is how much of it is here. What is here already is not written again."""
        return await append(writer, LOGS, name, offset, request)

    @app.post("/v1/workers/{worker}/ledger", tags=[_TAG])
    async def ledger(writer: Annotated[Writer, identity], name: Name, offset: Offset, request: Request) -> Arrived:
        """More of the ledger that a worker writes; as with logs."""
        return await append(writer, LEDGER, name, offset, request)

    @app.post("/v1/workers/{worker}/results", tags=[_TAG])
    async def results(writer: Annotated[Writer, identity], offer: Offer) -> OfferAnswers:
        """The files that a worker has for its job's result: which of them it is to send."""
        answers = []
        for file in offer.files:
            answer = await files.offer(
                writer.folder, writer.worker, file.path, file.size, file.sha256, leaving=offer.leaving
            )
            answers.append(OfferAnswer(path=file.path, state=answer.state, where=answer.where, why=answer.why))
        return OfferAnswers(files=answers)

    @app.put("/v1/workers/{worker}/files/{path:path}", tags=[_TAG])
    async def put(
        writer: Annotated[Writer, identity],
        path: Annotated[str, Path(max_length=1024)],
        request: Request,
        sha256: Annotated[str, Header(alias="Cordee-Sha256", pattern=r"^[0-9a-f]{64}$")],
        leaving: Annotated[bool, Header(alias="Cordee-Leaving", description="as in the offer")] = False,
    ) -> Stored:
        """A file of a job's result; it is there whole or not at all."""
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            raise InvalidError("a file is sent with its Content-Length")
        async with files.upload(writer.folder, writer.worker, path, int(length), sha256, leaving=leaving) as upload:
            async for chunk in request.stream():
                await upload.write(chunk)
            return Stored(where=await upload.keep())
