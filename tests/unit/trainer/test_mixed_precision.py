"""Training in 16 bits: the gradient scaler, master weights, and runs beside PyTorch's."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import amp, data, elastic, nn, optim
from cordee.trainer.array import as_array, bfloat16, device_name, to_numpy

# -- the scaler --------------------------------------------------------------------------------------------------------


def _parameter(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(ct.full((3,), value))


def _scaler(**options: Any) -> amp.GradScaler:
    return amp.GradScaler(device_name(), **{"init_scale": 8.0, "growth_interval": 2, **options})


def test_scaling_and_unscaling_change_nothing() -> None:
    found = []
    for scaler in (_scaler(), _scaler(enabled=False)):
        weight = _parameter()
        optimizer = optim.SGD([weight], lr=0.1)
        loss = (weight * weight).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append(to_numpy(weight.data).copy())
    np.testing.assert_array_equal(*found)


def test_a_scaled_loss_has_the_gradient_of_the_scale() -> None:
    weight = _parameter()
    scaler = _scaler()
    first, (second,) = scaler.scale([weight.sum(), (weight.sum(),)])
    (first + second).backward()
    np.testing.assert_array_equal(to_numpy(weight.grad.data), 16.0)  # type: ignore[union-attr]
    with pytest.raises(TypeError, match="takes a tensor"):
        scaler.scale(1.0)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_an_update_by_what_is_not_finite_is_left_out_and_the_scale_falls(bad: float) -> None:
    weight, other = _parameter(), _parameter()
    optimizers = [optim.SGD([each], lr=0.1) for each in (weight, other)]
    scaler = _scaler()
    scaler.scale((weight * ct.tensor([1.0, bad, 1.0])).sum() + other.sum()).backward()
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()
    np.testing.assert_array_equal(to_numpy(weight.data), 1.0)
    np.testing.assert_allclose(to_numpy(other.data), 0.9)  # the other optimiser's gradients were finite
    assert scaler.get_scale() == 4.0
    assert optimizers[0].groups[0].steps.tolist() == [0]


def test_the_scale_grows_after_so_many_finite_steps_in_a_row() -> None:
    weight = _parameter()
    optimizer = optim.SGD([weight], lr=0.0)
    scaler = _scaler()
    scales = []
    for factor in (1.0, 1.0, 1.0, math.inf, 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale(weight.sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [8.0, 16.0, 16.0, 8.0, 8.0, 16.0]


def test_the_scale_stays_a_number_of_float32() -> None:
    scaler = _scaler(init_scale=2.0**127, growth_interval=1)
    scaler.moved(True)
    assert scaler.get_scale() == 2.0**127


@pytest.mark.parametrize("backoff", [0.5, 1e-30])
def test_the_scale_does_not_fall_below_the_numbers_of_float32(backoff: float) -> None:
    weight = _parameter()
    optimizer = optim.SGD([weight], lr=1.0)
    scaler = _scaler(init_scale=2.0**-120, backoff_factor=backoff)

    def step(factor: float) -> None:
        optimizer.zero_grad()
        scaler.scale(weight.sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    for _ in range(6 if backoff == 0.5 else 1):
        step(math.inf)
    assert scaler.get_scale() == 2.0**-126  # the least normal number of float32
    np.testing.assert_array_equal(to_numpy(weight.data), 1.0)
    for _ in range(2):  # nothing else changes by being told
        with pytest.raises(FloatingPointError, match=r"fallen to its least, 1\.17549e-38, .* no scale helps"):
            step(math.nan)
    step(1.0)  # and it is unscaled by a number
    np.testing.assert_array_equal(to_numpy(weight.data), 0.0)


def test_a_scale_is_a_positive_finite_number() -> None:
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="a scale is a positive, finite number, not"):
            _scaler(init_scale=bad)
        scaler = _scaler()
        with pytest.raises(ValueError, match="a scale is a positive, finite number, not"):
            scaler.load_state_dict({**scaler.state_dict(), "scale": bad})
        with pytest.raises(ValueError, match="a scale is a positive, finite number, not"):
            scaler.update(bad)
        assert scaler.get_scale() == 8.0


def test_unscaled_gradients_can_be_clipped() -> None:
    weight = _parameter()
    optimizer = optim.SGD([weight], lr=1.0)
    scaler = _scaler()
    scaler.scale(weight.sum()).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_value_([weight], 0.5)
    scaler.step(optimizer)
    scaler.update(32.0)
    np.testing.assert_array_equal(to_numpy(weight.data), 0.5)
    assert scaler.get_scale() == 32.0


def test_calls_in_the_wrong_order_are_refused() -> None:
    weight = _parameter()
    optimizer = optim.SGD([weight], lr=1.0)
    scaler = _scaler()
    with pytest.raises(RuntimeError, match="after step"):
        scaler.update()
    with pytest.raises(RuntimeError, match="no parameter"):
        scaler.step(optimizer)
    scaler.scale(weight.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already since"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="no closure"):
        scaler.step(optimizer, lambda: None)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="already since"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="before step"):
        scaler.unscale_(optimizer)


def test_float16_parameters_are_refused() -> None:
    weight = nn.Parameter(ct.ones(3, dtype=ct.float16))
    optimizer = optim.SGD([weight], lr=1.0)
    scaler = _scaler()
    scaler.scale(weight.sum()).backward()
    with pytest.raises(ValueError, match="keep parameters in float32"):
        scaler.step(optimizer)


def test_a_scaler_goes_on_from_its_state() -> None:
    scaler = _scaler()
    scaler.moved(True)
    other = amp.GradScaler("cpu")
    other.load_state_dict(scaler.state_dict())
    other.moved(True)
    assert other.get_scale() == 16.0
    assert _scaler(enabled=False).state_dict() == {}
    with pytest.raises(RuntimeError, match="not enabled"):
        other.load_state_dict({})


@pytest.mark.parametrize("options", [{"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"device": "tpu"}])
def test_impossible_scalers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        amp.GradScaler(**options)


# -- in an elastic run -------------------------------------------------------------------------------------------------


def _run(scaler: amp.GradScaler | None) -> tuple[list[float], list[bool], list[float], str]:
    """Five steps of a tiny model; in the third, one shard's gradient overflows."""
    ct.manual_seed(0)
    model = nn.Linear(2, 2)
    x = np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32)
    loader = data.DataLoader(data.TensorDataset(x), batch_size=8, shards=4)
    run = elastic.Run(model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9), loader, scaler=scaler)
    overflows = scaler is not None and scaler.is_enabled()
    losses, skipped, scales = [], [], []
    for step in run.steps(5):
        for i, (x_shard,) in enumerate(step.shards):
            loss = model(x_shard).square().mean()
            step.backward(loss * math.inf if overflows and (step.number, i) == (3, 2) else loss)
        step.clip_grad_norm_(1.0)
        step.commit()
        losses.append(step.loss)
        skipped.append(step.skipped)
        scales.append(scaler.get_scale() if scaler is not None else 1.0)
    return losses, skipped, scales, run.weights_sha256()


