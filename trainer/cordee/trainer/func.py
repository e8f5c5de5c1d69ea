"""Functions of functions, as in `torch.func`: `grad`, `vjp`, `jvp`, `jacrev`, `jacfwd`, `hessian`, `vmap`.

They take a function and return one. Derivatives nest, since the gradient is made of differentiable operations.

    per_sample = func.vmap(func.grad(loss), in_dims=(None, 0, 0))
    gradients = per_sample(weights, x, y)

`vmap` calls the function once per sample and stacks the results: it is for clarity, not for speed.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cordee.trainer.array import array_module
from cordee.trainer.autograd import functional
from cordee.trainer.autograd.backward import grad as _grad
from cordee.trainer.autograd.mode import enable_grad
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops import movedim, stack
from cordee.trainer.ops.shape import dimension
from cordee.trainer.tensors import Leaf, Tensor, wrap

if TYPE_CHECKING:
    from cordee.trainer.nn import Module

__all__ = ["functional_call", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp", "vjp", "vmap"]

ArgNums = int | tuple[int, ...]


# -- trees of tensors: tuples, lists and dicts -------------------------------------------------------------------------


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(function, part) for part in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map(function, part) for part in tree)
    if isinstance(tree, dict):
        return {key: _map(function, part) for key, part in tree.items()}
    return function(tree)


def _flat(tree: Any) -> list[Any]:
    found: list[Any] = []
    _map(found.append, tree)
    return found


def _unflat(tree: Any, values: list[Any]) -> Any:
    rest = iter(values)
    return _map(lambda _: next(rest), tree)


# -- derivatives -------------------------------------------------------------------------------------------------------


def _zeros(leaf: Tensor) -> Tensor:
    """The gradient for what has no effect."""
    return wrap(array_module(leaf.data).zeros_like(leaf.data))


def _chosen(args: tuple[Any, ...], argnums: ArgNums) -> Any:
    return args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)


_LEVELS: weakref.WeakKeyDictionary[Leaf, int] = weakref.WeakKeyDictionary()
"""How deep in nested derivatives a place was made to differentiate by."""


class _Depth(threading.local):
    now = 0


_DEPTH = _Depth()


def _attached(tree: Any) -> Any:
    """The tensors of a tree, each in a place of its own that can be differentiated by; still in the outer graph."""

    def attach(value: Any) -> Any:
        if not isinstance(value, Tensor):
            raise TypeError(f"derivatives are with respect to tensors, not {type(value).__name__}")
        if value.requires_grad:
            return value * 1.0
        leaf = value.detach()
        leaf.requires_grad = True
        assert isinstance(leaf._node, Leaf)
        _LEVELS[leaf._node] = _DEPTH.now
        return leaf

    return _map(attach, tree)


def _settled(tensor: Tensor) -> Tensor:
    """The tensor outside its graph, if that leads to no place but our own, or those of derivatives within ours."""
    pending, seen = [tensor._node], set()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Leaf) and _LEVELS.get(node, -1) < _DEPTH.now:
            return tensor
        pending.extend(node.edges)
    return tensor.detach()


def grad_and_value(func: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of `func`'s one number with respect to arguments, and that number.

    Raises (when called):
        ShapeError: the function returned something else than a tensor of one element.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _DEPTH.now += 1
        try:
            with enable_grad():
                places = (argnums,) if isinstance(argnums, int) else argnums
                inputs = {i % len(args): _attached(args[i]) for i in places}
                given = tuple(inputs.get(i, arg) for i, arg in enumerate(args))
                result = func(*given, **kwargs)
                out, aux = result if has_aux else (result, None)
                if not isinstance(out, Tensor) or out.numel() != 1:
                    found = f"shape {out.shape}" if isinstance(out, Tensor) else type(out).__name__
                    raise ShapeError(f"grad: the function must return a tensor of one element, not {found}")
                chosen = _chosen(given, argnums)
                leaves = _flat(chosen)
                grads: list[Any] = [None] * len(leaves)
                if out.requires_grad:
                    grads = list(_grad(out.reshape(()), leaves, create_graph=True, allow_unused=True))
            values = [_zeros(leaf) if g is None else _settled(g) for leaf, g in zip(leaves, grads, strict=True)]
            value = _settled(out)
        finally:
            _DEPTH.now -= 1
        return _unflat(chosen, values), ((value, aux) if has_aux else value)

    return wrapped


def grad(func: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of `func`, which returns one number, with respect to arguments."""
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        gradient, value = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapped


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """`func(*primals)`, and the function from a gradient of its result to the gradients of its arguments."""
    with enable_grad():
        inputs = _attached(primals)
        result = func(*inputs)
    out, aux = result if has_aux else (result, None)
    leaves = _flat(inputs)

    def pull(*cotangents: Any, retain_graph: bool = True, create_graph: bool = True) -> Any:
        given = cotangents if len(cotangents) != 1 else cotangents[0]
        outs, weights = _flat(out), _flat(given)
        with enable_grad():
            found = _grad(outs, leaves, weights, retain_graph, create_graph, allow_unused=True)
        values = [_zeros(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]
        return _unflat(inputs, values)

    return (out, pull, aux) if has_aux else (out, pull)


def jvp(func: Callable[..., Any], primals: Any, tangents: Any) -> tuple[Any, Any]:
    """`func(*primals)`, and how it changes when the arguments change by the tangents."""
    return functional.jvp(func, tuple(primals), tuple(tangents), create_graph=True)


def _over(derivative: Callable[..., Any], func: Callable[..., Any], argnums: ArgNums) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapped(*args: Any) -> Any:
        places = (argnums,) if isinstance(argnums, int) else argnums

        def some(*inputs: Tensor) -> Any:
            chosen = dict(zip((i % len(args) for i in places), inputs, strict=True))
            return func(*(chosen.get(i, arg) for i, arg in enumerate(args)))

        _DEPTH.now += 1
        try:
            return _map(_settled, derivative(some, _attached(_chosen(args, argnums))))
        finally:
            _DEPTH.now -= 1

    return wrapped


def jacrev(func: Callable[..., Any], argnums: ArgNums = 0) -> Callable[..., Any]:
    """A function that returns `func`'s Jacobian, computed output by output."""
    return _over(functools.partial(functional.jacobian, create_graph=True), func, argnums)


def jacfwd(func: Callable[..., Any], argnums: ArgNums = 0) -> Callable[..., Any]:
    """A function that returns `func`'s Jacobian, computed input by input."""
    forward = functools.partial(functional.jacobian, create_graph=True, strategy="forward-mode")
    return _over(forward, func, argnums)


def hessian(func: Callable[..., Any], argnums: ArgNums = 0) -> Callable[..., Any]:
    """A function that returns the second derivatives of `func`, which returns one number."""
    return _over(functools.partial(functional.hessian, create_graph=True), func, argnums)


# -- many samples ------------------------------------------------------------------------------------------------------


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",  # noqa: ARG001
    *,
    chunk_size: int | None = None,  # noqa: ARG001
) -> Callable[..., Any]:
    """A function for batches from a function for one sample.

    Args:
        in_dims: per argument the dimension that counts the samples, None for arguments that all share. One number
            stands for all arguments.
        out_dims: where the results' samples are counted.
        randomness: accepted; every sample draws its own numbers ("different").
        chunk_size: accepted; samples are computed one by one anyway.

    Raises (when called):
        ShapeError: the arguments' batches differ in size, or there is none.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        dims = in_dims if isinstance(in_dims, (tuple, list)) else (in_dims,) * len(args)
        if len(dims) != len(args):
            raise ShapeError(f"vmap: in_dims names {len(dims)} arguments, but {len(args)} were given")
        placed = [_pairs(arg, dim) for arg, dim in zip(args, dims, strict=True)]
        sizes = {_size(leaf, dim) for leaf, dim in _leaves(placed) if dim is not None}
        if len(sizes) != 1:
            raise ShapeError(
                f"vmap: the batches of the arguments have sizes {sorted(sizes)}; they must be equal"
                if sizes
                else "vmap: no argument has a dimension to map over (in_dims is None for all)"
            )
        results = []
        for i in range(sizes.pop()):
            sample = [_take(tree, i) for tree in placed]
            results.append(func(*sample, **kwargs))
        if not results:
            raise ShapeError("vmap: there are no samples, so the shape of the results is not known")
        columns = zip(*(_flat(result) for result in results), strict=True)
        outs = out_dims if isinstance(out_dims, (tuple, list)) else (out_dims,) * len(_flat(results[0]))
        stacked = [_stack(column, dim) for column, dim in zip(columns, outs, strict=True)]
        return _unflat(results[0], stacked)

    return wrapped


class _Placed(tuple[Any, Any]):
    """A leaf and its dimension: kept apart from the users' tuples."""

    __slots__ = ()


