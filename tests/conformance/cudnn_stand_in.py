"""What cuDNN does with the graphs that its frontend is told, on the host: for tests of who tells it, where there is no
GPU.

The names are the frontend's: a graph is told in dims and strides, planned, and executed on addresses. Stricter than
cuDNN: dims that do not follow from each other, addresses without a tensor and steps out of order raise.
"""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["backend_version", "create_handle", "cudnnGraphNotSupportedError", "data_type", "graphs", "heur_mode",
           "numerical_note", "pygraph", "refuse", "set_stream"]  # fmt: skip

__version__ = "1.32.0"
graphs: list[pygraph] = []
"""Those that were planned."""
refuse: list[str] = []
"""Operations that are not supported, for a test."""


class cudnnGraphNotSupportedError(RuntimeError):
    """There is no plan."""


class data_type:
    FLOAT, HALF, BFLOAT16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)


class heur_mode:
    A, FALLBACK = "A", "FALLBACK"


class numerical_note:
    NONDETERMINISTIC, TENSOR_CORE = "NONDETERMINISTIC", "TENSOR_CORE"
    DOWN_CONVERT_INPUTS, REDUCED_PRECISION_REDUCTION = "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"


def backend_version() -> int:
    return 92800


def create_handle() -> object:
    return object()


def set_stream(handle: object, stream: int) -> None:
    pass


