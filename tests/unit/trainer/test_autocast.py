"""Autocast: which operation runs in which precision, what a region reaches, and what gradients arrive in."""

from __future__ import annotations

import json
import runpy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import amp, autograd, nn, optim
from cordee.trainer.array import bfloat16, device_name, to_numpy
from cordee.trainer.autograd import casting
from cordee.trainer.autograd.record import AUTOCAST, REGISTRY

GOLDEN = Path(__file__).parents[2] / "golden"
TABLE = runpy.run_path(str(GOLDEN / "calls_autocast.py"))
THEIRS: dict[str, list[str | None]] = json.loads((GOLDEN / "autocast.json").read_text())["dtypes"]

# PyTorch 2.15, ATen/autocast_mode.h, by the names of our ops: the lists for CUDA. (Those for the CPU are in no header;
# the golden file tells what they do.)
LOW = (
    "attention conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d gru_layer linear lstm_layer "
    "matmul prelu rnn_layer"
)
SINGLE_ON_CUDA = (
    "acos asin binary_cross_entropy binary_cross_entropy_with_logits cosh cross_entropy cumprod cumsum erfinv exp "
    "expm1 group_norm huber layer_norm length log log10 log1p log2 log_softmax logsumexp mse_loss p_norm pow "
    "power prod reciprocal rms_norm rsqrt sinh softmax softplus sum tan"
)


HERE = device_name()
"""Regions are for the device that the tests run on."""

# Of the header's lists, as calls of the table above.
ON_CUDA = {
    "bfloat16": "matmul mm mv bmm addmm addmv addr addbmm baddbmm einsum linear conv1d conv2d conv3d conv_transpose1d "
    "conv_transpose2d prelu attention multi_dot chain_matmul vecdot",
    "float32": "reciprocal rsqrt exp expm1 log log1p pow square sum prod prod1 cumsum cumprod softmax log_softmax "
    "logsumexp norm vector_norm matrix_norm dist cdist pdist cosine_similarity layer_norm rms_norm group_norm softplus "
    "mse mse_none l1 huber smooth_l1 bcel kl poisson ce nll margin_ranking cos_emb triplet multi_margin soft_margin "
    "hinge multilabel_margin interp tan acos erfinv sinh",
}


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Any:
    """Every test ends with autocast off, in this thread and by the count of all."""
    yield
    assert not any(casting.current().enabled.values())
    assert casting.SWITCH.on == 0
    assert not casting._LOCAL.casts


@pytest.mark.parametrize("name", TABLE["CALLS"])
def test_results_have_the_dtypes_that_pytorch_gives_them_on_the_cpu(name: str) -> None:
    if HERE == "cuda":
        pytest.skip("the tables differ")
    for dtypes, theirs in zip(TABLE["DTYPES"], THEIRS[name], strict=True):
        a, b = (ct.tensor(TABLE[which], dtype=dtype) for which, dtype in zip("AB", dtypes, strict=True))
        if theirs is None or (name, theirs) == ("pinv", "bfloat16"):  # whose singular values are of single precision
            continue
        with ct.autocast("cpu"):
            out = TABLE["CALLS"][name](ct, nn.functional, a, b)
        assert out.dtype.name == theirs, dtypes


def test_the_golden_file_holds_these_calls_and_no_others() -> None:
    assert set(THEIRS) == set(TABLE["CALLS"])


def test_every_operation_is_of_the_kind_that_pytorch_has_for_cuda() -> None:
    kinds = {name: record.autocast for name, record in REGISTRY.items()}
    assert set(kinds.values()) == set(AUTOCAST)
    assert {name for name, kind in kinds.items() if kind == "low"} == set(LOW.split())
    assert {name for name, kind in kinds.items() if kind in ("single", "single on cuda")} == set(SINGLE_ON_CUDA.split())


@pytest.mark.parametrize("dtype", ON_CUDA)
def test_results_have_the_dtypes_of_pytorchs_lists_on_cuda(dtype: str) -> None:
    if HERE != "cuda":
        pytest.skip("runs with --device cuda, or stand-in")
    for name in ON_CUDA[dtype].split():
        for given in ("float32", "bfloat16"):
            with ct.autocast("cuda", dtype=ct.bfloat16):
                out = TABLE["CALLS"][name](ct, nn.functional, *(ct.tensor(TABLE[x], dtype=given) for x in "AB"))
            assert out.dtype.name == dtype, (name, given)


def test_an_operation_of_no_known_kind_is_refused() -> None:
    record = REGISTRY["exp"]
    with pytest.raises(ValueError, match="of no kind 'lower'"):
        type(record)("mine", "", record.forward, ("",), record.samples, record.reference, autocast="lower")


