"""Between PyTorch and Cordee: samples turned into ours, results and gradients compared with PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import torch

import cordee.trainer as ct
from cordee.trainer.array import to_numpy

__all__ = ["IGNORED_KEYWORDS", "Converter", "UnfitSampleError", "check_gradients", "compare"]

TOLERANCES = {
    torch.float64: (1e-7, 1e-7),
    torch.float32: (1e-4, 2e-5),
    torch.bfloat16: (2e-2, 2e-2),
    torch.float16: (2e-3, 2e-3),
    torch.complex128: (1e-7, 1e-7),
    torch.complex64: (2e-5, 2e-5),
}
FEW_DIGITS = {torch.bfloat16: 2e-2}
"""Of the largest element: PyTorch rounds long sums and chains of operations once, ours may round in between."""
IGNORED_KEYWORDS = frozenset({"device", "layout", "pin_memory", "memory_format", "out"})


class UnfitSampleError(Exception):
    """This sample is not for us: sparse, complex or on another device."""


# -- between PyTorch and us --------------------------------------------------------------------------------------------


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The values in the same memory order, not shared."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise UnfitSampleError
    source = tensor.detach().resolve_conj().resolve_neg()
    if source.dtype == torch.bfloat16:
        return np.array(source.view(torch.int16).numpy(), order="K").view(ml_dtypes.bfloat16)
    try:
        return np.array(source.numpy(), order="K")
    except TypeError as error:
        raise UnfitSampleError from error


def _dtype(dtype: torch.dtype) -> Any:
    name = str(dtype).removeprefix("torch.")
    try:
        return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
    except TypeError as error:
        raise UnfitSampleError from error


def _function(function: Any) -> Any:
    """Our function or module for one of PyTorch's, as an argument."""
    if isinstance(function, torch.nn.Module):
        ours = getattr(ct.nn, type(function).__name__, None)
        return ours() if ours is not None else function
    return getattr(ct.nn.functional, getattr(function, "__name__", ""), function)


def _to_torch(ours: Any) -> Any:
    """Our tensor as PyTorch's."""
    array = to_numpy(ours.data)
    if array.dtype == np.dtype(ml_dtypes.bfloat16):
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, copy=True))


class Converter:
    """Turns a sample's arguments into ours, and remembers which leaf of PyTorch's became which leaf of ours."""

    def __init__(self) -> None:
        self.leaves: list[tuple[torch.Tensor, Any]] = []

    def __call__(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            ours = ct.tensor(_array(value))
            if value.requires_grad:
                ours.requires_grad = True
                self.leaves.append((value, ours))
            return ours
        if isinstance(value, torch.dtype):
            return _dtype(value)
        if isinstance(value, torch.device):
            return "cpu"
        if isinstance(value, torch.Size):
            return tuple(value)
        if isinstance(value, (list, tuple)):
            made = [self(item) for item in value]
            return made if isinstance(value, list) else tuple(made)
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        if isinstance(value, (torch.Generator, torch.layout, torch.memory_format)):
            raise UnfitSampleError
        if callable(value):
            return _function(value)
        return value

    def keywords(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {key: self(value) for key, value in kwargs.items() if key not in IGNORED_KEYWORDS}


# -- comparing ---------------------------------------------------------------------------------------------------------


def compare(ours: Any, theirs: Any, values: bool, where: str = "result") -> None:
    """Raise AssertionError where the two differ."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, ct.Tensor), f"{where}: a {type(ours).__name__}, not a tensor"
        theirs = theirs.detach().resolve_conj().resolve_neg()
        if theirs.layout != torch.strided:
            raise UnfitSampleError
        got = _to_torch(ours)
        assert tuple(got.shape) == tuple(theirs.shape), f"{where}: shape {tuple(got.shape)}, not {tuple(theirs.shape)}"
        assert got.dtype == theirs.dtype, f"{where}: dtype {got.dtype}, not {theirs.dtype}"
        if values:
            rtol, atol = TOLERANCES.get(theirs.dtype, (0.0, 0.0))
            if theirs.dtype in FEW_DIGITS and theirs.numel():
                atol = max(atol, FEW_DIGITS[theirs.dtype] * float(theirs.nan_to_num(0, 0, 0).abs().max()))
            try:
                torch.testing.assert_close(got, theirs, rtol=rtol, atol=atol, equal_nan=True)
            except AssertionError as error:
                head = " ".join(str(error).split("\n\n")[-1].split())[:160]
                raise AssertionError(
                    f"{where}: {head}; ours {got.flatten()[:4].tolist()}, PyTorch's {theirs.flatten()[:4].tolist()}"
                ) from None
    elif isinstance(theirs, (list, tuple)):
        assert isinstance(ours, (list, tuple)), f"{where}: a {type(ours).__name__}, not a {type(theirs).__name__}"
        assert len(ours) == len(theirs), f"{where}: {len(ours)} items, not {len(theirs)}"
        for number, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
            compare(mine, its, values, f"{where}[{number}]")
    elif isinstance(theirs, (float, complex)):
        assert not values or np.allclose(ours, theirs, rtol=1e-6, atol=1e-6, equal_nan=True), f"{where}: {ours!r}"
    elif theirs is not None or ours is not None:
        assert ours == theirs, f"{where}: {ours!r}, not {theirs!r}"


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _weighted_sum(outputs: Any, weights: list[tuple[Any, Any] | None], kind: type) -> Any:
    """The sum of the outputs under weights (real and imaginary part; None where an output takes no part)."""
    total: Any = None
    for output, weight in zip((o for o in _flat(outputs) if isinstance(o, kind)), weights, strict=True):
        if weight is None:
            continue
        real, imag = weight
        part = (output * real).sum() if imag is None else (output.real * real).sum() + (output.imag * imag).sum()
        total = part if total is None else total + part
    return total


def check_gradients(ours: Any, theirs: Any, leaves: list[tuple[torch.Tensor, Any]]) -> bool:
    """Compare the gradients of all leaves; False when PyTorch has none to compare with."""
    generator = torch.Generator().manual_seed(1)
    weights: list[tuple[Any, Any] | None] = []
    for output in (o for o in _flat(theirs) if isinstance(o, torch.Tensor)):
        if output.requires_grad and output.numel():
            drawn = torch.randn(output.shape, dtype=output.dtype, generator=generator)
            weights.append((drawn.real, drawn.imag) if drawn.is_complex() else (drawn, None))
        else:
            weights.append(None)
    loss = _weighted_sum(theirs, weights, torch.Tensor)
    if loss is None:
        return False
    try:
        expected = torch.autograd.grad(loss, [leaf for leaf, _ in leaves], allow_unused=True)
    except RuntimeError:
        return False
    in_ours = [w and tuple(None if part is None else ct.tensor(_array(part)) for part in w) for w in weights]
    mine = _weighted_sum(ours, in_ours, ct.Tensor)
    assert mine.requires_grad, "the result does not require a gradient"
    mine.backward()
    for number, ((_, leaf), want) in enumerate(zip(leaves, expected, strict=True)):
        got = leaf.grad
        if want is None or got is None:
            rest = got if want is None else want
            if rest is not None and np.any(_array(rest) if isinstance(rest, torch.Tensor) else to_numpy(rest.data)):
                raise AssertionError(
                    f"gradient of leaf {number}: only {'PyTorch has' if got is None else 'ours is'} one"
                )
            continue
        compare(got, want, values=True, where=f"gradient of leaf {number}")
    return True