def test_an_elastic_run_scales_leaves_out_and_moves_the_scale() -> None:
    plain, *_ = _run(None)
    losses, skipped, scales, _ = _run(_scaler())
    assert skipped == [False, False, True, False, False]
    assert scales == [8.0, 16.0, 8.0, 8.0, 16.0]
    assert losses[:2] == plain[:2]  # the losses are not scaled, and by powers of two nothing is rounded
    assert losses[3:] == plain[2:4]  # the step that was left out is one that never was


def test_a_run_whose_gradients_are_finite_at_no_scale_ends_with_a_sentence() -> None:
    scaler = _scaler(init_scale=2.0**-125)
    model = nn.Linear(2, 2)
    loader = data.DataLoader(data.TensorDataset(np.full((8, 2), math.nan, np.float32)), batch_size=2)
    run = elastic.Run(model, optim.SGD(model.parameters()), loader, scaler=scaler)
    with pytest.raises(FloatingPointError, match="no scale helps"):
        for step in run.steps(1):
            for (x,) in step.shards:
                step.backward(model(x).sum())
            step.commit()
    assert run.step == 1  # the scale fell in the first one


def test_a_scaler_that_is_not_enabled_changes_no_bit_of_a_run() -> None:
    assert _run(_scaler(enabled=False)) == (*_run(None)[:2], [1.0] * 5, _run(None)[3])


