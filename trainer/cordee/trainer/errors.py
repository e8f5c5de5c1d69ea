"""The trainer's own exceptions: one root, and classes that are also Python's usual ones.

A shape mismatch is a `ValueError` to whoever catches `ValueError`, and a `TrainerError` to whoever wants only ours.
"""

from __future__ import annotations

__all__ = ["DeviceError", "GraphError", "KernelError", "LinAlgError", "ShapeError", "TrainerError", "TrainerIndexError"]


class TrainerError(Exception):
    """Root of everything that `cordee.trainer` raises on purpose."""


class ShapeError(TrainerError, ValueError):
    """Operands whose shapes, sizes or dtypes do not go together."""


class TrainerIndexError(TrainerError, IndexError):
    """An index outside its tensor."""


class GraphError(TrainerError, RuntimeError):
    """Backward was asked for something that the recorded graph cannot give."""


class LinAlgError(TrainerError, RuntimeError):
    """A matrix for which linear algebra has no answer: singular, not positive definite, or not a number."""


class DeviceError(TrainerError, RuntimeError):
    """The device that was asked for is not there."""


class KernelError(TrainerError, RuntimeError):
    """Kernels were asked for that are not there, or cannot be used here."""
