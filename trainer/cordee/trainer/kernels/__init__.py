"""Faster loops behind the operations: which there are, which are in use, and how an operation asks for one.

A kernel is a place where something faster may stand in for NumPy. It is declared beside the operation that needs it, by
`@kernel` on the NumPy (and CuPy) version, which is always there and always right. Who else can compute it is one table,
`providers.py`; each of those is verified against the NumPy version by the same tests.
"""

from cordee.trainer.kernels import registry as registry
from cordee.trainer.kernels.registry import KERNELS, Kernel, choose, identity, in_use, kernel

__all__ = ["KERNELS", "Kernel", "choose", "identity", "in_use", "kernel"]
