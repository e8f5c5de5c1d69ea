"""Attention of bfloat16, whose products are bfloat16's: beside double precision, whichever way heads lie in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import autograd, kernels
from cordee.trainer.array import bfloat16, get_num_threads, set_num_threads
from cordee.trainer.kernels.providers import PROVIDERS

LACK = PROVIDERS["onednn"].lack() or PROVIDERS["llvm"].lack()
pytestmark = pytest.mark.skipif(bool(LACK), reason=LACK or "-")


@pytest.fixture(params=[1, 2])
def threads(request: Any) -> Iterator[int]:
    before = get_num_threads()
    set_num_threads(request.param)
    yield request.param
    set_num_threads(before)


@pytest.fixture(autouse=True)
def _chosen_again() -> Iterator[None]:
    yield
    kernels.choose("auto")


def provider(name: str) -> Any:
    from cordee.trainer.kernels.onednn.library import has_bfloat16

    if not has_bfloat16():
        pytest.skip("this CPU does not multiply bfloat16")
    return kernels.registry.load(name, "onednn")


def exactly(query: Any, key: Any, value: Any, g: Any, scale: float, causal: bool) -> tuple[Any, ...]:
    """The result and the gradients by query, key and value."""
    query, key, value, g = (each.astype(np.float64) for each in (query, key, value, g))
    scores = query @ key.swapaxes(-1, -2) * scale
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:]).astype(bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    weights_grad = g @ value.swapaxes(-1, -2)
    slopes = (weights_grad - (weights_grad * weights).sum(-1, keepdims=True)) * weights * scale
    return weights @ value, slopes @ key, slopes.swapaxes(-1, -2) @ query, weights.swapaxes(-1, -2) @ g


def draw(rng: Any, *shape: int, heads_last: bool = False) -> Any:
    """Of (N, H, L, E); in memory (N, L, H, E) if `heads_last`."""
    a = rng.standard_normal(shape, np.float32).astype(bfloat16)
    return np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2) if heads_last else a


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "size", "value_size"),
    [((2, 3), 256, 256, 32, 32), ((3,), 70, 70, 16, 24), ((), 200, 130, 32, 8), ((2, 2), 70, 300, 20, 9)],
    ids=str,
)
def test_attention_and_its_gradients(
    batch: tuple[int, ...], queries: int, keys: int, size: int, value_size: int, causal: bool, threads: int
) -> None:
    forward, backward = provider("flash_attention"), provider("flash_attention_grad")
    rng, how = np.random.default_rng(0), {"scale": 0.4, "causal": causal}
    last = len(batch) == 2
    query, key = draw(rng, *batch, queries, size, heads_last=last), draw(rng, *batch, keys, size, heads_last=last)
    value, g = draw(rng, *batch, keys, value_size), draw(rng, *batch, queries, value_size)
    operands = query, key, value
    out, kept = forward(*operands, **how)
    grads = backward(g, *operands, kept, **how)
    for found, wide in zip((out, *grads), exactly(*operands, g, **how), strict=True):
        assert found.dtype == bfloat16
        # Weights and slopes are rounded before they are multiplied, by 2^-9 each; sums of them by less than that.
        np.testing.assert_allclose(found.astype(np.float64), wide, rtol=2**-7, atol=2**-7 * np.abs(wide).max())
    for found, like in zip((out, *grads), (query, *operands), strict=True):
        assert np.argsort(found.strides, kind="stable").tolist() == np.argsort(like.strides, kind="stable").tolist()
    again, kept = forward(*operands, **how)
    assert again.tobytes() == out.tobytes()
    assert [a.tobytes() for a in backward(g, *operands, kept, **how)] == [a.tobytes() for a in grads]


def test_heads_are_computed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them at a time: none sees another, so that the bits stay the same."""
    from cordee.trainer.kernels.onednn import attention

    forward, rng = provider("flash_attention"), np.random.default_rng(0)
    operands = [draw(rng, 3, 5, 130, 32) for _ in range(3)]
    whole, _ = forward(*operands, scale=0.1, causal=True)
    for heads in (1, 2, 7):
        monkeypatch.setattr(attention, "_CACHED_BYTES", heads * 64 * 130 * 4)
        assert forward(*operands, scale=0.1, causal=True)[0].tobytes() == whole.tobytes()


def test_a_nan_stays_with_its_head_and_what_is_unseen_does_not_count() -> None:
    forward, rng = provider("flash_attention"), np.random.default_rng(0)
    query, key, value = (draw(rng, 1, 2, 128, 16) for _ in range(3))
    key[0, 0, 100] = np.nan
    out = forward(query, key, value, scale=0.3, causal=True)[0].astype(np.float32)
    assert np.isnan(out[0, 0, 100:]).all()
    assert np.isfinite(out[0, 0, :64]).all()
    assert np.isfinite(out[0, 1]).all()


def test_what_is_left_to_others() -> None:
    forward, rng = provider("flash_attention"), np.random.default_rng(0)
    query, key, value = (draw(rng, 2, 3, 70, 16) for _ in range(3))
    how: dict[str, Any] = {"scale": 1.0, "causal": False}
    others = [
        (query.astype(np.float32), key, value), (query, key[:1], value), (query[..., :3, :4], key[..., :4], value),
        (query[None], key[None], value[None]), (query, key, value[:0]),
    ]  # fmt: skip
    for operands in others:
        assert forward(*operands, **how) is NotImplemented
    kernels.choose("onednn")
    assert forward(query, key, value, **how) is NotImplemented  # nobody has the loops


def test_under_autocast_as_in_single_precision_with_gradients_of_gradients() -> None:
    provider("flash_attention")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 3, 96, 16), np.float32) for _ in range(3)]
    found = []
    for enabled in (False, True):
        tensors = [ct.tensor(a, requires_grad=True) for a in arrays]
        with ct.autocast("cpu", enabled=enabled):
            out = ct.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
        assert out.dtype == (bfloat16 if enabled else np.float32)
        firsts = autograd.grad(out.float().square().sum(), tensors, create_graph=True)
        seconds = autograd.grad(sum(first.float().square().sum() for first in firsts), tensors)
        found.append([out, *firsts, *seconds])
    for exact, rounded in zip(*found, strict=True):
        wide = exact.detach().numpy()
        np.testing.assert_allclose(rounded.detach().float().numpy(), wide, atol=0.02 * np.abs(wide).max())
