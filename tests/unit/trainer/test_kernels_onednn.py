"""oneDNN's convolutions, each beside NumPy's: every layout, odd numbers everywhere, on one thread and on two."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.trainer.test_kernels_llvm import bits, threads

from cordee.trainer import kernels, ops, tensor
from cordee.trainer.array import bfloat16
from cordee.trainer.errors import KernelError
from cordee.trainer.kernels.onednn import library, primitives
from cordee.trainer.kernels.providers import PROVIDERS
from cordee.trainer.ops.windows import Window

__all__ = ["threads"]

pytestmark = pytest.mark.skipif(bool(PROVIDERS["onednn"].lack()), reason=PROVIDERS["onednn"].lack() or "-")

needs_bfloat16 = pytest.mark.skipif(
    not PROVIDERS["onednn"].lack() and not library.has_bfloat16(), reason="the CPU does not multiply bfloat16"
)


def both(name: str, *operands: Any, **params: Any) -> tuple[Any, Any]:
    """What oneDNN computes, and what NumPy does, in float64."""
    provider = kernels.registry.load(name, "onednn")
    fast = provider(*operands, **params)
    assert fast is not NotImplemented
    assert bits(fast) == bits(provider(*operands, **params))
    wide = [x.astype(np.float64) if isinstance(x, np.ndarray) else x for x in operands]
    return fast, kernels.KERNELS[name].reference(np, *wide, **params)


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]:
        if isinstance(one, np.ndarray):
            assert one.shape == other.shape
            scale = np.abs(other).max() if other.size else 1.0
            np.testing.assert_allclose(one.astype(np.float64), other, rtol=0, atol=tolerance * scale)
        else:
            assert one is None


# -- convolutions ------------------------------------------------------------------------------------------------------

WINDOWS: dict[str, tuple[tuple[int, ...], int, int, Window]] = {
    # the image's shape, channels of the result, groups, the window
    "line": ((2, 3, 9), 5, 1, Window((3,), (2,), (1,), (1,))),
    "line, dilated, grouped": ((1, 4, 11), 6, 2, Window((2,), (1,), (0,), (3,))),
    "one sample, one channel": ((1, 1, 5, 4), 1, 1, Window((3, 3), (1, 1), (1, 1), (1, 1))),
    "first layer": ((3, 3, 12, 10), 7, 1, Window((7, 7), (2, 2), (3, 3), (1, 1))),
    "wide": ((2, 16, 6, 7), 32, 1, Window((3, 3), (1, 1), (1, 1), (1, 1))),
    "odd": ((2, 5, 8, 7), 6, 1, Window((3, 2), (2, 1), (1, 1), (1, 1))),
    "something left over": ((2, 4, 8, 8), 4, 1, Window((3, 3), (3, 2), (0, 0), (1, 1))),
    "points, strided": ((2, 6, 7, 7), 3, 1, Window((1, 1), (2, 2), (0, 0), (1, 1))),
    "grouped, dilated": ((2, 6, 9, 8), 9, 3, Window((3, 3), (1, 2), (2, 2), (2, 2))),
    "depthwise": ((2, 16, 6, 6), 16, 16, Window((3, 3), (1, 1), (1, 1), (1, 1))),
    "volume": ((2, 3, 4, 3, 5), 4, 1, Window((2, 1, 3), (1, 1, 2), (0, 0, 1), (1, 1, 1))),
}


def normal(rng: Any, *shape: int) -> Any:
    return rng.standard_normal(shape, np.float32)


def laid_out(a: Any, how: str) -> Any:
    """The same numbers, otherwise in memory."""
    if how == "channels last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)
    if how == "channels first":
        return np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1)
    if how == "a slice":
        wide = np.full((a.shape[0], a.shape[1] + 2, *a.shape[2:-1], 2 * a.shape[-1]), np.nan, a.dtype)
        wide[:, 1:-1, ..., ::2] = a
        return wide[:, 1:-1, ..., ::2]
    return np.ascontiguousarray(a[:, :, ::-1])[:, :, ::-1]  # backwards


@pytest.mark.parametrize("name", WINDOWS)
def test_a_convolution_and_its_gradients(name: str, threads: int) -> None:
    shape, num_out, groups, window = WINDOWS[name]
    rng = np.random.default_rng(0)
    image, weight = normal(rng, *shape), normal(rng, num_out, shape[1] // groups, *window.kernel)
    bias = normal(rng, num_out)
    size = window.size(shape[2:])
    (out, kept), (expected, _) = both("correlate", image, weight, bias, window, groups)
    close(out, expected)
    close(both("correlate", image, weight, None, window, groups)[0][0], expected - bias.reshape(-1, *[1] * len(size)))
    g = normal(rng, shape[0], num_out, *size)
    close(*both("spread", g, weight, shape[2:], window, groups))
    found, expected = both("weigh", g, image, window, groups, None, True)
    close(found, expected)
    assert bits(kernels.registry.load("weigh", "onednn")(g, image, window, groups, kept, True)) == bits(found)
    close(kernels.KERNELS["weigh"].reference(np, g, image, window, groups, kept, True), expected)
    assert both("weigh", g, image, window, groups)[0][1] is None


@pytest.mark.parametrize("how", ["channels last", "channels first", "a slice", "backwards"])
def test_operands_in_any_layout(how: str) -> None:
    rng = np.random.default_rng(0)
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    image, weight, g = normal(rng, 2, 3, 6, 5), normal(rng, 8, 3, 3, 3), normal(rng, 2, 8, 6, 5)
    plain = [
        kernels.KERNELS["correlate"](np, image, weight, None, window, 1)[0],
        kernels.KERNELS["spread"](np, g, weight, (6, 5), window, 1),
        *kernels.KERNELS["weigh"](np, g, image, window, 1, None, True),
    ]
    other = [laid_out(x, how) for x in (image, weight, g)]
    assert all(x.tobytes() == y.tobytes() for x, y in zip(other, (image, weight, g), strict=True))
    image, weight, g = other
    found = [
        both("correlate", image, weight, None, window, 1)[0][0],
        both("spread", g, weight, (6, 5), window, 1)[0],
        *both("weigh", g, image, window, 1, None, True)[0],
    ]
    assert [x.tobytes() for x in found] == [x.tobytes() for x in plain]
    ordered = kernels.registry.load("ordered", "onednn")(g)
    assert ordered.tobytes() == g.tobytes()
    assert np.moveaxis(ordered, 1, -1).flags.c_contiguous


@needs_bfloat16
@pytest.mark.parametrize("name", ["wide", "first layer", "grouped, dilated", "volume"])
def test_convolutions_of_bfloat16(name: str, threads: int) -> None:
    shape, num_out, groups, window = WINDOWS[name]
    rng = np.random.default_rng(0)
    image, weight, bias, g = (
        normal(rng, *sizes).astype(bfloat16)
        for sizes in (
            shape, (num_out, shape[1] // groups, *window.kernel), (num_out,),
            (shape[0], num_out, *window.size(shape[2:])),
        )
    )  # fmt: skip
    (out, _), (expected, _) = both("correlate", image, weight, bias, window, groups)
    assert out.dtype == bfloat16
    close(out, expected, 2**-8)
    close(*both("spread", g, weight, shape[2:], window, groups), 2**-8)
    close(*both("weigh", g, image, window, groups, None, True), 2**-8)


def test_what_it_does_not_take_is_left_to_numpy() -> None:
    window = Window((2, 2), (1, 1), (0, 0), (1, 1))
    correlate = kernels.registry.load("correlate", "onednn")
    image, weight = np.ones((1, 2, 3, 3)), np.ones((2, 2, 2, 2))
    assert correlate(image, weight, None, window, 1) is NotImplemented
    image, weight = image.astype(np.float32), weight.astype(np.float32)
    assert correlate(image[:0], weight, None, window, 1) is NotImplemented
    assert correlate(image, weight.astype(np.float64), None, window, 1) is NotImplemented
    g = np.ones((1, 2, 3, 3), np.float32)  # as of more windows than there are
    assert kernels.registry.load("weigh", "onednn")(g, image, window, 1) is NotImplemented
    spread, halves = kernels.registry.load("spread", "onednn"), Window((2, 2), (2, 2), (0, 0), (1, 1))
    assert spread(g, weight, (8, 8), halves, 1) is NotImplemented  # the last windows are left out
    with pytest.raises(ValueError, match="larger than the image"):
        correlate(image[:, :, :1], weight, None, window, 1)


def test_through_the_operations_it_is_what_numpy_computes() -> None:
    def gradients() -> list[Any]:
        rng = np.random.default_rng(0)
        x, w, b = (tensor(normal(rng, *s), requires_grad=True) for s in ((2, 3, 7, 7), (4, 3, 3, 3), (4,)))
        out = ops.conv2d(x, w, b, stride=2, padding=1).relu()
        out = ops.conv_transpose2d(out, w, None, stride=2, padding=1, output_padding=1)
        (out * out).sum().backward()
        return [t.grad.numpy() for t in (x, w, b)]

    fast = gradients()
    kernels.choose("numpy")
    try:
        plain = gradients()
    finally:
        kernels.choose("auto")
    for one, other in zip(fast, plain, strict=True):
        close(one, other)


# -- the library -------------------------------------------------------------------------------------------------------


def test_primitives_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primitives, "CAPACITY", 2)
    monkeypatch.setattr(primitives, "_cache", primitives._Cache())
    made = []

    def make(number: int) -> int:
        made.append(number)
        return number

    for number in (1, 2, 1, 3, 1, 2):
        assert primitives.cached(number, make, number) == number
    assert made == [1, 2, 3, 2]


def test_primitives_are_kept_up_to_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primitives, "CAPACITY_BYTES", 10 << 20)
    monkeypatch.setattr(primitives, "_cache", primitives._Cache())
    grown = iter([0, 4 << 20, 1 << 20, 5 << 20, 0, 3 << 20, 0, 64 << 20, 1, 1, 0, 0])
    monkeypatch.setattr(primitives, "_resident_bytes", grown.__next__)
    for name in "abcd":  # 4 MiB, 4 MiB, 3 MiB, and one of which no more than 8 are counted
        assert primitives.cached(name, str.upper, name) == name.upper()
    assert list(primitives._cache.made) == ["d"]
    assert primitives._cache.num_bytes == primitives._MOST_BYTES == 8 << 20
    assert primitives.cached("e", str.upper, "e") == "E"  # which took memory that others had given back
    assert list(primitives._cache.sizes.items()) == [("d", 8 << 20), ("e", primitives._LEAST_BYTES)]


def test_onednn_keeps_few_more() -> None:
    kept = ctypes.c_int()
    assert library.calls().dnnl.dnnl_get_primitive_cache_capacity(ctypes.byref(kept)) == 0
    assert kept.value == 64


def test_what_is_made_is_measured() -> None:
    before = primitives._resident_bytes()
    with mmap.mmap(-1, 16 << 20) as memory:
        memory.write(bytes([1]) * len(memory))
        assert primitives._resident_bytes() - before >= 15 << 20


def test_each_thread_has_its_own() -> None:
    rng = np.random.default_rng(0)
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    image, weight = normal(rng, 4, 16, 12, 12), normal(rng, 16, 16, 3, 3)
    expected = kernels.KERNELS["correlate"](np, image, weight, None, window, 1)[0].tobytes()
    found: list[bool] = []

    def work() -> None:
        outs = [kernels.KERNELS["correlate"](np, image, weight, None, window, 1)[0] for _ in range(20)]
        found.extend(out.tobytes() == expected for out in outs)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [True] * 80


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes that are copies of this one")
def test_after_a_fork(threads: int) -> None:
    """The team of threads is not there any more: what the parent shared among them, the child computes alone."""
    rng = np.random.default_rng(0)
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    image, weight, matrix = normal(rng, 4, 32, 28, 28), normal(rng, 32, 32, 3, 3), normal(rng, 300, 300)
    assert min(image.size * weight.size // 32, matrix.size * 300) > primitives.SHARED

    def computed() -> Any:
        return (
            kernels.KERNELS["correlate"](np, image, weight, None, window, 1)[0],
            kernels.KERNELS["multiply"](np, matrix, matrix.T),
        )

    expected = computed()
    child = os.fork()
    if child == 0:
        try:
            close(computed(), expected)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "libdnnl.so.3"
    broken.write_text("not a library")
    for where, sentence in ((None, "onednn-cpu-gomp is not installed"), (broken, "libdnnl.so.3 does not load")):
        monkeypatch.setattr(library, "path", lambda where=where: where)
        library.calls.cache_clear()
        assert sentence in library.lack()
        with pytest.raises(KernelError, match="the kernels by onednn cannot be used"):
            kernels.choose("onednn")
    monkeypatch.undo()
    library.calls.cache_clear()
    assert "onednn" in kernels.choose("auto")
    monkeypatch.setattr(library.team, "library", lambda: None)
    assert "libgomp" in library.lack()


def test_who_computes() -> None:
    assert library.identity().startswith("onednn 3.")
    assert sys.prefix not in library.identity()
    with pytest.raises(KernelError, match="the arguments do not go together"):
        library.check(2)
