"""The place of a tensor's methods: empty here, filled by `ops/methods.py`, declared in `surface.pyi`."""

__all__ = ["Surface"]


class Surface:
    """What `Tensor` can compute."""

    __slots__ = ()
