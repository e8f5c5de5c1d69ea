"""Sums over products of several tensors: einsum, tensordot, and the Kronecker product.

An equation is read once for its operands' shapes, and remembered. What it asks for is done by permutations, sums and
matrix products, so gradients of every order come by themselves.
"""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.arranging import diagonal
from cordee.trainer.ops.products import matmul
from cordee.trainer.ops.repetition import broadcast_to
from cordee.trainer.ops.shape import dimensions, permute, reshape
from cordee.trainer.tensors import Tensor

__all__ = ["einsum", "kron", "tensordot"]


# -- reading the equation ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Equation:
    """What each operand's dimensions are called, and which are to remain. `...` has been given names."""

    inputs: tuple[str, ...]
    output: str


def _bad(equation: str, reason: str) -> ShapeError:
    return ShapeError(f"einsum: {equation!r}: {reason}")


@functools.lru_cache(maxsize=1024)
def _parse(equation: str, shapes: tuple[tuple[int, ...], ...]) -> _Equation:
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise _bad(equation, f"names {len(terms)} operands, but {len(shapes)} are given")
    for term in (*terms, right):
        plain = term.replace("...", "", 1)
        if not all(letter in string.ascii_letters for letter in plain):
            raise _bad(equation, f"{term!r} may hold letters and one '...'")
    free = [chr(0x3B1 + i) for i in range(max(map(len, shapes), default=0) + 1)]  # names for the dimensions of '...'
    widths = [len(shape) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True)]
    for i, (term, width) in enumerate(zip(terms, widths, strict=True)):
        if width < 0 or (width and "..." not in term):
            raise _bad(equation, f"{term!r} does not name the {len(shapes[i])} dimensions of operand {i}, {shapes[i]}")
    spread = max((w for term, w in zip(terms, widths, strict=True) if "..." in term), default=0)
    ellipsis = "".join(free[:spread])
    inputs = tuple(
        term.replace("...", ellipsis[spread - width :] if width else "")
        for term, width in zip(terms, widths, strict=True)
    )
    if arrow:
        if "..." in right and not any("..." in term for term in terms):
            raise _bad(equation, "the output has '...', but no operand has")
        output = right.replace("...", ellipsis)
        if len(set(output)) != len(output):
            raise _bad(equation, "the output names a dimension twice")
        missing = set(output) - set("".join(inputs))
        if missing:
            raise _bad(equation, f"the output names {', '.join(sorted(missing))}, which no operand has")
    else:
        letters = "".join(term.replace("...", "") for term in terms)
        output = ellipsis + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    _sizes(equation, inputs, shapes)
    return _Equation(inputs, output)


