"""What must hold of windows, channels and masks beyond PyTorch's values: tiles, NaN, half precision, draws, errors."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn, random
from cordee.trainer.array import bfloat16, to_numpy
from cordee.trainer.autograd import gradcheck, gradgradcheck
from cordee.trainer.autograd.graph import apply
from cordee.trainer.nn import functional as F
from cordee.trainer.ops import correlation
from cordee.trainer.ops.convolution import CONV, CONV_TRANSPOSE, CONV_WEIGHT
from cordee.trainer.ops.dropping import kept_mask
from cordee.trainer.ops.normalization_batch import BATCH_NORM
from cordee.trainer.ops.resampling import Taps
from cordee.trainer.ops.windows import Window

WRONG: Any = "wrap"


def _normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


# -- convolution -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 600, 3000])
@pytest.mark.parametrize(("groups", "dilation"), [(1, (1, 1)), (2, (2, 1))])
def test_tiles_of_any_size_give_the_same_convolution(
    budget: int, groups: int, dilation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = Window((3, 2), (2, 1), (1, 1), dilation)
    x, w = _normal(3, 4, 9, 5), _normal(6, 4 // groups, 3, 2, seed=1)
    whole = CONV[2].forward(np, x, w, None, window=window, groups=groups)[0]
    g = _normal(*whole.shape, seed=2)
    back = CONV_TRANSPOSE[2].forward(np, g, w, None, sizes=(9, 5), window=window, groups=groups)
    by_weight = CONV_WEIGHT.forward(np, g, x, window=window, groups=groups)
    monkeypatch.setattr(correlation, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(correlation, "_TILE_BYTES", budget)
    tiled, columns = CONV[2].forward(np, x, w, None, window=window, groups=groups)
    assert columns is None, "several tiles keep no columns"
    np.testing.assert_allclose(tiled, whole, rtol=1e-12, atol=1e-12)
    again = CONV_TRANSPOSE[2].forward(np, g, w, None, sizes=(9, 5), window=window, groups=groups)
    np.testing.assert_allclose(again, back, rtol=1e-12, atol=1e-12)
    again = CONV_WEIGHT.forward(np, g, x, window=window, groups=groups)
    np.testing.assert_allclose(again, by_weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 4, 6, 6), (2, 4, 6, 6)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolution_of_no_samples_has_zero_gradients(shape: tuple[int, ...], groups: int) -> None:
    x = ct.tensor(_normal(*shape), requires_grad=True)
    w = ct.tensor(_normal(8, 4 // groups, 3, 3), requires_grad=True)
    out = F.conv2d(x, w, padding=1, groups=groups)
    assert out.shape == (shape[0], 8, 6, 6)
    out.sum().backward()
    assert x.grad is not None
    assert w.grad is not None
    assert x.grad.shape == x.shape
    assert bool((w.grad == 0).all()) == (shape[0] == 0)


def test_a_convolution_and_its_transpose_are_adjoint() -> None:
    x, y = ct.tensor(_normal(2, 3, 7, 6)), ct.tensor(_normal(2, 4, 4, 5))
    w = ct.tensor(_normal(4, 3, 3, 2))
    forth = F.conv2d(x, w, stride=(2, 1), padding=(1, 0))
    back = F.conv_transpose2d(y, w, stride=(2, 1), padding=(1, 0))
    assert float((forth * y).sum()) == pytest.approx(float((x * back).sum()), rel=1e-12)


def test_what_follows_a_convolution_may_be_written_to_without_touching_its_input() -> None:
    x, w = ct.tensor(_normal(1, 2, 3, 3)), ct.tensor(np.eye(2).reshape(2, 2, 1, 1))
    before = x.numpy().copy()
    out = F.conv2d(x, w)
    out.data += 1.0
    np.testing.assert_array_equal(x.numpy(), before)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: F.conv2d(x, ct.ones(4, 2, 3, 3)), ["conv2d", "3 channels", "takes 2", "(2, 3, 6, 5)", "weight"]),
        (lambda x: F.conv2d(x, ct.ones(4, 3, 9, 9)), ["conv2d", "9×9", "6×5", "(4, 3, 9, 9)"]),
        (lambda x: F.conv2d(x, ct.ones(4, 3, 3)), ["conv2d", "weight must have 4 dimensions"]),
        (lambda x: F.conv1d(x, ct.ones(4, 3, 3)), ["conv1d", "3 dimensions", "(2, 3, 6, 5)"]),
        (lambda x: F.conv2d(x, ct.ones(4, 3, 3, 3), ct.ones(3)), ["conv2d", "bias", "(4)"]),
        (lambda x: F.conv2d(x, ct.ones(4, 3, 3, 3), stride=2, padding="same"), ["conv2d", "stride 1"]),
        (lambda x: F.conv_transpose2d(x, ct.ones(4, 3, 3, 3)), ["conv_transpose2d", "3 channels", "takes 4"]),
        (lambda x: F.max_pool2d(x, 7), ["max_pool2d", "7×7", "6×5"]),
        (lambda x: F.avg_pool2d(x, 2, padding=2), ["avg_pool2d", "more than half"]),
        (lambda x: F.max_pool1d(x, 2), ["max_pool1d", "(2, 3, 6, 5)"]),
        (lambda x: F.adaptive_avg_pool3d(x[0], 2), ["adaptive_avg_pool3d", "(3, 6, 5)"]),
        (lambda x: F.interpolate(x, 4, mode="linear"), ["interpolate", "linear", "(2, 3, 6, 5)"]),
        (lambda x: F.interpolate(x, (0, 4)), ["interpolate", "at least 1"]),
        (lambda x: F.grid_sample(x, ct.ones(1, 2, 2, 2)), ["grid_sample", "same N", "(1, 2, 2, 2)"]),
        (lambda x: F.fold(x[0], 4, 3), ["fold", "9"]),
        (lambda x: F.pixel_shuffle(x, 2), ["pixel_shuffle", "channels (3)", "4"]),
        (lambda x: F.batch_norm(x, None, None, ct.ones(4), training=True), ["batch_norm", "weight", "(3)", "(4,)"]),
        (lambda x: F.batch_norm(x, ct.ones(4), ct.ones(3)), ["batch_norm", "running_mean", "(3)"]),
        (lambda x: F.group_norm(x, 2), ["group_norm", "3 channels", "2 groups"]),
        (lambda x: F.layer_norm(x, 6), ["layer_norm", "(2, 3, 6, 5)", "(6,)"]),
        (lambda x: F.rms_norm(x, 5, ct.ones(4)), ["rms_norm", "weight", "(4,)"]),
        (nn.BatchNorm1d(3), ["BatchNorm1d", "2 or 3 dimensions", "(2, 3, 6, 5)"]),
        (nn.BatchNorm2d(5), ["BatchNorm2d", "5 channels", "not 3"]),
        (lambda x: nn.ConvTranspose2d(3, 2, 3, 2)(x, output_size=(20, 20)), ["ConvTranspose2d", "between"]),
        (lambda x: F.scaled_dot_product_attention(x, x, x, ct.ones(5, 6)), ["attention", "mask", "(5, 6)"]),
        (
            lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True),
            ["heads", "multiple", "(2, 2, 6, 5)"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(call: Any, words: list[str]) -> None:
    with pytest.raises(ct.ShapeError) as caught:
        call(ct.ones(2, 3, 6, 5))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.conv2d(x, ct.ones(4, 3, 3, 3), stride=0),
        lambda x: F.conv2d(x, ct.ones(4, 3, 3, 3), padding=(1, 1, 1)),
        lambda x: F.conv2d(x, ct.ones(4, 3, 3, 3), padding="some"),
        lambda x: F.conv_transpose2d(x, ct.ones(3, 4, 3, 3), output_padding=1),
        lambda x: F.avg_pool2d(x, 2, divisor_override=0),
        F.interpolate,
        lambda x: F.interpolate(x, 4, 2.0),
        lambda x: F.interpolate(x, 4, mode="cubic"),
        lambda x: F.interpolate(x, 4, align_corners=True),
        lambda x: F.interpolate(x, 4, antialias=True),
        lambda x: F.grid_sample(x, ct.ones(2, 2, 2, 2), padding_mode="wrap"),
        lambda x: F.fractional_max_pool2d(x, 2),
        lambda x: F.max_unpool2d(x, ct.zeros(2, 3, 6, 5, dtype=ct.int64), 2, output_size=(3, 3)),
        lambda x: F.batch_norm(x, None, None),
        lambda x: F.batch_norm(x[:1, :, :1, :1], None, None, training=True),
        lambda x: F.instance_norm(x[:, :, :1, :1]),
        lambda x: F.dropout(x, 1.5),
        lambda x: F.scaled_dot_product_attention(x, x, x, ct.ones(6, 6), is_causal=True),
        lambda x: nn.Conv2d(3, 4, 3, padding_mode=WRONG),
        lambda x: nn.Conv2d(3, 4, 3, groups=2),
        lambda x: nn.GroupNorm(2, 3),
        lambda x: nn.ReflectionPad2d((1, 2)),
    ],
)
def test_options_that_make_no_sense_are_refused(call: Any) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        call(ct.ones(2, 3, 6, 5))


# -- pooling -----------------------------------------------------------------------------------------------------------

_SPECIAL = np.array(
    [
        [1.0, np.nan, 2.0, 3.0, -np.inf, -np.inf],
        [0.0, 5.0, np.nan, 1.0, -np.inf, -np.inf],
        [-np.inf, -np.inf, 4.0, 4.0, np.inf, 1.0],
        [-np.inf, -np.inf, 4.0, 2.0, 0.0, np.nan],
    ]
).reshape(1, 1, 4, 6)


def test_nan_and_infinity_go_through_pooling_with_their_places() -> None:
    values, places = F.max_pool2d(ct.tensor(_SPECIAL), 2, return_indices=True)
    # by PyTorch 2.15
    np.testing.assert_array_equal(values.numpy()[0, 0], [[np.nan, np.nan, -np.inf], [-np.inf, 4.0, np.nan]])
    np.testing.assert_array_equal(places.numpy()[0, 0], [[1, 8, 4], [12, 14, 23]])
    assert np.isnan(F.avg_pool2d(ct.tensor(_SPECIAL), 2).numpy()[0, 0, 0, 0])


@pytest.mark.torch
@pytest.mark.parametrize("options", [(2,), (3, 1, 1), (2, 2, 1, 2), (3, 2, 1, 1, True)])
@pytest.mark.parametrize("equal", [False, True])
def test_places_of_maxima_are_pytorchs(options: Any, equal: bool) -> None:
    torch = pytest.importorskip("torch")
    for values in (_SPECIAL, np.round(_normal(2, 3, 7, 6)), np.full((1, 1, 5, 5), -np.inf)):
        array = np.zeros_like(values) if equal else values
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        given = dict(zip(names, options, strict=False))
        ours = F.max_pool2d(ct.tensor(array), **given, return_indices=True)
        theirs = torch.nn.functional.max_pool2d(torch.tensor(array), **given, return_indices=True)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        ours = F.adaptive_max_pool2d(ct.tensor(array), (3, 4), return_indices=True)
        theirs = torch.nn.functional.adaptive_max_pool2d(torch.tensor(array), (3, 4), return_indices=True)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_integers_can_be_pooled_for_their_maxima() -> None:
    x = ct.tensor(np.arange(16, dtype=np.int64).reshape(1, 1, 4, 4) - 20)
    out = F.max_pool2d(x, 3, 2, 1)
    assert out.dtype == np.int64
    assert out.tolist() == [[[[-15, -13], [-7, -5]]]]


def test_unpooling_brings_values_back_to_where_they_were() -> None:
    x = ct.tensor(_normal(2, 3, 6, 6))
    values, places = nn.MaxPool2d(2, return_indices=True)(x)
    back = nn.MaxUnpool2d(2)(values, places)
    found = back.numpy() != 0
    np.testing.assert_array_equal(back.numpy()[found], x.numpy()[found])
    assert found.sum() == values.numel()
    with pytest.raises(IndexError, match="max_unpool: index 40 is outside"):
        F.max_unpool2d(values, ct.full(values.shape, 40, dtype=ct.int64), 2)


def test_random_parts_are_those_of_the_draw() -> None:
    x = ct.tensor(_normal(2, 3, 9, 8))
    pool = nn.FractionalMaxPool2d(2, output_ratio=0.5)
    with random.scope(step=3, shard=1):
        first = pool(x)
    with random.scope(step=3, shard=1):
        again = pool(x)
    with random.scope(step=4, shard=1):
        other = pool(x)
    assert first.shape == (2, 3, 4, 4)
    np.testing.assert_array_equal(first.numpy(), again.numpy())
    assert (first.numpy() != other.numpy()).any()


# -- resizing ----------------------------------------------------------------------------------------------------------


def test_a_table_transposed_twice_is_the_table() -> None:
    taps = Taps(np.array([[0, 2, 2], [1, 2, 0]]), np.array([[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]]), 4)
    assert taps.transposed.transposed is taps
    assert list(taps.transposed.unused) == [3]


def test_pixels_without_weight_do_not_spread_nan() -> None:
    image = np.zeros((1, 1, 1, 8))
    image[..., 5] = np.nan
    for mode in ("nearest", "bilinear", "area"):
        small = F.interpolate(ct.tensor(image), size=(1, 4), mode=mode).numpy()
        assert not np.isnan(small[0, 0, 0, [0, 1, 3]]).any()
    x = ct.zeros(1, 1, 8, requires_grad=True)
    out = F.interpolate(x, 2, mode="linear")
    out.backward(ct.tensor([[[np.nan, 1.0]]], dtype=ct.float32))
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy()[0, 0], [0, np.nan, np.nan, 0, 0, 0.5, 0.5, 0])


def test_images_of_bytes_can_be_resized_by_their_nearest_pixels_only() -> None:
    x = ct.tensor(np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2))
    assert F.interpolate(x, scale_factor=2).dtype == np.uint8
    with pytest.raises(TypeError, match="floating-point"):
        F.interpolate(x, scale_factor=2, mode="bilinear")


def test_an_image_read_at_its_own_pixels_is_itself() -> None:
    x = ct.tensor(_normal(2, 3, 4, 5))
    for align in (True, False):
        grid = F.affine_grid(ct.tensor(np.array([[[1.0, 0, 0], [0, 1, 0]]] * 2)), (2, 3, 4, 5), align)
        for mode in ("bilinear", "nearest", "bicubic"):
            out = F.grid_sample(x, grid, mode, "zeros", align)
            np.testing.assert_allclose(out.numpy(), x.numpy(), rtol=1e-12, atol=1e-12)


def test_places_that_are_no_numbers_read_something_finite_at_the_border() -> None:
    x, grid = ct.tensor(_normal(1, 1, 3, 3)), ct.tensor(np.array([[[[np.nan, 0.0], [np.inf, 0.0]]]]))
    for mode in ("border", "reflection"):
        assert np.isfinite(F.grid_sample(x, grid, "bilinear", mode, False).numpy()).all()


def test_windows_as_columns_and_back_count_how_often_each_pixel_is_seen() -> None:
    x = ct.tensor(_normal(2, 3, 5, 6))
    seen = F.fold(F.unfold(ct.ones(2, 3, 5, 6), 3, padding=1), (5, 6), 3, padding=1)
    back = F.fold(F.unfold(x, 3, padding=1), (5, 6), 3, padding=1)
    np.testing.assert_allclose(back.numpy(), (x * seen).numpy(), rtol=1e-12)
    np.testing.assert_array_equal(F.pixel_unshuffle(F.pixel_shuffle(ct.ones(1, 4, 2, 2), 2), 2).numpy(), 1.0)


# -- normalisation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 2), (2, 3, 2), (2, 2, 3, 2)])
def test_statistics_of_a_batch_have_gradients_too(shape: tuple[int, ...]) -> None:
    def run(x: ct.Tensor, w: ct.Tensor, b: ct.Tensor) -> ct.Tensor:
        out, mean, var = apply(BATCH_NORM, x, w, b, eps=1e-5)
        result: ct.Tensor = (out * out * out).sum() + (mean * 2.0).sum() + (var * var).sum()
        return result

    inputs = [ct.tensor(_normal(*s), requires_grad=True) for s in (shape, shape[1:2], shape[1:2])]
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs)


def test_running_statistics_follow_the_batches_and_are_used_in_evaluation() -> None:
    norm = nn.BatchNorm1d(2, momentum=0.5)
    x = ct.tensor(_normal(6, 2, 4).astype(np.float32))
    norm(x)
    rows = x.numpy().swapaxes(0, 1).reshape(2, -1)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    np.testing.assert_allclose(norm.running_mean.numpy(), 0.5 * rows.mean(1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(norm.running_var.numpy(), 0.5 + 0.5 * rows.var(1, ddof=1), rtol=1e-5)
    norm.eval()
    state = {key: value.numpy().copy() for key, value in norm.state_dict().items()}
    norm(x * 3.0)
    for key, value in norm.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key])
    norm.reset_running_stats()
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 0


def test_a_backward_after_the_next_batch_still_finds_what_it_needs() -> None:
    norm, x = nn.BatchNorm1d(2), ct.tensor(_normal(6, 2).astype(np.float32), requires_grad=True)
    first = norm(x)
    norm(x * 2.0)
    first.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [np.float16, bfloat16])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.layer_norm(x, 64),
        lambda x: F.rms_norm(x, 64),
        lambda x: F.group_norm(x.reshape(2, 4, 16), 2),
        lambda x: F.batch_norm(x.reshape(8, 16), None, None, training=True),
    ],
)
def test_norms_of_half_precision_do_not_overflow(call: Any, dtype: Any) -> None:
    x = ct.tensor((_normal(2, 64) * 300).astype(dtype), requires_grad=True)
    out = call(x)
    assert out.dtype == dtype
    values = to_numpy(out.data).astype(np.float64)
    assert np.isfinite(values).all()
    assert 0.9 < values.std() < 1.1
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


# -- attention ---------------------------------------------------------------------------------------------------------


def test_a_query_that_may_see_nothing_gets_zeros_and_zero_gradients() -> None:
    q, k, v = (ct.tensor(_normal(2, 3, 4, seed=i), requires_grad=True) for i in range(3))
    mask = ct.tensor(np.array([[True, True, False], [False, False, False], [True, False, True]]))
    out = F.scaled_dot_product_attention(q, k, v, mask)
    np.testing.assert_array_equal(out.detach().numpy()[:, 1], 0.0)
    out.sum().backward()
    assert q.grad is not None
    np.testing.assert_array_equal(q.grad.numpy()[:, 1], 0.0)
    assert np.isfinite(q.grad.numpy()).all()


def test_attention_of_half_precision_does_not_overflow() -> None:
    q = ct.tensor((_normal(1, 4, 8) * 200).astype(np.float16), requires_grad=True)
    out = F.scaled_dot_product_attention(q, q, q)
    assert out.dtype == np.float16
    assert np.isfinite(out.detach().numpy()).all()


# -- dropout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 1 / 3, 0.999, 0.001])
def test_as_many_are_dropped_as_was_asked_for(p: float) -> None:
    random.manual_seed(4)
    n = 400_000
    dropped = 1.0 - kept_mask((n,), p, np).mean()
    # five standard deviations of a binomial share
    assert abs(dropped - p) < 5 * np.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1001])
def test_masks_have_their_shape_and_are_those_of_their_key(size: int) -> None:
    def draw(step: int) -> Any:
        with random.scope(step=step, shard=2):
            return kept_mask((size, 1), 0.3, np), kept_mask((size, 1), 0.3, np)

    first, second = draw(5)
    assert first.shape == (size, 1)
    assert first.dtype == np.bool_
    np.testing.assert_array_equal(first, draw(5)[0])
    if size > 100:
        assert (first != second).any()
        assert (first != draw(6)[0]).any()


def test_dropping_all_or_nothing() -> None:
    x = ct.ones(3, 4)
    assert F.dropout(x, 0.0) is x
    assert not F.dropout(x, 1.0).any()
    assert not F.alpha_dropout(x, 1.0, training=True).any()
    assert F.feature_alpha_dropout(x, 0.5) is x


@pytest.mark.parametrize(
    ("layer", "shape", "channels"),
    [
        (nn.Dropout1d, (40, 50, 6), (40, 50)),
        (nn.Dropout1d, (2000, 6), (2000,)),
        (nn.Dropout2d, (40, 50, 3, 2), (40, 50)),
        (nn.Dropout2d, (40, 50, 6), (40, 50)),
        (nn.Dropout3d, (40, 50, 3, 2, 1), (40, 50)),
        (nn.Dropout3d, (2000, 3, 2, 1), (2000,)),
        (nn.FeatureAlphaDropout, (40, 50, 6), (40, 50)),
    ],
)
def test_whole_channels_are_dropped(layer: Any, shape: Any, channels: Any) -> None:
    random.manual_seed(1)
    out = layer(0.25)(ct.ones(*shape)).numpy().reshape(*channels, -1)
    assert (out == out[..., :1]).all()
    dropped = (out[..., 0] == out[..., 0].min()).mean()
    # five standard deviations
    assert abs(dropped - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 2000)
    assert layer(0.25).eval()(x := ct.ones(*shape)) is x


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    random.manual_seed(2)
    x = ct.tensor(_normal(200_000), requires_grad=True)
    out = nn.AlphaDropout(0.2)(x)
    assert abs(float(out.mean())) < 0.01
    assert abs(float(out.std()) - 1.0) < 0.01
    out.sum().backward()
    assert x.grad is not None
    assert len(np.unique(x.grad.numpy())) == 2


def test_layers_can_be_pickled_by_reference_to_nothing_but_their_fields() -> None:
    for layer in (nn.Dropout2d(0.1), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.Conv2d(1, 2, 3), nn.ZeroPad2d(1)):
        assert repr(pickle.loads(pickle.dumps(layer))) == repr(layer)
