"""Programs that nobody would think of: random sequences of operations, views, writes, hooks, blocks and checkpoints.

Each is run twice: here and in PyTorch, step by step (values, shapes, dtypes, what requires a gradient, then first and
second gradients); or here alone, against finite differences. A program may be refused where PyTorch accepts it, never
be given a wrong gradient. The names in `STEPS` are the same in both libraries, which is a promise of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

import cordee.trainer as ct
from cordee.trainer import autograd

Step = tuple[str, int, int, int]


def _at(x: Any, k: int) -> Any:
    """An index along the first dimension, or ... where there is none."""
    return k % x.shape[0] if x.ndim and x.shape[0] else ...


def _assign(B: Any, x: Any, y: Any, k: int) -> None:
    x[_at(x, k)] = y


def _augment(B: Any, x: Any, y: Any, k: int) -> None:
    x[_at(x, k)] *= y


def _assign_itself(B: Any, x: Any, y: Any, k: int) -> None:
    x[_at(x, k)] = x[_at(x, k + 1)]


def _assign_mask(B: Any, x: Any, y: Any, k: int) -> None:
    x[x > 0.3] = 0.5 + k


PURE: dict[str, Callable[[Any, Any, Any, int], Any]] = {
    "add": lambda B, x, y, k: x + y,
    "sub": lambda B, x, y, k: x - y * 0.5,
    "mul": lambda B, x, y, k: x * y,
    "div": lambda B, x, y, k: x / (y * y + 1.5),
    "number": lambda B, x, y, k: x * (k + 0.5) - k,
    "exp": lambda B, x, y, k: (x * 0.2).exp(),
    "sin": lambda B, x, y, k: B.sin(x),
    "tanh": lambda B, x, y, k: x.tanh(),
    "sqrt": lambda B, x, y, k: (x * x + 1.0).sqrt(),
    "sigmoid": lambda B, x, y, k: B.sigmoid(x),
    "pow": lambda B, x, y, k: x ** (1 + k % 3),
    "where": lambda B, x, y, k: B.where(x > 0.1, x, y),
    "maximum": lambda B, x, y, k: B.maximum(x, y + 0.01),
    "clamp": lambda B, x, y, k: x.clamp(-0.8, 0.9),
    "sum": lambda B, x, y, k: x.sum() if k % 2 or not x.ndim else x.sum(k % x.ndim, keepdim=k > 3),
    "mean": lambda B, x, y, k: x.mean(-1, keepdim=k % 2 > 0) if x.ndim and x.shape[-1] else x * 1.0,
    "amax": lambda B, x, y, k: x.amax(-1) if x.ndim and x.shape[-1] else x * 1.0,
    "max": lambda B, x, y, k: x.max(0)[0] if x.ndim and x.shape[0] else x * 1.0,
    "sort": lambda B, x, y, k: x.sort(-1)[0] if x.ndim else x * 1.0,
    "cumsum": lambda B, x, y, k: x.cumsum(0) if x.ndim else x * 1.0,
    "cat": lambda B, x, y, k: B.cat([x.reshape(-1), y.reshape(-1)])[:4],
    "stack": lambda B, x, y, k: B.stack([x, x * 2.0], 0).sum(0),
    "softmax": lambda B, x, y, k: x.softmax(-1) if x.ndim else x * 1.0,
    "matmul": lambda B, x, y, k: x @ x.t() if x.ndim == 2 else x * 1.0,
    "gather": lambda B, x, y, k: x[[0, 0, -1]] if x.ndim and x.shape[0] else x * 1.0,
    "clone": lambda B, x, y, k: x.clone(),
    "flip": lambda B, x, y, k: x.flip(0) if x.ndim else x * 1.0,
    "repeat": lambda B, x, y, k: x.repeat(1, 1) if x.ndim == 2 else x * 1.0,
}
VIEWS: dict[str, Callable[[Any, Any, Any, int], Any]] = {
    "row": lambda B, x, y, k: x[_at(x, k)],
    "slice": lambda B, x, y, k: x[k % 2 :] if x.ndim else x,
    "step": lambda B, x, y, k: x[..., :: 1 + k % 2] if x.ndim else x,
    "transpose": lambda B, x, y, k: x.transpose(0, -1) if x.ndim else x,
    "reshape": lambda B, x, y, k: x.reshape(-1),
    "unsqueeze": lambda B, x, y, k: x.unsqueeze(0) if x.ndim < 3 else x.squeeze(0),
    "diagonal": lambda B, x, y, k: x.diagonal() if x.ndim == 2 else x.reshape(-1)[:2],
    "narrow": lambda B, x, y, k: x.narrow(0, 0, 1) if x.ndim and x.shape[0] else x,
    "expand": lambda B, x, y, k: x.expand(2, *x.shape) if x.ndim < 2 else x,
}
WRITES: dict[str, Callable[[Any, Any, Any, int], Any]] = {
    "add_": lambda B, x, y, k: x.add_(y),
    "mul_": lambda B, x, y, k: x.mul_(y),
    "+=": lambda B, x, y, k: x.__iadd__(k + 0.5),
    "tanh_": lambda B, x, y, k: x.tanh_(),
    "exp_": lambda B, x, y, k: x.mul_(0.1).exp_(),
    "copy_": lambda B, x, y, k: x.copy_(y),
    "zero_": lambda B, x, y, k: x.zero_(),
    "assign": _assign,
    "augment": _augment,
    "assign itself": _assign_itself,
    "assign mask": _assign_mask,
    "index_add_": lambda B, x, y, k: (
        x.index_add_(0, B.tensor([0, 0]), x[:1].expand(2, *x.shape[1:]) * 0.5) if x.ndim and x.shape[0] else None
    ),
    "masked_fill_": lambda B, x, y, k: x.masked_fill_(x > 0.5, 0.25),
}
BLOCKS: dict[str, Callable[[Any, Any, Any, int], Any]] = {
    "detach": lambda B, x, y, k: x.detach(),
    "detach write": lambda B, x, y, k: x.detach().mul_(1.5),
    "hook": lambda B, x, y, k: x.register_hook(lambda g: g * 2.0) and None if x.requires_grad else None,
    "quiet": lambda B, x, y, k: _quiet(B, x, y),
    "quiet write": lambda B, x, y, k: _quiet_write(B, x),
    "half": lambda B, x, y, k: x.to(B.float16) * 2.0,
    "brain": lambda B, x, y, k: x.to(B.bfloat16) + 1.0,
    "double": lambda B, x, y, k: x.to(B.float64),
    "single": lambda B, x, y, k: x.to(B.float32),
    "whole": lambda B, x, y, k: (x.detach() * 3).to(B.int32),
    "bool": lambda B, x, y, k: x > 0,
}
STEPS = {**PURE, **VIEWS, **WRITES}


def _quiet(B: Any, x: Any, y: Any) -> Any:
    with B.no_grad():
        return x * y


def _quiet_write(B: Any, x: Any) -> None:
    with B.no_grad():
        x.add_(1.0)


def _checkpointed(B: Any, function: Any, *args: Any) -> Any:
    if B is ct:
        return autograd.checkpoint(function, *args)
    return pytest.importorskip("torch.utils.checkpoint").checkpoint(function, *args, use_reentrant=False)


def _step(B: Any, table: dict[str, Any], pool: list[Any], step: Step) -> Any:
    name, i, j, k = step
    x, y = pool[i % len(pool)], pool[j % len(pool)]
    if name.startswith("checkpoint "):
        inner = table[name.removeprefix("checkpoint ")]
        return _checkpointed(B, lambda a, b: inner(B, a * 1.0, b, k) + inner(B, a.tanh(), b, k), x, y)
    return table[name](B, x, y, k)


def _programs(table: dict[str, Any], size: int = 9) -> st.SearchStrategy[list[Step]]:
    names = sorted(table) + [f"checkpoint {name}" for name in sorted(PURE)]
    number = st.integers(0, 5)
    # writes and views are what goes wrong, so they are drawn more often
    name = st.sampled_from(names) | st.sampled_from(sorted(VIEWS)) | st.sampled_from(sorted(WRITES))
    return st.lists(st.tuples(name, number, number, number), min_size=2, max_size=size)


LEAVES = [
    np.array([[0.31, -0.72, 1.13], [0.54, 0.92, -0.41]]),
    np.array([0.63, -0.27, 0.81]),
    np.array(0.45),
    np.array([[0.22], [-0.57]]),
]


def _loss(B: Any, pool: list[Any]) -> Any:
    total: Any = None
    for i, tensor in enumerate(pool):
        if tensor.requires_grad:
            weighed = (tensor.to(B.float64) * (0.3 + 0.1 * i)).sin().sum()
            total = weighed if total is None else total + weighed
    return total


# -- against finite differences ----------------------------------------------------------------------------------------


def _run(program: list[Step], values: list[Any], done: list[Step] | None = None) -> tuple[list[Any], Any]:
    """The program on these values. Recorded, with the steps that are not refused written to `done`, or without."""
    recorded = done is not None
    leaves = [ct.tensor(value, dtype=ct.float64, requires_grad=recorded) for value in values]
    pool = [leaf * 1.0 for leaf in leaves]
    for step in program:
        try:
            result = _step(ct, STEPS, pool, step)
        except (ct.ShapeError, ct.GraphError, ct.TrainerIndexError):
            if done is None:
                raise
            continue
        if done is not None:
            done.append(step)
        if result is not None and not any(result is known for known in pool):
            pool.append(result)
    total: Any = None
    for i, tensor in enumerate(pool):
        weighed = (tensor * (0.3 + 0.1 * i)).sin().sum()
        total = weighed if total is None else total + weighed
    return leaves, total


@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
@given(_programs(STEPS))
def test_random_programs_agree_with_finite_differences(program: list[Step]) -> None:
    done: list[Step] = []
    leaves, total = _run(program, LEAVES, done)
    try:
        assume(abs(total.item()) < 1e3)
        found = autograd.grad(total, leaves, allow_unused=True)
    except ct.GraphError:
        event("backward refused")
        return
    rng = np.random.default_rng(0)
    for _ in range(2):
        directions = [rng.standard_normal(np.shape(value)) for value in LEAVES]
        slopes = []
        for step in (1e-5, 1e-6):
            ends = [
                _run(done, [v + sign * step * d for v, d in zip(LEAVES, directions, strict=True)])[1].item()
                for sign in (1, -1)
            ]
            slopes.append((ends[0] - ends[1]) / (2 * step))
        assume(abs(slopes[0] - slopes[1]) < 1e-4 * max(1.0, abs(slopes[0])))  # a kink, or a jump
        expected = sum(float((g.numpy() * d).sum()) for g, d in zip(found, directions, strict=True) if g is not None)
        assert expected == pytest.approx(slopes[0], rel=1e-3, abs=1e-3), program


# -- against PyTorch ---------------------------------------------------------------------------------------------------

TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 1e-4, "float64": 1e-9}


def _numbers(tensor: Any) -> Any:
    tensor = tensor.detach()
    return np.asarray(tensor.to(ct.float64 if isinstance(tensor, ct.Tensor) else _torch().float64).numpy())


def _torch() -> Any:
    return pytest.importorskip("torch")


def _same(mine: Any, theirs: Any, what: str, tolerance: float) -> None:
    assert tuple(mine.shape) == tuple(theirs.shape), what
    assert np.dtype(mine.dtype).name == str(theirs.dtype).removeprefix("torch."), what
    np.testing.assert_allclose(_numbers(mine), _numbers(theirs), rtol=tolerance, atol=tolerance, err_msg=what)


class _Both:
    """One program in both libraries."""

    def __init__(self, dtypes: list[str]) -> None:
        self.libraries = (ct, _torch())
        self.leaves: list[list[Any]] = []
        for B in self.libraries:
            self.leaves.append(
                [
                    B.tensor(value, dtype=getattr(B, dtype), requires_grad=True)
                    for value, dtype in zip(LEAVES, dtypes, strict=True)
                ]
            )
        self.pools = [[leaf * 1.0 for leaf in leaves] + leaves[:2] for leaves in self.leaves]
        for B, pool in zip(self.libraries, self.pools, strict=True):
            pool.append(B.tensor([1, -2, 3]))
            pool.append(B.zeros(0, 3))
        self.tolerance = 1e-9

    def both(self, call: Callable[[int, Any], Any]) -> tuple[list[Any], list[Exception | None]]:
        results: list[Any] = []
        errors: list[Exception | None] = []
        for side, B in enumerate(self.libraries):
            try:
                results.append(call(side, B))
                errors.append(None)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                results.append(None)
                errors.append(error)
        return results, errors

    def run(self, program: list[Step], table: dict[str, Any]) -> bool:
        """Step by step; False when the rest cannot be compared, because it was refused here."""
        for step in program:
            (mine, theirs), (refused, error) = self.both(lambda side, B: _step(B, table, self.pools[side], step))  # noqa: B023
            if error is not None and refused is None and step[0] in WRITES:
                assert "leaf" not in str(error), f"{step} was refused by PyTorch alone: {error}"
            if refused is not None and error is not None:
                continue
            if refused is not None or error is not None:
                event(f"step refused by {'PyTorch' if refused is None else 'Cordee'} alone")
                return False
            for name in (np.dtype(tensor.dtype).name for tensor in self.pools[0]):
                self.tolerance = max(self.tolerance, TOLERANCE.get(name, 0.0))
            if theirs is not None:
                _same(mine, theirs, str(step), self.tolerance)
                if not any(theirs is known for known in self.pools[1]):
                    self.pools[0].append(mine)
                    self.pools[1].append(theirs)
        for mine, theirs in zip(*self.pools, strict=True):
            _same(mine, theirs, "in the end", self.tolerance)
            assert mine.requires_grad == theirs.requires_grad
        return True


@pytest.mark.torch
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
@given(
    _programs({**STEPS, **BLOCKS}, 8),
    st.lists(st.sampled_from(["float32", "float64"]), min_size=4, max_size=4),
    st.booleans(),
)
def test_random_programs_agree_with_pytorch(program: list[Step], dtypes: list[str], second: bool) -> None:
    torch = _torch()
    torch.set_num_threads(1)
    both = _Both(dtypes)
    if not both.run(program, {**STEPS, **BLOCKS}):
        return

    def first(side: int, B: Any) -> Any:
        total = _loss(B, both.pools[side])
        if total is None:
            return None
        found = B.autograd.grad(total, both.leaves[side], allow_unused=True, retain_graph=True, create_graph=second)
        if not second:
            return found
        again: Any = sum((g.to(B.float64) ** 2).sum() for g in found if g is not None)
        if not again.requires_grad:
            return found
        return (*found, *B.autograd.grad(again, both.leaves[side], allow_unused=True))

    (mine, theirs), (refused, error) = both.both(first)
    if refused is not None or error is not None:
        event(f"backward refused by {'both' if refused and error else 'Cordee' if refused else 'PyTorch'}")
        assert refused is None or isinstance(refused, ct.GraphError), refused
        return
    if mine is None:
        assert theirs is None
        return
    for i, (g, h) in enumerate(zip(mine, theirs, strict=True)):
        zero = [t is None or not np.any(_numbers(t)) for t in (g, h)]
        if all(zero):  # one may know that it is zero, where the other computes it
            continue
        assert g is not None, i
        assert h is not None, i
        with contextlib.suppress(OverflowError):
            _same(g, h, f"gradient {i} of {program}", max(both.tolerance * 20, 1e-8))