def _sizes(equation: str, inputs: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The size of every name; a size of 1 broadcasts."""
    sizes: dict[str, int] = {}
    for i, (names, shape) in enumerate(zip(inputs, shapes, strict=True)):
        for dim, (name, n) in enumerate(zip(names, shape, strict=True)):
            if sizes.setdefault(name, n) == 1:
                sizes[name] = n
            elif n not in (1, sizes[name]):
                known = name if name in string.ascii_letters else "..."
                raise _bad(
                    equation,
                    f"operand {i} of shape {shape} has size {n} in dimension {dim} ({known}), where an earlier one has "
                    f"{sizes[name]}; they must be equal, or one of them 1",
                )
    return sizes


def _lettered(operands: Sequence[Any]) -> tuple[str, list[Tensor]]:
    """The equation of the form `einsum(x, [0, 1], y, [1, 2], [0, 2])`."""
    lists = [*operands[1::2], *([operands[-1]] if len(operands) % 2 else [])]

    def term(places: Sequence[Any]) -> str:
        for place in places:
            if place is not Ellipsis and not (isinstance(place, int) and 0 <= place < 52):
                raise ShapeError(f"einsum: a list of dimensions holds numbers from 0 to 51 and '...', not {place!r}")
        return "".join("..." if place is Ellipsis else string.ascii_letters[place] for place in places)

    count = len(operands) // 2
    # Numbers are ordered as numbers where the output is implicit: capitals come after the small letters here too.
    equation = ",".join(term(places) for places in lists[:count])
    if len(operands) % 2:
        equation += "->" + term(lists[-1])
    return equation, list(operands[0 : 2 * count : 2])


# -- computing ---------------------------------------------------------------------------------------------------------


def einsum(*args: Any) -> Tensor:
    """Sums of products by the names of dimensions: `einsum("bij,bjk->bik", x, y)`, or with lists of numbers,
    `einsum(x, [0, 1], y, [1, 2], [0, 2])`.

    A name that occurs twice in one operand takes its diagonal; `...` stands for dimensions that broadcast; without
    `->`, names that occur once remain, in alphabetical order. With more than two operands, the cheapest pair is
    multiplied first.

    Raises:
        ShapeError: the equation does not fit the operands; it says which operand, which dimension, and why.
    """
    if not args:
        raise ShapeError("einsum: needs an equation and operands")
    if isinstance(args[0], str):
        equation, operands = args[0], list(args[1:])
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = list(operands[0])
    else:
        equation, operands = _lettered(args)
    parsed = _parse(equation, tuple([operand.shape for operand in operands]))
    return _contract(parsed, operands)


def _contract(parsed: _Equation, operands: list[Tensor]) -> Tensor:
    current = [_diagonals(x, names) for x, names in zip(operands, parsed.inputs, strict=True)]
    while len(current) > 1:
        first, second = _cheapest([(names, x.shape) for x, names in current], parsed.output)
        b, b_names = current.pop(second)
        a, a_names = current.pop(first)
        kept = set(parsed.output).union(*(names for _, names in current))
        current.append(_pair(a, a_names, b, b_names, kept))
    x, names = current[0]
    x, names = _summed(x, names, set(parsed.output))
    return _permuted(x, tuple(names.index(name) for name in parsed.output))


def _diagonals(x: Tensor, names: str) -> tuple[Tensor, str]:
    """Each name once: the diagonal of dimensions that share one (a size of 1 broadcasts)."""
    for name in dict.fromkeys(names):
        while names.count(name) > 1:
            first = names.index(name)
            second = names.index(name, first + 1)
            sizes = {x.shape[first], x.shape[second]}
            if len(sizes) > 1:
                full = tuple(max(sizes) if i in (first, second) else n for i, n in enumerate(x.shape))
                x = broadcast_to(x, full)
            x = diagonal(x, 0, first, second)
            names = names[:first] + names[first + 1 : second] + names[second + 1 :] + name
    return x, names


def _summed(x: Tensor, names: str, kept: set[str]) -> tuple[Tensor, str]:
    """Summed over the dimensions that nothing else needs."""
    gone = tuple(i for i, name in enumerate(names) if name not in kept)
    return (x.sum(gone), "".join(name for name in names if name in kept)) if gone else (x, names)


def _permuted(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x if axes == tuple(range(len(axes))) else permute(x, axes)


def _reshaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x if x.shape == shape else reshape(x, shape)


def _pair(a: Tensor, a_names: str, b: Tensor, b_names: str, kept: set[str]) -> tuple[Tensor, str]:
    """Two operands made one: by a matrix product over what both have and nobody needs, else by a multiplication."""
    a, a_names = _summed(a, a_names, kept | set(b_names))
    b, b_names = _summed(b, b_names, kept | set(a_names))
    a_sizes, b_sizes = dict(zip(a_names, a.shape, strict=True)), dict(zip(b_names, b.shape, strict=True))
    both = [name for name in a_names if name in b_sizes]
    inner = [name for name in both if name not in kept]
    for name in inner:  # a size of 1 beside another one: the sum can be taken before
        if a_sizes[name] != b_sizes[name]:
            if a_sizes[name] == 1:
                b, b_names = _summed(b, b_names, set(b_names) - {name})
                a, a_names = _summed(a, a_names, set(a_names) - {name})
            else:
                a, a_names = _summed(a, a_names, set(a_names) - {name})
                b, b_names = _summed(b, b_names, set(b_names) - {name})
    inner = [name for name in inner if a_sizes[name] == b_sizes[name]]
    batch = [name for name in both if name in kept]
    rows = [name for name in a_names if name not in both]
    columns = [name for name in b_names if name not in both]
    names = "".join([*batch, *rows, *columns])
    if not inner:
        return _multiplied(a, a_names, b, b_names, names), names
    left = _permuted(a, tuple(a_names.index(name) for name in [*batch, *rows, *inner]))
    right = _permuted(b, tuple(b_names.index(name) for name in [*batch, *inner, *columns]))
    m, k, n = (math.prod(sizes[name] for name in group) for sizes, group in
               ((a_sizes, rows), (a_sizes, inner), (b_sizes, columns)))  # fmt: skip
    left = _reshaped(left, (*(a_sizes[name] for name in batch), m, k))
    right = _reshaped(right, (*(b_sizes[name] for name in batch), k, n))
    out = matmul(left, right)
    shape = (*(max_size(a_sizes[name], b_sizes[name]) for name in batch), *(a_sizes[name] for name in rows),
             *(b_sizes[name] for name in columns))  # fmt: skip
    return _reshaped(out, shape), names


def max_size(n: int, m: int) -> int:
    """The size that two broadcast to."""
    return m if n == 1 else n


def _multiplied(a: Tensor, a_names: str, b: Tensor, b_names: str, names: str) -> Tensor:
    def spread(x: Tensor, own: str) -> Tensor:
        x = _permuted(x, tuple(own.index(name) for name in names if name in own))
        sizes = iter(x.shape)
        return _reshaped(x, tuple(next(sizes) if name in own else 1 for name in names))

    return spread(a, a_names) * spread(b, b_names)


def _cheapest(terms: list[tuple[str, tuple[int, ...]]], output: str) -> tuple[int, int]:
    """Which pair to multiply next: the one whose result is smallest beside what it replaces."""
    if len(terms) == 2:
        return 0, 1
    sizes: dict[str, int] = {}
    for names, shape in terms:
        for name, n in zip(names, shape, strict=True):
            sizes[name] = max_size(sizes.get(name, 1), n)

    def price(i: int, j: int) -> tuple[int, int, int]:
        others = set(output).union(*(names for k, (names, _) in enumerate(terms) if k not in (i, j)))
        joined = set(terms[i][0]) | set(terms[j][0])
        result = math.prod(sizes[name] for name in joined & others)
        work = math.prod(sizes[name] for name in joined)
        return result - math.prod(terms[i][1]) - math.prod(terms[j][1]), work, i

    return min(((i, j) for i in range(len(terms)) for j in range(i + 1, len(terms))), key=lambda pair: price(*pair))


# -- tensordot and the Kronecker product -------------------------------------------------------------------------------


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """The product summed over pairs of dimensions: the last `dims` of `a` with the first of `b`, or two lists of them.

    Raises:
        ShapeError: paired dimensions have different sizes (1 broadcasts).
    """
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.ndim, b.ndim):
            raise ShapeError(f"tensordot: {dims} dimensions are not within both shapes {a.shape} and {b.shape}")
        left, right = tuple(range(a.ndim - dims, a.ndim)), tuple(range(dims))
    else:
        left = dimensions("tensordot", a, dims[0] if not isinstance(dims[0], int) else (dims[0],))
        right = dimensions("tensordot", b, dims[1] if not isinstance(dims[1], int) else (dims[1],))
    if len(left) != len(right):
        raise ShapeError(f"tensordot: {len(left)} dimensions of a for {len(right)} of b")
    for i, j in zip(left, right, strict=True):
        n, m = a.shape[i], b.shape[j]
        if n != m:
            if 1 not in (n, m):
                raise ShapeError(
                    f"tensordot: dimension {i} of a, of shape {a.shape}, has size {n}; dimension {j} of b, of shape "
                    f"{b.shape}, has {m}: they must be equal, or one of them 1"
                )
            a, b = (a, b.sum(j, keepdim=True)) if n == 1 else (a.sum(i, keepdim=True), b)
    rows = [i for i in range(a.ndim) if i not in left]
    columns = [j for j in range(b.ndim) if j not in right]
    m, n = math.prod(a.shape[i] for i in rows), math.prod(b.shape[j] for j in columns)
    k = math.prod(a.shape[i] for i in left)
    out = matmul(
        _reshaped(_permuted(a, (*rows, *left)), (m, k)), _reshaped(_permuted(b, (*right, *columns)), (k, n))
    )  # fmt: skip
    return _reshaped(out, (*(a.shape[i] for i in rows), *(b.shape[j] for j in columns)))


def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: every element of `input` times the whole of `other`, in place of that element."""
    ndim = max(input.ndim, other.ndim)
    a = (1,) * (ndim - input.ndim) + input.shape
    b = (1,) * (ndim - other.ndim) + other.shape
    left = reshape(input, tuple(n for size in a for n in (size, 1)))
    right = reshape(other, tuple(n for size in b for n in (1, size)))
    return reshape(left * right, tuple(n * m for n, m in zip(a, b, strict=True)))
