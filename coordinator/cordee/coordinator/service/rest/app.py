"""The FastAPI application.

Everything but `/healthz` and `/readyz` needs a token: `guard` stands around the whole application, and nothing else
decides who may come in. `refusals` is what errors look like.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Final, Literal

from fastapi import FastAPI, Path, Query, Request, Response, Security
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer

from cordee.coordinator import spec
from cordee.coordinator.config import Uploads
from cordee.coordinator.errors import InvalidError, NotFoundError
from cordee.coordinator.faults import check_fault
from cordee.coordinator.service.appends import Appends
from cordee.coordinator.service.bundles import MAX_BUNDLE_BYTES, BundleUpload
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.files import Files
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.health import Readiness
from cordee.coordinator.service.identity import WorkerVerifier
from cordee.coordinator.service.listing import PLACE
from cordee.coordinator.service.people import People
from cordee.coordinator.service.rest.files import add_files
from cordee.coordinator.service.rest.guard import Guard, Who
from cordee.coordinator.service.rest.measured import Measured
from cordee.coordinator.service.rest.models import (
    EventPage,
    FaultRequest,
    FaultView,
    Health,
    JobList,
    JobView,
    Plan,
    Ready,
    ScaleRequest,
    Submission,
)
from cordee.coordinator.service.rest.refusals import ERRORS, add_error_shapes
from cordee.coordinator.service.rest.uploads import add_uploads

__all__ = ["create_app"]

_NDJSON: Final = "application/x-ndjson"
_MAX_JOBS: Final = 250  # of one page: they are written down on the loop, 0.1 s for so many with their newest events
_MAX_ID: Final = 2**63 - 1  # databases' integers end there

State = Literal[
    "pending", "starting", "running", "recovering", "succeeded", "failed", "cancelled", "active", "ended"
]  # fmt: skip
"""A state of jobs, or one of the words for several: those that have not ended, and those that have."""
Ref = Annotated[str, Path(description="a job's id, or its name: the newest job of that name", max_length=128)]
OnlyRef = Annotated[str, Path(description="a job's id, or its name, if no other job has that", max_length=128)]
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="the bundle's SHA-256 in hexadecimal")]


def create_app(
    controller: Controller,
    *,
    people: People,
    workers: WorkerVerifier,
    folder: StateFolder,
    version: str,
    uploads: Uploads | None = None,
) -> FastAPI:
    """The application around one controller."""
    app = FastAPI(
        title="Cordee coordinator",
        version=version,
        docs_url=None,  # its page would load scripts from elsewhere and send them the token
        redoc_url=None,
        openapi_url=None,  # served below, behind the token like everything else
        responses=ERRORS,
        dependencies=[Security(HTTPBearer(auto_error=False))],  # for the OpenAPI document; `Guard` is what checks
    )
    app.add_middleware(Guard, people=people, workers=workers)
    app.add_middleware(Measured, observe=controller.metrics.service.requested)
    add_error_shapes(app)
    _add_bundles(app, folder)
    _add_jobs(app, controller)
    limits = uploads or Uploads()
    files = Files(limits)
    add_files(app, controller, files)
    add_uploads(app, controller, Appends(limits), files)

    @app.get("/healthz", tags=["service"])
    async def healthz() -> Health:
        """The coordinator answers. A page without a token."""
        return Health(status="ok", version=version)

    readiness = Readiness(controller, folder.root)

    @app.get("/readyz", tags=["service"], responses={503: {"model": Ready}})
    async def readyz(response: Response) -> Ready:
        """Whether it can do its work; 503 when it cannot. A page without a token."""
        problems = readiness.problems()
        response.status_code = 503 if problems else 200
        return Ready(status="not ready" if problems else "ready", version=version, problems=problems)

    @app.get("/metrics", tags=["service"], response_class=Response)
    async def prometheus(request: Request) -> Response:
        """Prometheus' text format."""
        body, content_type = await controller.metrics.serve(request.headers.get("accept", ""))
        return Response(body, media_type=content_type)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    return app


