"""What goes wrong here, by what can be done about it."""

from typing import Any

from cordee.coordinator.errors import CoordinatorError

__all__ = ["ApiError", "KubernetesError", "UnreachableError"]


class KubernetesError(CoordinatorError):
    """The cluster refused, or cannot be reached."""

    code = "kubernetes"


class ApiError(KubernetesError):
    """The API server answered, and refused: its status, its word (`reason`: NotFound, Forbidden, …), its sentence."""

    def __init__(self, status: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.details = details or {}
        """The answer's `details`: causes by field, `retryAfterSeconds`."""

    @property
    def retry_after(self) -> float | None:
        """When the server says to ask again."""
        seconds = self.details.get("retryAfterSeconds")
        return float(seconds) if isinstance(seconds, int | float) else None

    @property
    def namespace_ends(self) -> bool:
        """Nothing new is taken in there: the namespace is being deleted."""
        return any(cause.get("reason") == "NamespaceTerminating" for cause in self.details.get("causes") or ())


class UnreachableError(KubernetesError):
    """No answer: the API server is down, or the way to it."""