# -- regions -----------------------------------------------------------------------------------------------------------


def _product() -> np.dtype[Any]:
    return (ct.ones(2, 2) @ ct.ones(2, 2)).dtype


def test_regions_nest_and_end_where_they_began() -> None:
    assert _product() == ct.float32
    assert not ct.is_autocast_enabled(HERE)
    with ct.autocast(HERE, ct.bfloat16):
        assert ct.is_autocast_enabled()
        assert _product() == ct.bfloat16
        with ct.autocast(HERE, dtype=ct.float16):
            assert ct.get_autocast_dtype(HERE) == ct.float16
            assert _product() == ct.float16
            with ct.autocast(HERE, enabled=False):
                assert _product() == ct.float32
            assert _product() == ct.float16
        assert _product() == ct.bfloat16
    assert _product() == ct.float32


def test_a_region_ends_with_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), ct.autocast(HERE, ct.bfloat16):
        _ = 1 / 0
    assert _product() == ct.float32


def test_a_decorated_function_runs_in_a_region_of_its_own_each_time() -> None:
    @ct.autocast(HERE, dtype=ct.float16)
    def deep(times: int) -> list[Any]:
        """Called by itself."""
        return [_product(), *(deep(times - 1) if times else [])]

    assert deep.__doc__ == "Called by itself."
    assert deep(2) == [ct.float16] * 3
    assert _product() == ct.float32


def test_functions_that_give_way_in_their_middle_are_not_decorated() -> None:
    def generator() -> Any:
        yield

    async def coroutine() -> None:
        pass

    for function in (generator, coroutine):
        with pytest.raises(TypeError, match="inside of it"):
            ct.autocast(HERE, ct.bfloat16)(function)


def test_a_region_is_of_its_thread_alone() -> None:
    found: list[Any] = []
    with ct.autocast(HERE, ct.bfloat16):
        other = threading.Thread(target=lambda: found.append(_product()))
        other.start()
        other.join()
        assert _product() == ct.bfloat16
    assert found == [ct.float32]


def test_switched_on_by_statements_it_holds_until_switched_off() -> None:
    ct.set_autocast_dtype(HERE, ct.float16)
    ct.set_autocast_enabled(HERE, True)
    try:
        assert _product() == ct.float16
        ct.set_autocast_cache_enabled(False)
        assert not ct.is_autocast_cache_enabled()
    finally:
        ct.set_autocast_enabled(HERE, False)
        ct.set_autocast_cache_enabled(True)
        ct.set_autocast_dtype(HERE, ct.bfloat16)
    assert _product() == ct.float32


def test_a_region_for_another_device_says_that_it_has_no_effect() -> None:
    other = "cuda" if HERE == "cpu" else "cpu"
    assert ct.is_autocast_available(HERE)
    assert not ct.is_autocast_available(other)
    with pytest.warns(UserWarning, match=f"computes on {HERE}"), ct.autocast(other):
        assert _product() == ct.float32
    with ct.autocast(other, enabled=False):
        assert _product() == ct.float32


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="'cpu' or 'cuda'"):
        ct.autocast("tpu")
    with pytest.raises(ValueError, match="bfloat16 or float16"):
        ct.autocast(HERE, dtype=ct.float64)
    with pytest.raises(TypeError):
        ct.autocast()  # type: ignore[call-arg]


def test_double_precision_and_whole_numbers_are_left_alone() -> None:
    with ct.autocast(HERE, ct.bfloat16):
        assert (ct.ones(2, 2, dtype=ct.float64) @ ct.ones(2, 2, dtype=ct.float64)).dtype == ct.float64
        assert (ct.ones(2, 2, dtype=ct.int64) @ ct.ones(2, 2, dtype=ct.int64)).dtype == ct.int64


# -- gradients ---------------------------------------------------------------------------------------------------------


def _model() -> nn.Module:
    ct.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))


def test_gradients_arrive_in_the_dtype_of_the_parameters() -> None:
    model = _model()
    x, y = ct.randn(5, 4), ct.tensor([0, 1, 2, 0, 1])
    with ct.autocast(HERE, ct.bfloat16):
        out = model(x)
        loss = nn.functional.cross_entropy(out, y)
    assert (out.dtype, loss.dtype) == (ct.bfloat16, ct.float32)
    loss.backward()
    exact = _model()
    nn.functional.cross_entropy(exact(x), y).backward()
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.dtype == ct.float32
        # bfloat16 has 8 significant bits; a few roundings lie between.
        np.testing.assert_allclose(to_numpy(ours.grad.data), to_numpy(theirs.grad.data), atol=0.02, rtol=0.05)


