"""Derivatives of functions: Jacobians and Hessians, and their products with vectors (`torch.autograd.functional`).

Forward mode is the transpose of a transpose (Townsend, 2017): the vector-Jacobian product is linear in its vector, and
the gradient of that is the Jacobian-vector product. So every operation that has a differentiable rule has both modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.backward import grad
from cordee.trainer.autograd.mode import enable_grad
from cordee.trainer.errors import GraphError, ShapeError
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Tensors = Any  # a tensor, or a tuple of them
Function = Callable[..., Any]


def _tuple(value: Tensors) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _like(value: Tensors, results: Sequence[Any]) -> Any:
    """One result where one tensor was given, else a tuple."""
    return tuple(results) if isinstance(value, (tuple, list)) else results[0]


def _leaves(inputs: Tensors, create_graph: bool) -> tuple[Tensor, ...]:
    """The inputs as tensors to differentiate by; still in their own graph when that is to be gone through again."""
    leaves = []
    for value in _tuple(inputs):
        if create_graph and value.requires_grad:
            leaves.append(value * 1.0)
        else:
            leaf = value.detach()
            leaf.requires_grad = True
            leaves.append(leaf)
    return tuple(leaves)


def _zeros(tensor: Tensor) -> Tensor:
    return wrap(array_module(tensor.data).zeros(tensor.shape, tensor.dtype))


def _grads(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], weights: Any, create: bool, strict: bool
) -> list[Tensor]:
    """Gradients, zeros where there is no connection (or an error, when strict)."""
    connected = [(out, w) for out, w in zip(outputs, weights, strict=True) if out.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if connected:
        found = grad(
            [out for out, _ in connected], inputs, [w for _, w in connected], retain_graph=True, create_graph=create,
            allow_unused=True,
        )  # fmt: skip
    results = []
    for i, (value, given) in enumerate(zip(found, inputs, strict=True)):
        if value is None and strict:
            raise GraphError(f"the outputs do not depend on input {i}; strict=False takes zeros for its derivative")
        results.append(_zeros(given) if value is None else value)
    return results


def _vectors(v: Tensors | None, like: Sequence[Tensor], what: str) -> tuple[Tensor, ...]:
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise ShapeError(f"{what}: v is needed unless there is one {what} of one element")
        return (wrap(array_module(like[0].data).ones(like[0].shape, like[0].dtype)),)
    vectors = _tuple(v)
    for i, (vector, tensor) in enumerate(zip(vectors, like, strict=True)):
        if vector.shape != tensor.shape:
            raise ShapeError(f"v: part {i} has shape {vector.shape}, but {what} {i} has {tensor.shape}")
    return vectors


def _run(func: Function, inputs: Sequence[Tensor]) -> Any:
    with enable_grad():
        return func(*inputs)


def _finish(results: Sequence[Tensor], create_graph: bool) -> list[Tensor]:
    return list(results) if create_graph else [value.detach() for value in results]


def vjp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """`func(*inputs)`, and its vector-Jacobian product: v, shaped like the outputs, times the Jacobian."""
    leaves = _leaves(inputs, create_graph)
    result = _run(func, leaves)
    outputs = _tuple(result)
    weights = _vectors(v, outputs, "output")
    found = _grads(outputs, leaves, weights, create_graph, strict)
    return _like(result, _finish(outputs, create_graph)), _like(inputs, _finish(found, create_graph))


def jvp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """`func(*inputs)`, and its Jacobian-vector product: the Jacobian times v, shaped like the inputs."""
    leaves = _leaves(inputs, create_graph)
    result = _run(func, leaves)
    outputs = _tuple(result)
    tangents = _vectors(v, leaves, "input")
    dummies = []
    for out in outputs:
        dummy = _zeros(out)
        dummy.requires_grad = True
        dummies.append(dummy)
    with enable_grad():
        products = _grads(outputs, leaves, dummies, True, strict)
        found = _grads(products, dummies, tangents, create_graph, False)
    return _like(result, _finish(outputs, create_graph)), _like(result, _finish(found, create_graph))


def jacobian(
    func: Function,
    inputs: Tensors,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,  # noqa: ARG001
    strategy: str = "reverse-mode",
) -> Any:
    """The Jacobian: for each output and input a tensor of shape `(*output shape, *input shape)`.

    `strategy` is "reverse-mode" (one backward per element of the outputs) or "forward-mode" (one per element of the
    inputs): the same numbers, whichever is fewer. `vectorize` is accepted and changes nothing.
    """
    if strategy not in ("reverse-mode", "forward-mode"):
        raise ValueError(f"strategy is 'reverse-mode' or 'forward-mode', not {strategy!r}")
    if strategy == "forward-mode":
        return _forward_jacobian(func, inputs, create_graph)
    leaves = _leaves(inputs, create_graph)
    result = _run(func, leaves)
    rows = []
    for out in _tuple(result):
        xp = array_module(out.data)
        collected: list[list[Tensor]] = [[] for _ in leaves]
        for index in np.ndindex(out.shape):
            unit = xp.zeros(out.shape, out.dtype)
            unit[index] = 1
            for parts, value in zip(collected, _grads([out], leaves, [wrap(unit)], create_graph, strict), strict=True):
                parts.append(value if create_graph else value.detach())
        rows.append(_like(inputs, [_stacked(parts, out, leaf) for parts, leaf in zip(collected, leaves, strict=True)]))
    return _like(result, rows)


def _stacked(parts: list[Tensor], out: Tensor, leaf: Tensor) -> Tensor:
    from cordee.trainer import ops

    shape = (*out.shape, *leaf.shape)
    if not parts:
        return wrap(array_module(leaf.data).zeros(shape, leaf.dtype))
    return ops.stack(parts).reshape(shape)


def _forward_jacobian(func: Function, inputs: Tensors, create_graph: bool) -> Any:
    from cordee.trainer import ops

    leaves = _tuple(inputs)
    columns: list[list[list[Tensor]]] = []  # per input, per element, per output
    result: Any = None if any(leaf.numel() for leaf in leaves) else _run(func, leaves)
    for i, leaf in enumerate(leaves):
        columns.append([])
        for index in np.ndindex(leaf.shape):
            tangents = [_zeros(other) for other in leaves]
            tangents[i].data[index] = 1
            result, product = jvp(func, tuple(leaves), tuple(tangents), create_graph)
            columns[i].append(list(_tuple(product)))
    rows = []
    for k, out in enumerate(_tuple(result)):
        blocks = [
            ops.stack([column[k] for column in columns[i]], -1).reshape((*out.shape, *leaf.shape))
            if columns[i]
            else wrap(array_module(leaf.data).zeros((*out.shape, *leaf.shape), out.dtype))
            for i, leaf in enumerate(leaves)
        ]
        rows.append(_like(inputs, blocks))
    return _like(result, rows)


def _scalar(func: Function) -> Function:
    def checked(*inputs: Tensor) -> Tensor:
        out = func(*inputs)
        if not isinstance(out, Tensor) or out.numel() != 1:
            raise ShapeError("the function must return one tensor of one element to have a Hessian")
        return out

    return checked


def hessian(func: Function, inputs: Tensors, create_graph: bool = False, strict: bool = False, **options: Any) -> Any:
    """The second derivatives of a function that returns one number: `(*input i shape, *input j shape)` for all i, j."""
    checked, num = _scalar(func), len(_tuple(inputs))

    def first(*values: Tensor) -> Any:
        leaves = tuple(value if value.requires_grad else value.detach().requires_grad_() for value in values)
        found = _grads([checked(*leaves).reshape(())], leaves, [_one(leaves[0])], True, strict)
        return tuple(found) if num > 1 or isinstance(inputs, (tuple, list)) else found[0]

    return jacobian(first, inputs, create_graph, strict, **options)


def _one(like: Tensor) -> Tensor:
    return wrap(array_module(like.data).ones((), like.dtype))


def vhp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """`func(*inputs)`, one number, and v times its Hessian."""
    leaves = _leaves(inputs, create_graph)
    with enable_grad():
        out = _scalar(func)(*leaves)
        vectors = _vectors(v, leaves, "input")
        first = _grads([out.reshape(())], leaves, [_one(leaves[0])], True, strict)
        found = _grads(first, leaves, vectors, create_graph, False)
    return _finish([out], create_graph)[0], _like(inputs, _finish(found, create_graph))


def hvp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """`func(*inputs)`, one number, and its Hessian times v: the same as `vhp`, since the Hessian is symmetric."""
    return vhp(func, inputs, v, create_graph, strict)