def _pairs(tree: Any, dims: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _pairs(part, dims[key] if isinstance(dims, dict) else dims) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        inner = dims if isinstance(dims, (tuple, list)) else [dims] * len(tree)
        return type(tree)(_pairs(part, dim) for part, dim in zip(tree, inner, strict=True))
    return _Placed((tree, dims))


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, _Placed):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    return [leaf for part in parts for leaf in _leaves(part)]


def _size(leaf: Any, dim: int) -> int:
    if not isinstance(leaf, Tensor):
        raise TypeError(f"vmap: in_dims is {dim} for a {type(leaf).__name__}, which has no dimensions: give it None")
    return leaf.shape[dimension("vmap", leaf, dim)]


def _take(tree: Any, i: int) -> Any:
    if isinstance(tree, _Placed):
        value, dim = tree
        return value if dim is None else value.select(dim, i)
    if isinstance(tree, dict):
        return {key: _take(part, i) for key, part in tree.items()}
    return type(tree)(_take(part, i) for part in tree)


def _stack(column: tuple[Any, ...], dim: int | None) -> Any:
    if dim is None:
        return column[0]
    if not isinstance(column[0], Tensor):
        raise TypeError(f"vmap: the function must return tensors, not {type(column[0]).__name__}")
    return movedim(stack(column), 0, dim)


# -- modules -----------------------------------------------------------------------------------------------------------


def functional_call(
    module: Module,
    parameters_and_buffers: Mapping[str, Tensor],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Call a module with these tensors in the place of its parameters and buffers of those names.

    Raises:
        KeyError: the module has no parameter or buffer of such a name.
    """
    args = args if isinstance(args, tuple) else (args,)
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for path, value in parameters_and_buffers.items():
            owner_path, _, name = path.rpartition(".")
            owner = module.get_submodule(owner_path)
            if name not in vars(owner):
                raise KeyError(f"functional_call: {type(module).__name__} has no parameter or buffer {path!r}")
            replaced.append((owner, name, vars(owner)[name]))
            vars(owner)[name] = value
        return module(*args, **dict(kwargs or {}))
    finally:
        for owner, name, old in reversed(replaced):
            vars(owner)[name] = old