def test_in_a_run_the_scaler_is_the_runs() -> None:
    model = nn.Linear(2, 2)
    optimizer = optim.SGD(model.parameters())
    scaler = _scaler()
    loader = data.DataLoader(data.TensorDataset(np.ones((2, 2), np.float32)), batch_size=2)
    run = elastic.Run(model, optimizer, loader, scaler=scaler)
    for step in run.steps(1):
        for (x,) in step.shards:
            loss = model(x).sum()
            calls: list[Any] = [
                lambda: scaler.scale(loss),  # noqa: B023
                lambda: scaler.step(optimizer),
                lambda: scaler.unscale_(optimizer),
                scaler.update,
            ]
            for call in calls:
                with pytest.raises(RuntimeError, match="elastic run that it was given to"):
                    call()
            step.backward(loss)
        step.commit()
    assert scaler.scale(ct.ones(1)).item() == 8.0  # over: it is the script's again


# -- master weights ----------------------------------------------------------------------------------------------------

KINDS: dict[str, Any] = {
    "sgd": lambda p, **o: optim.SGD(p, lr=1e-3, momentum=0.9, **o),
    "adam": lambda p, **o: optim.Adam(p, lr=1e-3, **o),
    "adamw": lambda p, **o: optim.AdamW(p, lr=1e-3, amsgrad=True, **o),
}


def _trained(dtype: Any, make: Any, steps: int = 20, size: int = 7, **options: Any) -> tuple[nn.Parameter, Any]:
    weight = nn.Parameter(ct.Tensor(as_array(np.linspace(0.5, 2, size).astype(np.float32))).to(dtype).detach())
    optimizer = make([("w", weight)], **options)
    for step in range(steps):
        optimizer.zero_grad()
        weight.grad = ct.full((size,), 0.25 * (1 + step % 3), dtype=dtype)
        optimizer.step()
    return weight, optimizer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [ct.bfloat16, ct.float16])
@pytest.mark.parametrize("size", [7, 200_000])
def test_masters_are_what_float32_parameters_would_be(kind: str, dtype: Any, size: int) -> None:
    weight, optimizer = _trained(dtype, KINDS[kind], size=size, master_weights=True, steps=5)
    start = nn.Parameter(ct.Tensor(as_array(np.linspace(0.5, 2, size).astype(np.float32))).to(dtype).float().detach())
    exact = KINDS[kind]([("w", start)])
    for step in range(5):
        start.grad = ct.full((size,), 0.25 * (1 + step % 3))
        exact.step()
    (group,) = optimizer.groups
    np.testing.assert_array_equal(to_numpy(group.arrays(0)["master"]), to_numpy(start.data))
    np.testing.assert_array_equal(to_numpy(weight.data), to_numpy(start.data).astype(dtype))
    assert all(each.dtype == np.float32 for each in group.state.values())


def test_small_updates_add_up_on_masters_alone() -> None:
    """Below 1, bfloat16's numbers lie 2**-8 apart: what is less than half of that is rounded away, each time."""
    for masters, moved in ((True, True), (False, False)):
        weight = nn.Parameter(ct.ones(1, dtype=ct.bfloat16))
        optimizer = optim.SGD([weight], lr=2.0**-12, master_weights=masters)
        for _ in range(64):
            weight.grad = ct.ones(1, dtype=ct.bfloat16)
            optimizer.step()
        assert (weight.item() != 1.0) is moved


