"""The root of what goes wrong here."""

from cordee.coordinator.errors import CoordinatorError

__all__ = ["KubernetesError"]


class KubernetesError(CoordinatorError):
    """The cluster refused, or cannot be reached."""

    code = "kubernetes"
