"""Calls that arrange, index, scatter and multiply, which read the same in PyTorch and here: values and gradients.

`L` is either library, `F` its `nn.functional`. Each call takes floating tensors and then whole-number or boolean ones,
drawn by the engine's own sampler, so that inputs need no storing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cordee.trainer.autograd.record import Sampler

__all__ = ["CALLS", "Call", "inputs_of", "output_weights"]


@dataclass(frozen=True)
class Call:
    """`call(L, F, *floats, *constants)`; the floats have these shapes, the constants are these arrays."""

    call: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    constants: tuple[Any, ...] = ()
    twice: bool = True
    """PyTorch has a second gradient too."""


I3 = np.array([2, 0, 2])
I4 = np.array([[0, 3], [1, 1], [2, 0]])
WIDE = np.array([[0, 3, 3, 1, 2], [1, 1, 0, 0, 2], [2, 0, 1, 3, 3]])
MASK = np.array([[True, False, True, True], [False, False, True, False], [True, True, False, True]])
TOKENS = np.array([[1, 4, 1, 0], [3, 3, 1, 1]])
OFFSETS = np.array([0, 2, 2, 5])
A, B, C, V = (3, 4), (4, 2), (2, 3, 4), (4,)

CALLS: dict[str, Call] = {
    # shape
    "ravel": Call(lambda L, F, a: L.ravel(a.mT) * 2, (C,)),
    "unflatten": Call(lambda L, F, a: a.unflatten(1, (2, -1)), (A,)),
    "squeeze, several": Call(lambda L, F, a: a.reshape(1, 3, 1, 4).squeeze((0, 1)), (A,)),
    "movedim, several": Call(lambda L, F, a: L.movedim(a, (0, 2), (2, 1)), (C,)),
    "moveaxis": Call(lambda L, F, a: L.moveaxis(a, -1, 0), (C,)),
    "swapdims": Call(lambda L, F, a: L.swapdims(a, 0, 2), (C,)),
    "adjoint": Call(lambda L, F, a: a.adjoint(), (C,)),
    "broadcast_tensors": Call(lambda L, F, a, b: L.stack(L.broadcast_tensors(a, b)), (A, (3, 1))),
    "tile": Call(lambda L, F, a: L.tile(a, (2,)) * 3, (C,)),
    "repeat_interleave": Call(lambda L, F, a: L.repeat_interleave(a, 2, 1), (A,)),
    "repeat_interleave, each": Call(lambda L, F, a, n: a.repeat_interleave(n, 0), (A,), (np.array([2, 0, 3]),)),
    "repeat_interleave, flat": Call(lambda L, F, a: L.repeat_interleave(a, 3), (A,)),
    # company
    "hstack": Call(lambda L, F, a, b: L.hstack([a, b]), (A, (3, 2))),
    "hstack, vectors": Call(lambda L, F, a, b: L.hstack([a, b]), (V, (2,))),
    "vstack": Call(lambda L, F, a, v: L.vstack([a, v]), (A, V)),
    "dstack": Call(lambda L, F, a, b: L.dstack([a, b]), (A, A)),
    "column_stack": Call(lambda L, F, a, v: L.column_stack([a, v]), (A, (3,))),
    "stack, last": Call(lambda L, F, a, b: L.stack([a, b, a], -1), (A, A)),
    "tensor_split": Call(lambda L, F, a: L.tensor_split(a, 3, 1)[0] * L.tensor_split(a, [1, -1], 1)[1], ((3, 4),)),
    "hsplit": Call(lambda L, F, a: L.hsplit(a, 2)[1], (A,)),
    "vsplit": Call(lambda L, F, a: L.vsplit(a, [1])[1], (A,)),
    "dsplit": Call(lambda L, F, a: L.dsplit(a, 2)[0], (C,)),
    "atleast_3d": Call(lambda L, F, v, a: L.atleast_3d(v)[0] * L.atleast_3d(a)[:, :, 0].sum(), (V, A)),
    "block_diag": Call(lambda L, F, a, v: L.block_diag(a, v, a), (A, V)),
    "cartesian_prod": Call(lambda L, F, a, b: L.cartesian_prod(a, b), (V, (3,))),
    "combinations": Call(lambda L, F, v: L.combinations(v, 3) * 2, (V,)),
    "combinations, with replacement": Call(lambda L, F, v: L.combinations(v, with_replacement=True), (V,)),
    # order, triangles and diagonals
    "flip": Call(lambda L, F, a: L.flip(a, (0, 2)), (C,)),
    "fliplr, flipud": Call(lambda L, F, a: L.fliplr(a) * L.flipud(a), (A,)),
    "roll": Call(lambda L, F, a: L.roll(a, (1, -2), (0, 1)) * L.roll(a, 5), (A,)),
    "rot90": Call(lambda L, F, a: L.rot90(a, 1, (1, 2)).sum(1) * L.rot90(a, -1, (1, 2)).sum(1), (C,)),
    "rot90, twice": Call(lambda L, F, a: L.rot90(a, 2) * L.rot90(a, 0), (A,)),
    "diag": Call(lambda L, F, a, v: L.diag(a, 1) * L.diag(v, -1).sum(), (A, V)),
    "diagonal": Call(lambda L, F, a: L.diagonal(a, -1, 2, 0), (C,)),
    "diag_embed": Call(lambda L, F, a: L.diag_embed(a, 1, 0, 2), (A,)),
    "diagflat": Call(lambda L, F, a: L.diagflat(a, -2), (A,)),
    "diagonal_scatter": Call(lambda L, F, a, v: L.diagonal_scatter(a, v, 1), (A, (3,))),
    "tril, triu": Call(lambda L, F, a: L.tril(a, -1) * 2 + L.triu(a, 2), (C,)),
    # borders and windows
    "pad, constant": Call(lambda L, F, a: F.pad(a, (1, -1, -1, 2), value=0.5), (A,)),
    "pad, reflect": Call(lambda L, F, a: F.pad(a, (3, 2), mode="reflect"), (C,)),
    "pad, replicate": Call(lambda L, F, a: F.pad(a[None], (2, 5, 0, 1), mode="replicate"), (C,)),
    "pad, circular": Call(lambda L, F, a: F.pad(a[None], (4, 1, 2, 3), mode="circular"), (C,)),
    "unfold": Call(lambda L, F, a: a.unfold(1, 3, 2) * a.unfold(1, 3, 1)[:, :3], ((2, 7),)),
    "as_strided": Call(lambda L, F, a: L.as_strided(a, (3, 3), (2, 1), 1), (A,)),
    # indexing
    "index, numbers and slices": Call(lambda L, F, a: a[1, ..., None, 1:3] * a[0, -1, None, ::2], (C,)),
    "index, lists": Call(lambda L, F, a: a[:, [2, 0, 2], 1:], (C,)),
    "index, number before": Call(lambda L, F, a, i: a[0, :, i], (C,), (I3,)),
    "index, number between": Call(lambda L, F, a, i: a[i, 1, :, i], ((3, 2, 2, 4),), (I3,)),
    "index, two arrays": Call(lambda L, F, a, i, j: a[:, i, j], (C,), (I3, np.array([0, -1, 0]))),
    "index, apart": Call(lambda L, F, a, i: a[i, :, i[:, None]], ((3, 2, 4),), (I3,)),
    "index, int32": Call(lambda L, F, a, i: a[i], (A,), (I3.astype(np.int32),)),
    "index, mask": Call(lambda L, F, a, m: a[m], (A,), (MASK,)),
    "index, mask and slice": Call(lambda L, F, a, m: a[:, m], (C,), (np.array([True, False, True]),)),
    "index, mask and array": Call(lambda L, F, a, m, i: a[m, i], (A,), (np.array([True, False, True]), I3[::2])),
    "index, None": Call(lambda L, F, a, i: a[None, i, None, :], (A,), (I3,)),
    "index_select": Call(lambda L, F, a, i: L.index_select(a, 1, i), (A,), (I3,)),
    "take": Call(lambda L, F, a, i: L.take(a, i), (A,), (np.array([[0, 11], [5, -1]]),)),
    "take_along_dim": Call(lambda L, F, a, i: L.take_along_dim(a, i, 1), (A,), (I4,)),
    "narrow, select": Call(lambda L, F, a: L.narrow(a, 2, 1, 2) * L.select(a, 2, -1)[..., None], (C,)),
    "index_put": Call(lambda L, F, a, v, i, j: L.index_put(a, (i, j), v), (A, (2,)), (I3[:2], I3[:2])),
    "index_put, adding": Call(lambda L, F, a, v, i: L.index_put(a, (i,), v, True), (A, V), (I3,)),
    "index_add": Call(lambda L, F, a, s, i: L.index_add(a, 1, i, s, alpha=2), (A, (3, 3)), (I3,)),
    "index_copy": Call(lambda L, F, a, s, i: L.index_copy(a, 1, i, s), (A, (3, 2)), (I3[:2],)),
    "index_fill": Call(lambda L, F, a, i: L.index_fill(a, 1, i, 2.5), (A,), (I3,)),
    "put": Call(lambda L, F, a, s, i: L.put(a, i, s, True), (A, (2, 2)), (np.array([[0, 11], [5, 0]]),)),
    "masked_fill": Call(lambda L, F, a, m: a.masked_fill(m, 0.5), (C,), (MASK,)),
    "masked_scatter": Call(lambda L, F, a, s, m: L.masked_scatter(a, m, s), (A, (3, 4)), (MASK,)),
    "masked_select": Call(lambda L, F, a, m: L.masked_select(a, m), (C,), (MASK,)),
    "select_scatter": Call(lambda L, F, a, s: L.select_scatter(a, s, 1, 2), (A, (3,))),
    "slice_scatter": Call(lambda L, F, a, s: L.slice_scatter(a, s, 1, 1, 4, 2), (A, (3, 2))),
    # gather and scatter
    "gather, small index": Call(lambda L, F, a, i: L.gather(a, 0, i), ((4, 3),), (I4[:2],)),
    "scatter": Call(lambda L, F, a, s, i: L.scatter(a, 1, i, s), (A, (3, 2)), (np.array([[0, 3], [1, 2], [2, 0]]),)),
    "scatter, a number": Call(lambda L, F, a, i: L.scatter(a, 1, i, 2.5), (A,), (I4,)),
    "scatter_add": Call(lambda L, F, a, s, i: L.scatter_add(a, 1, i, s), (A, (3, 5)), (WIDE,)),
    "scatter_reduce, sum": Call(
        lambda L, F, a, s, i: L.scatter_reduce(a, 1, i, s, "sum", include_self=False), (A, (3, 5)), (WIDE,)
    ),
    "scatter_reduce, mean": Call(lambda L, F, a, s, i: L.scatter_reduce(a, 1, i, s, "mean"), (A, (3, 5)), (WIDE,)),
    "scatter_reduce, prod": Call(
        lambda L, F, a, s, i: L.scatter_reduce(a, 1, i, s, "prod"), (A, (3, 5)), (WIDE,)
    ),
    "scatter_reduce, amax": Call(
        lambda L, F, a, s, i: L.scatter_reduce(a, 1, i, s, "amax", include_self=False), (A, (3, 5)), (WIDE,)
    ),
    "scatter_reduce, amin, equals": Call(
        lambda L, F, a, s, i: L.scatter_reduce(a * 0.0, 1, i, s * 0.0, "amin"), (A, (3, 5)), (WIDE,)
    ),
    "index_reduce": Call(lambda L, F, a, s, i: L.index_reduce(a, 1, i, s, "mean"), (A, (3, 3)), (I3,)),
    # embeddings
    "embedding, padding": Call(lambda L, F, w, t: F.embedding(t, w, padding_idx=1), ((5, 3),), (TOKENS,)),
    "embedding, by frequency": Call(
        lambda L, F, w, t: F.embedding(t, w, scale_grad_by_freq=True), ((5, 3),), (TOKENS,), twice=False
    ),
    "embedding_bag, mean": Call(lambda L, F, w, t: F.embedding_bag(t, w), ((5, 3),), (TOKENS,), twice=False),
    "embedding_bag, offsets": Call(
        lambda L, F, w, t, o: F.embedding_bag(t.reshape(-1), w, o, mode="sum"), ((5, 3),), (TOKENS, OFFSETS),
        twice=False,
    ),
    "embedding_bag, max": Call(
        lambda L, F, w, t, o: F.embedding_bag(t.reshape(-1), w, o, mode="max"), ((5, 3),), (TOKENS, OFFSETS),
        twice=False,
    ),
    "embedding_bag, weights": Call(
        lambda L, F, w, p, t: F.embedding_bag(t, w, per_sample_weights=p, mode="sum"), ((5, 3), (2, 4)), (TOKENS,),
        twice=False,
    ),
    "embedding_bag, padding": Call(
        lambda L, F, w, t: F.embedding_bag(t, w, padding_idx=1, mode="mean"), ((5, 3),), (TOKENS,), twice=False
    ),
    # products
    "matmul, vector and batch": Call(lambda L, F, v, a: L.matmul(v, a) * (a.mT @ v), ((3,), (2, 3, 3))),
    "vdot, inner": Call(lambda L, F, v, a, b: L.inner(a, b) * L.vdot(v, v), (V, A, C)),
    "addmm": Call(lambda L, F, a, b, c: L.addmm(a, b, c, beta=0.5, alpha=2.0), ((2,), A, B)),
    "addmv": Call(lambda L, F, a, b, v: L.addmv(a, b, v, beta=0.5), ((3,), A, V)),
    "addr": Call(lambda L, F, a, b, v: L.addr(a, b, v, alpha=-1.0), (A, (3,), V)),
    "baddbmm": Call(lambda L, F, a, b, c: L.baddbmm(a, b, c, alpha=0.5), ((3, 2), C, (2, 4, 2))),
    "addbmm": Call(lambda L, F, a, b, c: L.addbmm(a, b, c, beta=2.0), ((3, 2), C, (2, 4, 2))),
    "linear, a vector of weights": Call(lambda L, F, a, w: F.linear(a, w), (C, V)),
    "bilinear": Call(lambda L, F, a, b, w, c: F.bilinear(a, b, w, c), (A, (3, 2), (5, 4, 2), (5,))),
    "tensordot": Call(lambda L, F, a, b: L.tensordot(a, b, ([0, 2], [1, 0])), (C, (4, 2, 3))),
    "tensordot, a number": Call(lambda L, F, a, b: L.tensordot(a, b, 2), (C, (*A, 2))),
    "kron": Call(lambda L, F, a, b: L.kron(a, b), (A, (2, 2, 2))),
    "einsum, matmul": Call(lambda L, F, a, b: L.einsum("bij,jk->kbi", a, b), (C, B)),
    "einsum, implicit": Call(lambda L, F, a, b: L.einsum("ba,cb", a, b), (A, (2, 3))),
    "einsum, diagonal": Call(lambda L, F, a: L.einsum("iij->ji", a), ((3, 3, 2),)),
    "einsum, trace": Call(lambda L, F, a: L.einsum("ii", a), ((3, 3),)),
    "einsum, ellipsis": Call(lambda L, F, a, b: L.einsum("...ij,...j->...i", a, b), ((2, 1, 3, 4), (5, 4))),
    "einsum, three": Call(lambda L, F, a, b, c: L.einsum("ij,jk,kl->il", a, b, c), (A, B, (2, 3))),
    "einsum, attention": Call(
        lambda L, F, q, k, v: L.einsum("bhqd,bhkd,bhkv->bqhv", q, k, v), ((2, 2, 3, 4), (2, 2, 2, 4), (2, 2, 2, 3))
    ),
    "einsum, outer": Call(lambda L, F, a, b: L.einsum("i,j->ji", a, b), (V, (3,))),
    "einsum, elementwise": Call(lambda L, F, a, b: L.einsum("ij,ij->ij", a, b), (A, A)),
    "einsum, sums": Call(lambda L, F, a, b: L.einsum("ijk,l->jl", a, b), (C, V)),
    "einsum, lists": Call(lambda L, F, a, b: L.einsum(a, [0, 1, 2], b, [2, 3], [0, 3]), (C, B)),
    "cdist": Call(lambda L, F, a, b: L.cdist(a, b), (A, (5, 4))),
    "cdist, 1": Call(lambda L, F, a, b: L.cdist(a, b, 1.0), (C, (2, 5, 4)), twice=False),
    "cdist, 3": Call(lambda L, F, a, b: L.cdist(a, b, 3.0), (A, (5, 4)), twice=False),
    "cdist, inf": Call(lambda L, F, a, b: L.cdist(a, b, float("inf")), (A, (5, 4)), twice=False),
    "cdist, many": Call(lambda L, F, a, b: L.cdist(a, b), ((2, 26), (4, 26))),
    "cdist of equals": Call(lambda L, F, a: L.cdist(a, a * 1.0), (A,), twice=False),
    "pdist": Call(lambda L, F, a: L.pdist(a), (A,), twice=False),
    "cosine_similarity": Call(lambda L, F, a, b: L.cosine_similarity(a, b, -1), (C, V)),
    "pairwise_distance": Call(lambda L, F, a, b: L.pairwise_distance(a, b, 3.0), (A, A)),
}  # fmt: skip


def inputs_of(name: str) -> tuple[list[Any], list[Any]]:
    """The floating arrays and the constant ones of a call."""
    sampler = Sampler(5)
    return [sampler.normal(*shape) for shape in CALLS[name].shapes], [np.array(c) for c in CALLS[name].constants]


def output_weights(shape: tuple[int, ...]) -> Any:
    """The gradient that is sent into a result: different for each element."""
    return np.cos(np.arange(int(np.prod(shape, dtype=int)), dtype=np.float64)).reshape(shape)