class _Tensor:
    def __init__(self, dim: Any = None, stride: Any = None, data_type: Any = None, uid: int = 0) -> None:
        self.dim, self.stride, self.dtype, self.uid, self.output = dim, stride, data_type, uid, False
        self.value: Any = None

    def set_output(self, output: bool) -> _Tensor:
        self.output = output
        return self

    def set_dim(self, dim: Any) -> _Tensor:
        if self.dim is not None and self.dim != dim:
            raise ValueError(f"a result of {self.dim} is told to be one of {dim}")
        self.dim = dim
        return self

    def set_stride(self, stride: Any) -> _Tensor:
        self.stride = stride
        return self

    def set_uid(self, uid: int) -> _Tensor:
        self.uid = uid
        return self

    def set_data_type(self, dtype: Any) -> _Tensor:
        self.dtype = dtype
        return self

    def memory(self, address: int) -> Any:
        """A view of it, as it was told to lie there."""
        extent = sum((n - 1) * step for n, step in zip(self.dim, self.stride, strict=True)) + 1
        buffer = (ctypes.c_char * (extent * self.dtype.itemsize)).from_address(address)
        steps = [step * self.dtype.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(np.frombuffer(buffer, self.dtype), self.dim, steps)


class pygraph:
    """A graph: operands, operations in order, and how far it is planned."""

    _STEPS = ("validate", "build_operation_graph", "create_execution_plans", "deselect_numeric_notes",
              "deselect_engines", "check_support", "build_plans")  # fmt: skip

    def __init__(self, *, io_data_type: Any, intermediate_data_type: Any, compute_data_type: Any, handle: Any) -> None:
        assert intermediate_data_type == compute_data_type == data_type.FLOAT
        self.io, self.tensors, self.operations, self.done = io_data_type, [], [], 0
        self.notes: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name not in self._STEPS:
            raise AttributeError(name)

        def step(*args: Any) -> None:
            if self._STEPS[self.done] != name:
                raise RuntimeError(f"{name} before {self._STEPS[self.done]}")
            self.done += 1
            if name == "deselect_numeric_notes":
                self.notes = args[0]
            if name == "check_support" and any(each[0] in refuse for each in self.operations):
                raise cudnnGraphNotSupportedError("no plan")
            if name == "build_plans":
                graphs.append(self)

        return step

    def get_workspace_size(self) -> int:
        return 1 << 10

    def tensor(self, *, dim: Any, stride: Any, data_type: Any, uid: int) -> _Tensor:
        made = _Tensor(dim, stride, data_type, uid)
        self.tensors.append(made)
        return made

    def _does(self, name: str, dims: Any, compute: Any) -> Any:
        made = [_Tensor(dim) for dim in dims]
        self.tensors += made
        self.operations.append((name, made, compute))
        return made[0] if len(made) == 1 else tuple(made)

    def conv_fprop(self, *, image: _Tensor, weight: _Tensor, **slides: Any) -> Any:
        dims = [image.dim[0], weight.dim[0], *_counts(image.dim, weight.dim, **slides)]
        return self._does("conv_fprop", [dims], lambda: [_fprop(image.value, weight.value, dims, slides)])

    def conv_dgrad(self, *, loss: _Tensor, filter: _Tensor, **slides: Any) -> Any:
        return self._does("conv_dgrad", [None], lambda out: [_dgrad(loss.value, filter.value, out[0].dim, slides)])

    def conv_wgrad(self, *, image: _Tensor, loss: _Tensor, **slides: Any) -> Any:
        return self._does("conv_wgrad", [None], lambda out: [_wgrad(loss.value, image.value, out[0].dim, slides)])

    def bias(self, *, input: _Tensor, bias: _Tensor) -> Any:
        assert bias.dim == [1, input.dim[1], *[1] * (len(input.dim) - 2)]
        return self._does("bias", [input.dim], lambda: [input.value + bias.value])

    def sdpa(
        self, *, q: _Tensor, k: _Tensor, v: _Tensor, attn_scale: float, use_causal_mask: bool, generate_stats: bool
    ) -> Any:
        assert generate_stats
        assert self.io != data_type.FLOAT

        def compute() -> Any:
            weights, stats = _weights(q.value, k.value, attn_scale, use_causal_mask)
            return [weights @ v.value, stats]

        return self._does("sdpa", [[*q.dim[:-1], v.dim[-1]], [*q.dim[:-1], 1]], compute)

    def sdpa_backward(
        self, *, q: _Tensor, k: _Tensor, v: _Tensor, o: _Tensor, dO: _Tensor, stats: _Tensor, attn_scale: float,
        use_causal_mask: bool, use_deterministic_algorithm: bool,
    ) -> Any:  # fmt: skip
        assert use_deterministic_algorithm

        def compute() -> Any:
            weights, found = _weights(q.value, k.value, attn_scale, use_causal_mask)
            np.testing.assert_allclose(stats.value, found, rtol=1e-5, atol=1e-5)  # they are of the forward pass
            slopes = dO.value @ v.value.swapaxes(-1, -2)
            slopes = weights * (slopes - (dO.value * o.value).sum(-1, keepdims=True)) * attn_scale
            return [slopes @ k.value, slopes.swapaxes(-1, -2) @ q.value, weights.swapaxes(-1, -2) @ dO.value]

        return self._does("sdpa_backward", [q.dim, k.dim, v.dim], compute)

    def execute(self, addresses: dict[int, int], workspace: int, *, handle: Any) -> None:
        if self.done != len(self._STEPS):
            raise RuntimeError("it is not planned")
        real = {tensor.uid: tensor for tensor in self.tensors if tensor.uid}
        if {*addresses} != {*real}:
            raise ValueError(f"addresses of {sorted(addresses)} for {sorted(real)}")
        for uid, tensor in real.items():
            if not tensor.output:
                tensor.value = tensor.memory(addresses[uid]).astype(np.float64)
        for _, made, compute in self.operations:
            values = compute(made) if compute.__code__.co_argcount else compute()
            for tensor, value in zip(made, values, strict=True):
                tensor.value = value
                if tensor.output:
                    tensor.memory(addresses[tensor.uid])[...] = value


def _counts(image: Any, weight: Any, pre_padding: Any, post_padding: Any, stride: Any, dilation: Any) -> list[int]:
    if min(*pre_padding, *post_padding) < 0 or image[1] % weight[1]:
        raise ValueError("negative padding, or channels that do not divide into groups")
    lines = zip(image[2:], weight[2:], pre_padding, post_padding, stride, dilation, strict=True)
    return [(n + p + q - d * (k - 1) - 1) // s + 1 for n, k, p, q, s, d in lines]


def _sites(shape: Any, counts: Any, slides: Any) -> Any:
    """For each place in the window, what it sees of the padded image."""
    for place in itertools.product(*map(range, shape)):
        yield (
            place,
            tuple(
                slice(i * d, i * d + (m - 1) * s + 1, s)
                for i, d, s, m in zip(place, slides["dilation"], slides["stride"], counts, strict=True)
            ),
        )


def _padded(image: Any, slides: Any) -> Any:
    return np.pad(image, [(0, 0), (0, 0), *zip(slides["pre_padding"], slides["post_padding"], strict=True)])


def _fprop(image: Any, weight: Any, dims: Any, slides: Any) -> Any:
    padded, out = _padded(image, slides), np.zeros(dims)
    per_group, groups = weight.shape[1], image.shape[1] // weight.shape[1]
    for g in range(groups):
        mine = slice(g * weight.shape[0] // groups, (g + 1) * weight.shape[0] // groups)
        channels = slice(g * per_group, (g + 1) * per_group)
        for place, seen in _sites(weight.shape[2:], dims[2:], slides):
            out[:, mine] += np.einsum(
                "oc,nc...->no...", weight[(mine, slice(None), *place)], padded[(slice(None), channels, *seen)]
            )
    return out


def _dgrad(loss: Any, weight: Any, dims: Any, slides: Any) -> Any:
    if [*loss.shape[2:]] != _counts(dims, weight.shape, **slides):
        raise ValueError("so large an image has another number of windows")
    padded = _padded(np.zeros(dims), slides)
    per_group, groups = weight.shape[1], dims[1] // weight.shape[1]
    for g in range(groups):
        mine = slice(g * weight.shape[0] // groups, (g + 1) * weight.shape[0] // groups)
        channels = slice(g * per_group, (g + 1) * per_group)
        for place, seen in _sites(weight.shape[2:], loss.shape[2:], slides):
            padded[(slice(None), channels, *seen)] += np.einsum(
                "oc,no...->nc...", weight[(mine, slice(None), *place)], loss[:, mine]
            )
    return padded[(..., *(slice(p, p + n) for p, n in zip(slides["pre_padding"], dims[2:], strict=True)))]


def _wgrad(loss: Any, image: Any, dims: Any, slides: Any) -> Any:
    if [*loss.shape[2:]] != _counts(image.shape, dims, **slides):
        raise ValueError("such an image has another number of windows")
    padded, out = _padded(image, slides), np.zeros(dims)
    groups = image.shape[1] // dims[1]
    for g in range(groups):
        mine = slice(g * dims[0] // groups, (g + 1) * dims[0] // groups)
        channels = slice(g * dims[1], (g + 1) * dims[1])
        for place, seen in _sites(dims[2:], loss.shape[2:], slides):
            axes = (0, *range(2, image.ndim))
            out[(mine, slice(None), *place)] = np.tensordot(
                loss[:, mine], padded[(slice(None), channels, *seen)], axes=(axes, axes)
            )
    return out


def _weights(q: Any, k: Any, scale: float, causal: bool) -> tuple[Any, Any]:
    scores = q @ k.swapaxes(-1, -2) * scale
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    sums = np.exp(scores - top).sum(-1, keepdims=True)
    return np.exp(scores - top) / sums, top + np.log(sums)