def test_masters_follow_what_is_written_to_the_parameters() -> None:
    weight, optimizer = _trained(ct.bfloat16, KINDS["adamw"], master_weights=True)
    before = to_numpy(optimizer.groups[0].arrays(0)["master"]).copy()
    weight.data[2] = bfloat16.type(5.0)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    after = to_numpy(optimizer.groups[0].arrays(0)["master"])
    before[2] = 5.0
    np.testing.assert_array_equal(after, before)


def test_masters_are_saved_and_restored() -> None:
    weight, optimizer = _trained(ct.bfloat16, KINDS["adamw"], master_weights=True)
    twin = nn.Parameter(weight.detach().clone())
    other = KINDS["adamw"]([("w", twin)], master_weights=True)
    other.load_state_dict(optimizer.state_dict())
    for p, o in ((weight, optimizer), (twin, other)):
        p.grad = ct.ones(7, dtype=ct.bfloat16)
        o.step()
    np.testing.assert_array_equal(*(to_numpy(each.groups[0].state["master"]) for each in (other, optimizer)))


def test_float32_parameters_have_no_masters() -> None:
    _, optimizer = _trained(ct.float32, KINDS["adam"], master_weights=True)
    assert set(optimizer.groups[0].state) == {"exp_avg", "exp_avg_sq"}


# -- beside PyTorch ----------------------------------------------------------------------------------------------------


