"""Every refusal in one shape: `{"error": {"code", "message", "hint"}}`. The status comes from one table."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from cordee.coordinator.errors import CoordinatorError, InvalidError
from cordee.coordinator.service.rest.models import ErrorView

__all__ = ["ERRORS", "add_error_shapes", "refusal"]

_STATUS: Final[dict[str, int]] = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "too_large": 413,
    "invalid": 422,
    "launcher": 503,
    "unavailable": 503,
    "storage_full": 507,
}
_CODE: Final = {status: code for code, status in _STATUS.items()}
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorView} for status in (400, 401, 403, 404, 409, 413, 422, 503)
}
"""What any route may answer, for the OpenAPI document."""


def refusal(error: CoordinatorError) -> JSONResponse:
    """The answer that an error is."""
    status = _STATUS.get(error.code, 500)
    return JSONResponse(
        {"error": {"code": error.code, "message": error.message, "hint": error.hint}},
        status_code=status,
        headers={"WWW-Authenticate": "Bearer"} if status == 401 else None,
    )


def add_error_shapes(app: FastAPI) -> None:
    """Whatever goes wrong in a route, in our shape."""

    async def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, CoordinatorError)
        return refusal(error)

    async def malformed(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        sentences = [
            f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
            for detail in error.errors()
        ]
        return refusal(InvalidError("; ".join(sentences)))

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        said = CoordinatorError(str(error.detail))
        said.code = _CODE.get(error.status_code, "error")
        response = refusal(said)
        response.status_code = error.status_code
        response.headers.update(error.headers or {})
        return response

    async def bug(request: Request, _: Exception) -> Response:
        return refusal(
            CoordinatorError(f"the coordinator failed at {request.method} {request.url.path}", "see its log")
        )

    handlers: list[tuple[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]] = [
        (CoordinatorError, known),
        (RequestValidationError, malformed),
        (StarletteHTTPException, http),
        (Exception, bug),
    ]
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)
