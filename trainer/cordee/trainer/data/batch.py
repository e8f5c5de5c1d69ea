"""What a loader hands out: the fields of some samples, each with the samples along its first axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cordee.trainer.tensors import Tensor

__all__ = ["Batch"]


class Batch:
    """The fields of a number of samples, as tensors: `x, y = batch`, or `batch.x` and `batch.y`, or `batch[0]`.

    Iterating and indexing go over the *fields*; `len(batch)` is the number of *samples*, which is what a loss is
    weighted by.
    """

    __slots__ = ("fields",)

    def __init__(self, fields: Sequence[Tensor]) -> None:
        if not fields:
            raise ValueError("a batch has at least one field")
        self.fields = tuple(fields)

    @property
    def x(self) -> Tensor:
        """The first field: the inputs."""
        return self.fields[0]

    @property
    def y(self) -> Tensor:
        """The second field: the targets."""
        if len(self.fields) < 2:
            raise AttributeError("this batch has one field alone, x: its dataset gives no second one")
        return self.fields[1]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.fields)

    def __getitem__(self, index: int) -> Tensor:
        return self.fields[index]

    def __len__(self) -> int:
        return int(self.fields[0].shape[0])

    def __repr__(self) -> str:
        return f"Batch({', '.join(f'{field.dtype}{list(field.shape)}' for field in self.fields)})"