def _trained_under_autocast(L: Any, dtype: str, scaled: bool, device: str = "cpu") -> list[float]:
    """Losses of a small classifier (embedding, attention, norm, GELU) over 30 steps, in either library."""
    nn_, functional = L.nn, L.nn.functional
    rng = np.random.default_rng(0)

    def tensor(*shape: int) -> Any:
        return L.tensor((rng.standard_normal(shape) * 0.3).astype(np.float32), requires_grad=True)

    table, w_qkv, w_up, b_up, w_out = tensor(11, 8), tensor(24, 8), tensor(16, 8), tensor(16), tensor(5, 16)
    parameters = [nn_.Parameter(each.detach()) for each in (table, w_qkv, w_up, b_up, w_out)]
    table, w_qkv, w_up, b_up, w_out = parameters
    tokens, labels = rng.integers(0, 11, (16, 6)), rng.integers(0, 5, 16)
    tokens, labels = L.tensor(tokens), L.tensor(labels)
    optimizer = L.optim.AdamW(parameters, lr=0.02)
    scaler = L.amp.GradScaler(device, init_scale=2.0**14, growth_interval=7, enabled=scaled)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        with L.autocast(device, dtype=getattr(L, dtype)):
            x = functional.embedding(tokens, table)
            q, k, v = functional.linear(functional.layer_norm(x, (8,)), w_qkv).chunk(3, -1)
            x = x + functional.scaled_dot_product_attention(q, k, v)
            hidden = functional.gelu(functional.linear(x, w_up, b_up)).mean(1)
            loss = functional.cross_entropy(functional.linear(hidden, w_out), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


# What PyTorch 2.15 gives for `_trained_under_autocast(torch, …)[::10]`.
THEIRS = {
    ("bfloat16", False): [1.74771, 0.923493, 0.309153],
    ("float16", True): [1.74783, 0.923303, 0.309325],
}


@pytest.mark.parametrize(("dtype", "scaled"), [("bfloat16", False), ("float16", True)])
def test_training_under_autocast_goes_as_pytorchs_does(dtype: str, scaled: bool) -> None:
    losses = _trained_under_autocast(ct, dtype, scaled, device_name())
    np.testing.assert_allclose(losses[::10], THEIRS[dtype, scaled], rtol=0.02)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.torch
@pytest.mark.parametrize(("dtype", "scaled"), [("bfloat16", False), ("float16", True)])
def test_every_loss_under_autocast_is_near_pytorchs(dtype: str, scaled: bool) -> None:
    torch = pytest.importorskip("torch")
    theirs = _trained_under_autocast(torch, dtype, scaled)
    np.testing.assert_allclose(_trained_under_autocast(ct, dtype, scaled), theirs, rtol=0.03)


# -- what 16 bits round ------------------------------------------------------------------------------------------------

# How far a gradient may be from the exact one. The results of softmax and its logarithm are read again for it, and were
# rounded; PyTorch 2.15's gradients are 10.4, 19.1 and 439 units away there (and 15 to 196 for var, std, the norms).
ROUNDED: dict[str, tuple[Any, float]] = {
    "sum": (lambda x: x.sum(1), 1.05),
    "mean": (lambda x: x.mean(1), 1.05),
    "var": (lambda x: x.var(1), 1.05),
    "std": (lambda x: x.std(1), 1.05),
    "norm": (ct.norm, 1.15),
    "cumsum": (lambda x: x.cumsum(1), 1.05),
    "softmax": (lambda x: ct.softmax(x, 1), 10.5),
    "softmax across rows": (lambda x: ct.softmax(x, 0), 24.2),
    "log_softmax": (lambda x: ct.log_softmax(x, 1), 327),
    "cross_entropy": (lambda x: nn.functional.cross_entropy(x, ct.arange(len(x))), 1.05),
    "mse": (lambda x: nn.functional.mse_loss(x, x * 0.5), 1.05),
    "layer_norm": (lambda x: nn.functional.layer_norm(x, (x.shape[1],)), 1.05),
    "rms_norm": (lambda x: nn.functional.rms_norm(x, (x.shape[1],), eps=1e-6), 1.05),
    "batch_norm": (lambda x: nn.functional.batch_norm(x, None, None, training=True), 1.05),
    "group_norm": (lambda x: nn.functional.group_norm(x, 3), 1.05),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_in_16_bits_a_result_is_rounded_once(name: str) -> None:
    """In units of bfloat16's last place (2**-8 of a number, at least of a thousandth of the largest): one at most."""
    if device_name() == "cuda":
        pytest.skip("factors are rounded first there")
    function, most = ROUNDED[name]
    rng = np.random.default_rng(0)
    values, weights = (rng.standard_normal((64, 300)).astype(bfloat16) for _ in range(2))
    found = []
    for dtype in (ct.bfloat16, ct.float64):
        x = ct.Tensor(as_array(values)).to(dtype).detach().requires_grad_()
        out = function(x)
        out.backward(ct.Tensor(as_array(np.resize(weights, out.shape))).to(dtype))
        assert x.grad is not None
        found.append([to_numpy(each.data).astype(np.float64) for each in (out, x.grad)])
    for ours, exact, limit in zip(*found, (1.05, most), strict=True):
        unit = np.maximum(np.abs(exact), 1e-3 * np.abs(exact).max()) * 2.0**-8
        assert (np.abs(ours - exact) <= limit * unit).all()


# -- TF32 --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tf32() -> Any:
    """As it was, afterwards."""
    before = ct.backends.cuda.matmul.allow_tf32
    yield ct.backends.cuda.matmul
    ct.backends.cuda.matmul.allow_tf32 = before


def test_tf32_is_off_until_it_is_allowed_and_cupy_is_told(tf32: Any) -> None:
    assert not tf32.allow_tf32
    for precision, allowed in (("high", True), ("highest", False), ("medium", True)):
        ct.set_float32_matmul_precision(precision)
        assert tf32.allow_tf32 is allowed
        assert ct.get_float32_matmul_precision() == ("high" if allowed else "highest")
        if device_name() == "cuda":
            core = importlib.import_module("cupy._core._routines_linalg")
            assert (core.get_compute_type(np.dtype("float32")) == core.COMPUTE_TYPE_TF32) is allowed
    with pytest.raises(ValueError, match="highest, high, medium"):
        ct.set_float32_matmul_precision("low")


def test_on_the_cpu_tf32_changes_nothing(tf32: Any) -> None:
    a = ct.Tensor(as_array(np.random.default_rng(0).standard_normal((9, 9)).astype(np.float32)))
    exact = to_numpy((a @ a).data)
    tf32.allow_tf32 = True
    if device_name() == "cpu":
        np.testing.assert_array_equal(to_numpy((a @ a).data), exact)
