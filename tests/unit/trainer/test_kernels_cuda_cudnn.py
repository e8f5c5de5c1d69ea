"""Convolutions and attention by cuDNN: on a GPU with `--device cuda`; else by what it does with what it is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cordee.trainer import ops as ops  # declares the kernels
from cordee.trainer.array import get_tf32, set_tf32, to_numpy
from cordee.trainer.kernels import KERNELS
from cordee.trainer.kernels.cuda import cudnn, memory
from cordee.trainer.ops.windows import Window

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "conformance"))
import cudnn_stand_in
from cuda_support import cupy_of_tests

KINDS = [np.float32, ml_dtypes.bfloat16, np.float16]
TOLERANCE: dict[Any, float] = {np.float32: 1e-5, ml_dtypes.bfloat16: 2**-7, np.float16: 2**-10}


@pytest.fixture(autouse=True)
def xp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    device = request.config.getoption("--device")
    if device != "cuda":
        monkeypatch.setattr(cudnn, "_library", lambda: cudnn_stand_in)
        monkeypatch.setattr(cudnn, "_graphs", type(cudnn._graphs)())
        monkeypatch.setattr(memory, "_workspaces", {})
    cudnn_stand_in.graphs.clear()
    cudnn_stand_in.refuse.clear()
    with cupy_of_tests(device, cudnn._handle, memory._of_libraries) as module:
        yield module


def taken(found: Any) -> Any:
    """What cuDNN computed. The stand-in takes all of it; of a device it depends on what it is."""
    if found is NotImplemented and cudnn._library() is not cudnn_stand_in:
        pytest.skip("cuDNN has no plan for this on this device")
    return found


def numbers(*shape: int, seed: int = 0, kind: Any = np.float32) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(kind)


def close(found: Any, expected: Any, kind: Any) -> None:
    values, scale = to_numpy(found).astype(np.float64), max(1.0, float(np.abs(expected).max()))
    assert values.shape == expected.shape
    np.testing.assert_allclose(values, expected, rtol=2 * TOLERANCE[kind], atol=TOLERANCE[kind] * scale)


CONVOLUTIONS: dict[str, Any] = {
    "plain": ((2, 3, 6, 5), (4, 3, 3, 3), Window((3, 3), (1, 1), (0, 0), (1, 1)), 1),
    "padded, strided": ((2, 4, 7, 9), (6, 4, 3, 3), Window((3, 3), (2, 2), (1, 1), (1, 1)), 1),
    "uneven": ((1, 4, 8, 9), (6, 4, 3, 2), Window((3, 2), (2, 3), (1, 0), (1, 2)), 1),
    "groups": ((2, 4, 5, 5), (6, 2, 3, 3), Window((3, 3), (1, 1), (1, 1), (1, 1)), 2),
    "depthwise": ((2, 4, 5, 5), (8, 1, 3, 3), Window((3, 3), (1, 1), (1, 1), (1, 1)), 4),
    "pointwise": ((2, 4, 5, 5), (6, 4, 1, 1), Window((1, 1), (1, 1), (0, 0), (1, 1)), 1),
    "one dimension": ((2, 4, 9), (6, 2, 3), Window((3,), (2,), (2,), (2,)), 2),
    "three dimensions": ((1, 2, 4, 5, 3), (3, 2, 2, 3, 2), Window((2, 3, 2), (1, 2, 1), (0, 1, 1), (1, 1, 1)), 1),
    "larger by its stride": ((2, 3, 8, 8), (4, 3, 2, 2), Window((2, 2), (3, 3), (0, 0), (1, 1)), 1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_and_their_gradients(xp: Any, name: str, kind: Any) -> None:
    shape, weight_shape, window, groups = CONVOLUTIONS[name]
    image, weight, bias = (numbers(*each, kind=kind) for each in (shape, weight_shape, weight_shape[:1]))
    g = numbers(shape[0], weight_shape[0], *window.size(shape[2:]), seed=1, kind=kind)
    exact = [each.astype(np.float64) for each in (image, weight, bias, g)]
    there = [xp.asarray(each) for each in (image, weight, bias, g)]
    for given in (exact[2], None):
        found, kept = taken(cudnn.correlate(*there[:2], None if given is None else there[2], window, groups))
        assert kept is None
        close(found, KERNELS["correlate"].reference(np, *exact[:2], given, window, groups)[0], kind)
    slope = cudnn.ordered(there[3])
    close(slope, exact[3], kind)
    found = taken(cudnn.spread(slope, there[1], shape[2:], window, groups))
    close(found, KERNELS["spread"].reference(np, exact[3], exact[1], shape[2:], window, groups), kind)
    of_weight, of_bias = taken(cudnn.weigh(slope, there[0], window, groups, None, True))
    expected = KERNELS["weigh"].reference(np, exact[3], exact[0], window, groups, None, True)
    close(of_weight, expected[0], kind)
    close(of_bias, expected[1], kind)
    assert of_weight.flags.c_contiguous
    assert cudnn.weigh(slope, there[0], window, groups)[1] is None


def test_windows_that_hang_over_the_end_or_are_left_out(xp: Any) -> None:
    over = Window((3, 3), (2, 2), (0, 0), (1, 1), ceil=True)
    image, weight = numbers(1, 2, 6, 6), numbers(3, 2, 3, 3)
    found, _ = taken(cudnn.correlate(xp.asarray(image), xp.asarray(weight), None, over, 1))
    assert found.shape[2:] == (3, 3)
    close(found, KERNELS["correlate"].reference(np, image, weight, None, over, 1)[0].astype(np.float64), np.float32)
    fewer = Window((2, 2), (1, 1), (0, 0), (1, 1))
    g = xp.asarray(numbers(1, 3, 3, 3))
    assert cudnn.spread(g, xp.asarray(numbers(3, 2, 2, 2)), (6, 6), fewer, 1) is NotImplemented


def test_results_lie_as_the_next_one_reads_them(xp: Any) -> None:
    shape, weight_shape, window, groups = CONVOLUTIONS["groups"]
    image = xp.asarray(numbers(*shape))
    out, _ = taken(cudnn.correlate(image, xp.asarray(numbers(*weight_shape)), None, window, groups))
    assert out.transpose(0, 2, 3, 1).flags.c_contiguous
    assert cudnn._last(out).data.ptr == out.data.ptr  # no copy


def test_single_precision_is_not_rounded_unless_tf32_is_allowed_and_nothing_adds_in_any_order(xp: Any) -> None:
    if "cupy_stand_in" not in str(xp.__file__):
        pytest.skip("the stand-in notes what it was told")
    shape, weight_shape, window, groups = CONVOLUTIONS["plain"]
    before = get_tf32()
    try:
        for allowed in (False, True):
            set_tf32(allowed)
            for kind in (np.float32, np.float16):
                image, weight = (xp.asarray(numbers(*each, kind=kind)) for each in (shape, weight_shape))
                for _ in range(2):
                    cudnn.correlate(image, weight, None, window, groups)
        assert ["TENSOR_CORE" in graph.notes for graph in cudnn_stand_in.graphs] == [True, False, False, False]
        assert all("NONDETERMINISTIC" in graph.notes for graph in cudnn_stand_in.graphs)
    finally:
        set_tf32(before)


def test_what_cudnn_has_no_plan_for_is_left_to_others(xp: Any) -> None:
    if "cupy_stand_in" not in str(xp.__file__):
        pytest.skip("the stand-in refuses what it is told to refuse")
    cudnn_stand_in.refuse += ["conv_fprop", "sdpa_backward"]
    shape, weight_shape, window, groups = CONVOLUTIONS["plain"]
    image, weight = xp.asarray(numbers(*shape)), xp.asarray(numbers(*weight_shape))
    for _ in range(2):  # the second time it is known
        assert cudnn.correlate(image, weight, None, window, groups) is NotImplemented
    q = xp.asarray(numbers(2, 3, 5, 8, kind=np.float16))
    assert cudnn.flash_attention(q, q, q, scale=1.0, causal=False) is NotImplemented  # without its gradient: of no use
    assert cudnn.correlate(image.astype(np.float64), weight.astype(np.float64), None, window, 1) is NotImplemented


ATTENTION = {
    "heads before rows": ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 16), False),
    "heads behind rows": ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 16), True),
    "no heads": ((2, 5, 8), (2, 5, 8), (2, 5, 8), False),
}


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_and_its_gradient(xp: Any, name: str, causal: bool, kind: Any) -> None:
    *shapes, turned = ATTENTION[name]
    values = [numbers(*shape, seed=seed, kind=kind) for seed, shape in enumerate(shapes)]
    g = numbers(*shapes[0][:-1], shapes[2][-1], seed=9, kind=kind)

    def there(a: Any) -> Any:
        return xp.asarray(np.ascontiguousarray(a.swapaxes(1, 2))).swapaxes(1, 2) if turned else xp.asarray(a)

    operands = [there(each) for each in values]
    out, kept = taken(cudnn.flash_attention(*operands, scale=0.4, causal=causal))
    exact = [each.astype(np.float64) for each in values]
    options: dict[str, Any] = {"scale": 0.4, "causal": causal, "kept": None, "keep_scale": 1.0}
    expected, _ = ops.attention._attention(np, *exact, None, **options)
    close(out, expected, kind)
    if turned:
        assert out.transpose(0, 2, 1, 3).flags.c_contiguous
    for slope in (there(g), xp.asarray(g)):
        found = cudnn.flash_attention_grad(slope, *operands, kept, scale=0.4, causal=causal)
        for one, other in zip(found, gradients(*exact, g.astype(np.float64), causal), strict=True):
            close(one, other, kind)


def gradients(q: Any, k: Any, v: Any, g: Any, causal: bool) -> Any:
    scores = q @ k.swapaxes(-1, -2) * 0.4
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    slopes = g @ v.swapaxes(-1, -2)
    slopes = weights * (slopes - (slopes * weights).sum(-1, keepdims=True)) * 0.4
    return slopes @ k, slopes.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ g


def test_attention_that_is_not_taken(xp: Any) -> None:
    half = xp.asarray(numbers(2, 3, 5, 8, kind=np.float16))
    for operands in (
        [half.astype(np.float32)] * 3,
        [half[..., :7]] * 3,
        [half, half[:1], half[:1]],
        [half, half, half.astype(ml_dtypes.bfloat16)],
        [half[None]] * 3,
        [half[:0]] * 3,
    ):
        assert cudnn.flash_attention(*operands, scale=1.0, causal=False) is NotImplemented


def test_attention_in_halves_goes_there_with_its_gradient(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The op beside that of single precision, and what is not taken computed in it."""
    import cordee.trainer as ct

    if "cupy_stand_in" not in str(xp.__file__) or ct.device_name() != "cpu":
        pytest.skip("on a device it goes there anyhow; the stand-in under --device has other providers")
    told: list[str] = []

    def there(a: Any) -> Any:
        return xp.asarray(a)

    def attention(query: Any, key: Any, value: Any, **params: Any) -> Any:
        told.append("forward")
        found = cudnn.flash_attention(*map(there, (query, key, value)), **params)
        return found if found is NotImplemented else (to_numpy(found[0]), found[1])

    def attention_grad(g: Any, query: Any, key: Any, value: Any, kept: Any, **params: Any) -> Any:
        told.append("backward")
        return tuple(map(to_numpy, cudnn.flash_attention_grad(*map(there, (g, query, key, value)), kept, **params)))

    monkeypatch.setitem(ops.attention._flash_attention._providers, np, (attention,))
    monkeypatch.setitem(ops.attention._flash_attention_grad._providers, np, (attention_grad,))
    for size, names in ((8, ["forward", "backward"]), (7, ["forward"])):  # the latter is not taken
        told.clear()
        results = []
        for dtype in (ct.bfloat16, ct.float32):
            q, k, v = (
                ct.tensor(numbers(2, 3, 5, size, seed=seed, kind=ml_dtypes.bfloat16)).to(dtype) for seed in range(3)
            )
            tensors = [each.requires_grad_() for each in (q, k, v)]
            out = ct.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
            (out.float() ** 2).sum().backward()
            results.append([to_numpy(each.data) for each in (out, *(each.grad for each in tensors))])
        assert told == names
        for one, other in zip(*results, strict=True):
            close(one, other.astype(np.float64), ml_dtypes.bfloat16)