@pytest.mark.parametrize(
    "function",
    [
        lambda narrow, wide: narrow + wide,
        lambda narrow, wide: wide[:1] * narrow,
        lambda narrow, wide: wide - narrow,
        lambda narrow, wide: ct.where(wide > 0, narrow, wide),
        lambda narrow, wide: ct.lerp(wide, narrow, wide),
        lambda narrow, wide: ct.cat([wide, narrow]),
        lambda narrow, wide: nn.functional.linear(wide, narrow),
    ],
)
@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float64")])
def test_a_gradient_has_the_dtype_of_what_it_is_of(function: Any, dtypes: tuple[str, str]) -> None:
    """Also where what it is of was computed with in a wider dtype: what made it goes on in its own."""
    narrow_dtype, wide_dtype = (getattr(ct, name) for name in dtypes)
    values = np.random.default_rng(0).standard_normal((2, 3, 4))
    leaf = ct.tensor(values[0], dtype=narrow_dtype, requires_grad=True)
    wide = ct.tensor(values[1], dtype=wide_dtype, requires_grad=True)
    narrow = leaf * 2
    seen: list[Any] = []
    narrow.register_hook(seen.append)
    function(narrow, wide).square().sum().backward()
    expected = ct.tensor(to_numpy((leaf * 2).to(wide_dtype).data), requires_grad=True)
    function(expected, wide.detach()).square().sum().backward()
    (g,) = seen
    assert g.dtype == narrow.dtype == narrow_dtype
    assert wide.grad is not None
    assert wide.grad.dtype == wide_dtype
    assert expected.grad is not None
    np.testing.assert_array_equal(to_numpy(g.data), to_numpy(expected.grad.to(narrow_dtype).data))
    with ct.enable_grad():
        (first,) = autograd.grad(function(leaf * 2, wide).square().sum(), leaf, create_graph=True)
        (second,) = autograd.grad(first.float().sum(), leaf)
    assert (first.dtype, second.dtype) == (narrow_dtype, narrow_dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_linear_layers_weight_gets_its_gradient_unrounded(dtype: str) -> None:
    """However it arrives: as the first or to be added, in an optimiser's storage or not, seen by a hook or not."""
    if HERE != "cpu":
        pytest.skip("rounded to 16 bits on a device")
    low, rng = getattr(ct, dtype), np.random.default_rng(0)
    values, start = rng.standard_normal((96, 40)), rng.standard_normal((24, 40))
    x, slopes = ct.tensor(values, dtype=low), ct.tensor(rng.standard_normal((96, 24)), dtype=low)
    wide = to_numpy(slopes.double().data).T @ to_numpy(x.double().data)

    def gradient(times: int = 1, hooked: bool = False, optimised: bool = False, uses: int = 1) -> Any:
        weight = nn.Parameter(ct.tensor(start, dtype=ct.float32))
        seen: list[Any] = []
        if hooked:
            weight.register_hook(seen.append)
        optimizer = optim.SGD([weight], lr=0.1) if optimised else None
        for _ in range(times):
            with ct.autocast(HERE, low):
                outs = [nn.functional.linear(x, weight) for _ in range(uses)]
            autograd.backward(outs, [slopes] * uses)
        assert weight.grad is not None
        assert weight.grad.dtype == ct.float32
        found = to_numpy(weight.grad.data).copy()
        assert len(seen) == (times if hooked else 0)
        np.testing.assert_array_equal(sum(to_numpy(each.data) for each in seen) if hooked else found, found)
        if optimizer is not None:
            assert np.shares_memory(weight.grad.data, optimizer.groups[0].grad)
        return found

    once = gradient()
    np.testing.assert_allclose(once, wide, rtol=1e-5, atol=1e-4)  # rounded, it would be 2^-9 away
    for how in ({"optimised": True}, {"hooked": True}, {"hooked": True, "optimised": True}):
        np.testing.assert_array_equal(gradient(**how), once)
        np.testing.assert_array_equal(gradient(times=2, **how), 2 * once)
        np.testing.assert_array_equal(gradient(uses=2, **how), 2 * once)


def test_gradients_land_in_the_flat_storage_and_the_step_is_that_of_float32() -> None:
    model = _model()
    optimizer = optim.SGD(model.named_parameters(), lr=0.1)
    with ct.autocast(HERE, ct.bfloat16):
        loss = model(ct.randn(5, 4)).sum()
    loss.backward()
    (group,) = optimizer.groups
    assert group.dtype == ct.float32
    assert group.touched().all()
    before = to_numpy(group.data).copy()
    optimizer.step()
    np.testing.assert_array_equal(to_numpy(group.data), before - np.float32(0.1) * to_numpy(group.grad))


def test_a_weight_is_cast_once_in_a_region_and_anew_after_a_step() -> None:
    weight = nn.Parameter(ct.ones(2, 2))
    optimizer = optim.SGD([weight], lr=1.0)
    x = ct.ones(2, 2)
    with ct.autocast(HERE, ct.bfloat16):
        first, second = x @ weight, x @ weight
        assert first.grad_fn is not None
        assert second.grad_fn is not None
        assert first.grad_fn.next_functions[1] is second.grad_fn.next_functions[1]
        (first + second).sum().backward()
        np.testing.assert_array_equal(to_numpy(weight.grad.data), 4.0)  # type: ignore[union-attr]
        optimizer.step()
        np.testing.assert_array_equal(to_numpy((x @ weight).float().data), -6.0)  # of weights 1 - 4
        weight.data[...] = 1.0  # which nobody sees
        ct.clear_autocast_cache()
        np.testing.assert_array_equal(to_numpy((x @ weight).float().data), 2.0)


def test_what_was_cast_without_a_graph_does_not_serve_with_one() -> None:
    weight = nn.Parameter(ct.ones(2, 2))
    with ct.autocast(HERE, ct.bfloat16):
        with ct.no_grad():
            _ = weight @ weight
        (weight @ weight).sum().backward()
    assert weight.grad is not None


def test_without_the_cache_every_use_casts() -> None:
    weight = nn.Parameter(ct.ones(2, 2))
    with ct.autocast(HERE, cache_enabled=False):
        out = weight @ weight
    assert out.grad_fn is not None
    left, right = out.grad_fn.next_functions
    assert left is not right


def test_a_gradient_has_a_gradient_under_autocast() -> None:
    x = ct.tensor([[0.5, -1.0], [2.0, 0.25]], requires_grad=True)
    with ct.autocast(HERE, ct.bfloat16):
        out = (x @ x).float().pow(2).sum()
        (g,) = autograd.grad(out, x, create_graph=True)
        assert g is not None
        (second,) = autograd.grad(g.sum(), x)
    exact = x.detach().requires_grad_()
    (g,) = autograd.grad((exact @ exact).pow(2).sum(), exact, create_graph=True)
    assert g is not None
    (expected,) = autograd.grad(g.sum(), exact)
    assert second is not None
    assert expected is not None
    assert second.dtype == ct.float32
    np.testing.assert_allclose(to_numpy(second.data), to_numpy(expected.data), rtol=0.03)


def test_a_checkpointed_part_is_computed_again_as_it_was() -> None:
    model, x = _model(), ct.randn(5, 4)
    found = []
    for part in (lambda m, x: m(x), autograd.checkpoint):
        model.zero_grad()
        with ct.autocast(HERE, ct.bfloat16):
            loss = part(model, x).float().square().sum()
        loss.backward()
        found.append([to_numpy(p.grad.data).copy() for p in model.parameters() if p.grad is not None])
    for plain, again in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, again)


