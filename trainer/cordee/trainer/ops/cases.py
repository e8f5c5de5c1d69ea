"""Inputs that many elementwise records share as their samples."""

from __future__ import annotations

from typing import Any

from cordee.trainer.autograd.record import Sampler

__all__ = [
    "any_values", "clash", "corner_pairs", "corner_values", "pairs", "positive_pairs", "positive_values", "unit_values",
]  # fmt: skip


def pairs(s: Sampler) -> list[Any]:
    """Two operands of all kinds that broadcast."""
    return [
        s.case(s.normal(2, 3), s.normal(2, 3)),
        s.case(s.normal(2, 3), s.normal(3)),
        s.case(s.normal(3, 1), s.normal(2, 1, 4)),
        s.case(s.normal(), s.normal(2)),
        s.case(s.normal(2, 2), 1.5),
        s.case(-0.5, s.normal(3)),
        s.case(s.normal(0, 3), s.normal(3)),
    ]


def positive_pairs(s: Sampler) -> list[Any]:
    """The same, the second operand positive."""
    return [
        s.case(s.normal(2, 3), s.positive(2, 3)),
        s.case(s.normal(2, 3), s.positive(3)),
        s.case(s.normal(3), s.positive(2, 1)),
        s.case(s.normal(2, 2), 1.5),
        s.case(-0.5, s.positive(3)),
        s.case(s.normal(), s.positive()),
    ]


def corner_pairs(s: Sampler) -> list[Any]:
    """Operands that are nowhere close to each other."""
    return [
        s.case(s.distinct(2, 3), s.distinct(2, 3) + 0.05),
        s.case(s.distinct(4), 0.0),
        s.case(s.distinct(3, 1), s.distinct(2) + 0.05),
        s.case(s.distinct(0, 2), s.distinct(2)),
    ]


def clash(s: Sampler) -> list[Any]:
    """Shapes that do not broadcast."""
    return [s.case(s.normal(2, 3), s.normal(2, 4)), s.case(s.normal(3), s.normal(2))]


def any_values(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3)), s.case(s.normal()), s.case(s.normal(0, 2))]


def positive_values(s: Sampler) -> list[Any]:
    return [s.case(s.positive(2, 3)), s.case(s.positive()), s.case(s.positive(0, 2))]


def corner_values(s: Sampler) -> list[Any]:
    """Away from 0, and apart from each other."""
    return [s.case(s.distinct(2, 3)), s.case(s.distinct(5)), s.case(s.distinct(0, 2))]


def unit_values(s: Sampler) -> list[Any]:
    """Between -0.9 and 0.9."""
    return [s.case(s.unit(2, 3)), s.case(s.unit()), s.case(s.unit(0, 2))]
