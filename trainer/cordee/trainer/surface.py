"""The place of a tensor's methods: empty here, filled by `ops/methods.py`, and declared for type checkers in `surface.pyi`."""

__all__ = ["Surface"]


class Surface:
    """What `Tensor` can compute."""

    __slots__ = ()
