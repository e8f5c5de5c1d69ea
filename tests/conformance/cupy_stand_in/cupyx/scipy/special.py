"""`cupyx.scipy.special` of the stand-in: SciPy's, where it is installed."""

from __future__ import annotations

from typing import Any

from cupy._array import SURFACE, host, wrapped


def __getattr__(name: str) -> Any:
    if name not in SURFACE["special"]:
        raise AttributeError(f"cupyx.scipy.special has no {name}")
    from scipy import special

    function = getattr(special, name)
    return lambda *args, **keywords: wrapped(function(*map(host, args), **{k: host(v) for k, v in keywords.items()}))
