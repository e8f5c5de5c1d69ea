"""What can go wrong between a client and a coordinator: a sentence, a hint, and a class per kind."""

from typing import TYPE_CHECKING, Final

from cordee.coordinator.errors import CoordinatorError

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "ClientError",
    "ConflictError",
    "InvalidError",
    "JobNotFoundError",
    "TooLargeError",
    "UnauthorizedError",
    "UnreachableError",
    "refusal",
]


class ClientError(CoordinatorError):
    """The root of what can go wrong between here and a coordinator."""


class JobNotFoundError(ClientError):
    """No such job."""

    code = "not_found"


class ConflictError(ClientError):
    """The job's state does not allow it."""

    code = "conflict"


class InvalidError(ClientError):
    """The coordinator refused the request as wrong."""

    code = "invalid"


class TooLargeError(ClientError):
    """More bytes than the coordinator takes."""

    code = "too_large"


class UnauthorizedError(ClientError):
    """No token, or a wrong one."""

    code = "unauthorized"


class UnreachableError(ClientError):
    """Nobody answers, or the connection broke."""

    code = "unreachable"


_BY_CODE: Final[dict[str, type[ClientError]]] = {
    kind.code: kind for kind in (JobNotFoundError, ConflictError, InvalidError, TooLargeError, UnauthorizedError)
}
_BY_STATUS: Final[dict[int, type[ClientError]]] = {
    400: InvalidError,
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: JobNotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: InvalidError,
}


def refusal(response: "httpx2.Response") -> ClientError:
    """What the coordinator said about a request it refused."""
    try:
        said = response.json()["error"]
        code, message, hint = str(said["code"]), str(said["message"]), str(said.get("hint") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return UnreachableError(
            f"{response.request.url} answered {response.status_code}, not as Cordee does",
            "check --server or CORDEE_SERVER",
        )
    kind = _BY_CODE.get(code) or _BY_STATUS.get(response.status_code, ClientError)
    return kind(message, hint)
