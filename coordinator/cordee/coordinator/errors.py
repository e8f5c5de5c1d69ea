"""Why the coordinator could not do what was asked.

Every error carries a sentence that says what is wrong and, where there is something to do about it, a hint. `code` is
the word that REST clients see; the REST layer maps it to a status in one table. Whatever is not a `CoordinatorError` is
a bug.
"""

__all__ = [
    "ConflictError",
    "CoordinatorError",
    "ForbiddenError",
    "InvalidError",
    "NotFoundError",
    "StorageFullError",
    "TooLargeError",
    "UnauthorizedError",
    "UnavailableError",
]


class CoordinatorError(Exception):
    """The root of all errors that the coordinator raises on purpose."""

    code = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFoundError(CoordinatorError):
    """No such job, bundle or page."""

    code = "not_found"


class ConflictError(CoordinatorError):
    """The job's state does not allow it."""

    code = "conflict"


class InvalidError(CoordinatorError):
    """The request itself is wrong."""

    code = "invalid"


class TooLargeError(CoordinatorError):
    """More bytes than the coordinator takes."""

    code = "too_large"


class UnauthorizedError(CoordinatorError):
    """No token, or a wrong one."""

    code = "unauthorized"


class ForbiddenError(CoordinatorError):
    """Somebody known, who may not do this."""

    code = "forbidden"


class UnavailableError(CoordinatorError):
    """What is needed to answer does not answer now: ask again."""

    code = "unavailable"


class StorageFullError(CoordinatorError):
    """There is no room for it, on the disk or by a limit that the configuration sets."""

    code = "storage_full"