class _Scaled(autograd.Function):
    """x ↦ x @ x, and what it saw."""

    seen: list[Any] = []  # noqa: RUF012

    @staticmethod
    @amp.custom_fwd(device_type=HERE)
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        out = x @ x
        _Scaled.seen.append(out.dtype)
        return out

    @staticmethod
    @amp.custom_bwd(device_type=HERE)
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        product = g @ x
        _Scaled.seen.append(product.dtype)
        return product


class _InSingle(_Scaled):
    @staticmethod
    @amp.custom_fwd(device_type=HERE, cast_inputs=ct.float32)
    def forward(ctx: Any, x: Any) -> Any:
        return _Scaled.forward.__wrapped__(ctx, x)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [_Scaled, _InSingle])
def test_a_function_of_the_users_own_has_its_backward_like_its_forward(kind: Any) -> None:
    _Scaled.seen.clear()
    x = ct.ones(2, 2, requires_grad=True)
    with ct.autocast(HERE, ct.bfloat16):
        out = kind.apply(x)
    out.float().sum().backward()
    expected = bfloat16 if kind is _Scaled else np.dtype("float32")
    assert _Scaled.seen == [expected, expected]
    assert x.grad is not None
    assert x.grad.dtype == ct.float32


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_keep_their_states_in_single_precision_within_a_call(make: Any) -> None:
    ct.manual_seed(0)
    layer, x = make(3, 4), ct.randn(20, 2, 3)
    exact, _ = layer(x)
    with ct.autocast(HERE, ct.bfloat16):
        out, _ = layer(x)
    assert out.dtype == ct.bfloat16
    # One rounding of what goes in and one of what comes out: 2 to the power of -9, relative, each.
    np.testing.assert_allclose(to_numpy(out.float().data), to_numpy(exact.data), atol=0.012)
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == ct.float32 for p in layer.parameters())
