"""Signals, as in `torch.signal`: windows."""

from cordee.trainer.signal import windows

__all__ = ["windows"]
