"""`cupy.lib.stride_tricks` of the stand-in."""

from typing import Any

from cupy._calls import function


def __getattr__(name: str) -> Any:
    return function(f"lib.stride_tricks.{name}")