def _add_jobs(app: FastAPI, controller: Controller) -> None:
    @app.post(
        "/v1/jobs",
        status_code=201,
        response_model=JobView | Plan,
        responses={200: {"model": Plan, "description": "The plan of a dry run"}},
        tags=["jobs"],
    )
    async def submit(body: Submission, response: Response, who: Who, dry_run: bool = False) -> JobView | Plan:
        """Take a job in; with `dry_run`, say whether it is valid and where it would run."""
        try:
            job = spec.parse_job(body.job, bundled=True)
        except spec.SpecError as error:
            raise InvalidError(str(error)) from None
        if dry_run:
            response.status_code = 200
            return Plan(valid=True, placement=controller.plan(job))
        return await controller.submit(job, body.bundle, key=body.key, by=who)

    @app.get("/v1/jobs", tags=["jobs"])
    async def jobs(
        state: Annotated[list[State] | None, Query(description="only jobs in one of these states")] = None,
        name_prefix: Annotated[str, Query(max_length=128, description="only jobs whose name begins so")] = "",
        after: Annotated[
            str | None,
            Query(description="what the page before calls 'next'", json_schema_extra={"pattern": PLACE}),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=_MAX_JOBS, description="how many a page has at most")] = 100,
    ) -> JobList:
        """Jobs, newest first, a page at a time. No job is told twice or missed that is there all the while."""
        return controller.jobs(states=state or (), name_prefix=name_prefix, after=after, limit=limit)

    @app.get("/v1/jobs/{ref}", tags=["jobs"])
    async def job(ref: Ref) -> JobView:
        """One job."""
        return controller.job(ref)

    @app.delete("/v1/jobs/{ref}", tags=["jobs"])
    async def delete(ref: OnlyRef, who: Who) -> JobView:
        """Remove a job that has ended, with its history, its logs and its results; the answer is what it was like."""
        return controller.delete(ref, by=who)

    @app.post("/v1/jobs/{ref}/scale", tags=["jobs"])
    async def scale(ref: Ref, body: ScaleRequest, who: Who) -> JobView:
        """Give a running job another range of worker counts."""
        try:
            workers = spec.parse_workers(f"{body.min}:{body.max}")
        except spec.SpecError as error:
            raise InvalidError(str(error)) from None
        return await controller.scale(ref, workers.min, workers.max, by=who)

    @app.post("/v1/jobs/{ref}/cancel", tags=["jobs"])
    async def cancel(ref: Ref, who: Who) -> JobView:
        """End a job; its workers are stopped."""
        return await controller.cancel(ref, by=who)

    @app.post("/v1/jobs/{ref}/faults", status_code=202, tags=["jobs"])
    async def inject(ref: Ref, body: FaultRequest) -> FaultView:
        """Inject a fault into a worker of a job that allows it: a test of what Cordee promises."""
        return controller.inject(ref, check_fault(body.kind, body.worker, body.seconds, body.peer, body.amount))

    @app.get("/v1/jobs/{ref}/events", tags=["jobs"])
    async def events(
        ref: Ref,
        after: Annotated[
            int, Query(ge=0, le=_MAX_ID, description="the id of the last event that is known already")
        ] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> EventPage:
        """Its whole history, oldest first, a page at a time. The job itself carries the newest 50 events."""
        return controller.history(ref, after=after, limit=limit)

    @app.get("/v1/jobs/{ref}/logs", tags=["jobs"], response_class=StreamingResponse)
    async def logs(
        ref: Ref,
        follow: bool = False,
        rank: Annotated[int | None, Query(ge=0)] = None,
        worker: Annotated[str | None, Query(max_length=128)] = None,
        tail: Annotated[int | None, Query(ge=0, le=1_000_000)] = None,
    ) -> StreamingResponse:
        """Its workers' output, a JSON object per line: time, worker, rank, stream, line."""
        lines = controller.logs(ref, follow=follow, rank=rank, worker=worker, tail=tail)

        async def body() -> AsyncIterator[str]:
            async for batch in lines:
                yield "".join(json.dumps(asdict(line), allow_nan=False) + "\n" for line in batch)

        return StreamingResponse(body(), media_type=_NDJSON)

    @app.get("/v1/jobs/{ref}/watch", tags=["jobs"], response_class=StreamingResponse)
    async def watch(ref: Ref) -> StreamingResponse:
        """The job, a JSON object per line, whenever it changes; ends when the job has ended."""
        views = controller.watch(ref)

        async def body() -> AsyncIterator[str]:
            async for view in views:
                yield view.model_dump_json() + "\n"

        return StreamingResponse(body(), media_type=_NDJSON)


def _add_bundles(app: FastAPI, folder: StateFolder) -> None:
    @app.head("/v1/bundles/{sha256}", tags=["bundles"], response_class=Response)
    async def has_bundle(sha256: Sha256) -> Response:
        """Whether this bundle is here already."""
        if not folder.touch_bundle(sha256):
            raise NotFoundError(f"there is no bundle {sha256}")
        return Response(status_code=200)

    @app.put("/v1/bundles/{sha256}", status_code=201, tags=["bundles"], response_class=Response)
    async def put_bundle(sha256: Sha256, request: Request) -> Response:
        """Upload a gzipped tar of a job's source."""
        with BundleUpload(folder, sha256) as upload:
            async for chunk in request.stream():
                await upload.write(chunk)
                # What is too large is read and dropped for a while, so that the client gets to hear why.
                if upload.num_bytes > 4 * MAX_BUNDLE_BYTES:
                    break
            upload.keep()
        return Response(status_code=201)
