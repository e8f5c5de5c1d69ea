"""Clipping, vectors, packing and parametrisations: what they promise, and PyTorch's numbers where it has some."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn, optim
from cordee.trainer.array import to_numpy
from cordee.trainer.nn import Module, Parameter
from cordee.trainer.nn.utils import (
    clip_grad_norm_,
    clip_grad_value_,
    get_total_norm,
    parameters_to_vector,
    parametrizations,
    parametrize,
    vector_to_parameters,
)
from cordee.trainer.nn.utils import rnn as packing
from cordee.trainer.tensors import Tensor

# -- clipping ----------------------------------------------------------------------------------------------------------


def graded(*values: Any) -> list[Parameter]:
    made = []
    for value in values:
        parameter = Parameter(np.zeros(np.shape(value)))
        parameter.grad = Tensor(np.array(value, dtype=float))
        made.append(parameter)
    return made


@pytest.mark.parametrize(
    ("order", "total"), [(2.0, 13.0), (1.0, 19.0), (math.inf, 12.0), (3.0, (27 + 64 + 1728) ** (1 / 3)), (0.0, 2.0)]
)
def test_the_norm_is_that_of_all_gradients_together(order: float, total: float) -> None:
    parameters = [*graded([3.0, 4.0], [[12.0]]), Parameter(np.zeros(2))]
    # The norm of the tensors' norms: of order 0 it counts tensors that are not zero, as in PyTorch.
    found = clip_grad_norm_(parameters, 6.5, norm_type=order)
    np.testing.assert_allclose(found.item(), total, rtol=1e-12)
    scale = min(1.0, 6.5 / (total + 1e-6))
    assert parameters[0].grad is not None
    np.testing.assert_allclose(parameters[0].grad.numpy(), np.array([3.0, 4.0]) * scale, rtol=1e-12)


def test_small_gradients_stay_bit_for_bit() -> None:
    parameters = graded([3e-3, 4e-3])
    assert clip_grad_norm_(parameters[0], 1.0).item() == pytest.approx(5e-3)
    assert parameters[0].grad is not None
    assert parameters[0].grad.numpy().tolist() == [3e-3, 4e-3]


def test_a_norm_that_is_not_finite_is_refused_if_so_told() -> None:
    parameters = graded([1.0], [math.nan, 2.0])
    with pytest.raises(ValueError, match=r"number 1, of shape \(2,\)"):
        clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert parameters[0].grad is not None
    assert parameters[0].grad.item() == 1.0
    assert math.isnan(clip_grad_norm_(parameters, 1.0, foreach=True).item())


def test_clipping_reaches_the_optimisers_flat_buffer() -> None:
    layer: Any = nn.Linear(3, 2)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    layer(ct.full((4, 3), 100.0)).sum().backward()
    clip_grad_norm_(layer.parameters(), 1.0)
    np.testing.assert_allclose(np.linalg.norm(to_numpy(optimizer.groups[0].grad)), 1.0, rtol=1e-4)
    clip_grad_value_(layer.parameters(), 0.01)
    assert np.abs(to_numpy(optimizer.groups[0].grad)).max() == np.float32(0.01)


def test_no_gradients_have_no_norm() -> None:
    assert clip_grad_norm_([], 1.0).item() == 0.0
    assert get_total_norm([ct.zeros(0)]).item() == 0.0


# -- vectors -----------------------------------------------------------------------------------------------------------


def test_parameters_go_into_a_vector_and_back() -> None:
    layer: Any = nn.Linear(3, 2)
    vector = parameters_to_vector(layer.parameters())
    assert vector.shape == (8,)
    vector.sum().backward()
    assert layer.weight.grad is not None
    vector_to_parameters(ct.arange(8.0), layer.parameters())
    assert layer.weight.detach().numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ct.ShapeError, match=r"need a vector of shape \(8,\), not \(7,\)"):
        vector_to_parameters(ct.zeros(7), layer.parameters())


# -- packing -----------------------------------------------------------------------------------------------------------


def test_packing_and_padding_undo_each_other() -> None:
    sequences = [ct.arange(n * 2.0).reshape(n, 2) + 10.0 * n for n in (2, 4, 1)]
    padded = packing.pad_sequence(sequences, padding_value=-1.0)
    assert padded.shape == (4, 3, 2)
    assert padded[2:, 0].numpy().tolist() == [[-1.0, -1.0]] * 2
    packed = packing.pack_padded_sequence(padded, [2, 4, 1], enforce_sorted=False)
    assert packed.batch_sizes.numpy().tolist() == [3, 2, 1, 1]
    assert packed.data.shape == (7, 2)
    back, lengths = packing.pad_packed_sequence(packed, padding_value=-1.0)
    assert np.array_equal(back.numpy(), padded.numpy())
    assert lengths.numpy().tolist() == [2, 4, 1]
    for found in (packing.unpack_sequence(packed), packing.unpad_sequence(padded, [2, 4, 1])):
        assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(found, sequences, strict=True))
    longer, _ = packing.pad_packed_sequence(packed, batch_first=True, total_length=6)
    assert longer.shape == (3, 6, 2)
    left = packing.pad_sequence(sequences, batch_first=True, padding_side="left")
    assert np.array_equal(left[0, 2:].numpy(), sequences[0].numpy())


def test_packing_passes_gradients_on() -> None:
    x = ct.ones(3, 2, 1, requires_grad=True)
    packing.pack_padded_sequence(x, [3, 1]).data.sum().backward()
    assert x.grad is not None
    assert x.grad[..., 0].numpy().tolist() == [[1, 1], [1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: packing.pack_padded_sequence(ct.zeros(3, 2, 1), [1, 3]), ValueError, "enforce_sorted=False"),
        (lambda: packing.pack_padded_sequence(ct.zeros(3, 2, 1), [4, 1]), ValueError, "from 1 to 3"),
        (lambda: packing.pack_padded_sequence(ct.zeros(3, 2, 1), [3]), ct.ShapeError, "each of the 2 sequences"),
        (lambda: packing.pack_padded_sequence(ct.zeros(3), [3]), ct.ShapeError, r"must be \(T, N, …\)"),
        (lambda: packing.pack_padded_sequence(ct.zeros(3, 1), [1.5]), TypeError, "lengths must be integers"),
        (lambda: packing.pad_sequence([]), ValueError, "at least one sequence"),
        (lambda: packing.pad_sequence([ct.zeros(1)], padding_side="top"), ValueError, "'left' or 'right'"),
        (
            lambda: packing.pad_packed_sequence(packing.pack_sequence([ct.zeros(3)]), total_length=2),
            ValueError,
            "must not be less than the longest",
        ),
    ],
)
def test_sequences_that_do_not_fit_are_refused(call: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


# -- recurrent layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_packed_batch_gives_what_its_sequences_give_alone(kind: Any) -> None:
    ct.manual_seed(3)
    layer = kind(2, 3, num_layers=2, bidirectional=True)
    sequences = [ct.randn(n, 2) for n in (2, 5, 3)]
    output, last = layer(packing.pack_sequence(sequences, enforce_sorted=False))
    last = last[0] if isinstance(last, tuple) else last
    for index, (sequence, found) in enumerate(zip(sequences, packing.unpack_sequence(output), strict=True)):
        alone, alone_last = layer(sequence)
        alone_last = alone_last[0] if isinstance(alone_last, tuple) else alone_last
        np.testing.assert_allclose(found.detach().numpy(), alone.detach().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last[:, index].detach().numpy(), alone_last.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layer", "cell"), [(nn.RNN, nn.RNNCell), (nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell)])
def test_a_layer_is_its_cell_step_after_step(layer: Any, cell: Any) -> None:
    ct.manual_seed(4)
    whole, step = layer(2, 3), cell(2, 3)
    step.load_state_dict({name.removesuffix("_l0"): value for name, value in whole.state_dict().items()})
    x, state = ct.randn(4, 5, 2), None
    expected, _ = whole(x)
    for t in range(4):
        state = step(x[t], state)
        out = state[0] if isinstance(state, tuple) else state
        np.testing.assert_allclose(out.detach().numpy(), expected[t].detach().numpy(), rtol=1e-5, atol=1e-6)


def test_dropout_between_layers_is_for_training() -> None:
    ct.manual_seed(5)
    layer, x = nn.GRU(2, 8, num_layers=2, dropout=0.5), ct.randn(3, 4, 2)
    assert not np.array_equal(layer(x)[0].detach().numpy(), layer(x)[0].detach().numpy())
    layer.eval()
    assert np.array_equal(layer(x)[0].detach().numpy(), layer(x)[0].detach().numpy())


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.LSTM(3, 4)(ct.zeros(5, 2, 7)), ct.ShapeError, "7 features .* made with input_size=3"),
        (lambda: nn.LSTM(3, 4)(ct.zeros(5)), ct.ShapeError, "2 or 3 dimensions"),
        (lambda: nn.GRU(3, 4)(ct.zeros(5, 2, 3), ct.zeros(1, 3, 4)), ct.ShapeError, r"h_0 .* must have \(1, 2, 4\)"),
        (lambda: nn.LSTM(3, 4)(ct.zeros(5, 2, 3), (ct.zeros(1, 2, 4), ct.zeros(2, 2, 4))), ct.ShapeError, "c_0"),
        (lambda: nn.LSTM(3, 4)(ct.zeros(5, 2, 3), (ct.zeros(1, 2, 4),)), ValueError, r"a pair of tensors"),
        (lambda: nn.GRUCell(3, 4)(ct.zeros(2, 5)), ct.ShapeError, r"\(N, 3\) or \(3,\), not \(2, 5\)"),
        (lambda: nn.GRUCell(3, 4)(ct.zeros(2, 3), ct.zeros(2, 3)), ct.ShapeError, r"\(2, 4\), not \(2, 3\)"),
        (lambda: nn.RNN(3, 4, nonlinearity="selu"), ValueError, "'tanh' or 'relu', got 'selu'"),
        (lambda: nn.LSTM(3, 4, proj_size=4), ValueError, r"smaller than hidden_size \(4\)"),
        (lambda: nn.LSTM(3, 0), ValueError, "must be at least 1"),
        (lambda: nn.LSTM(3, 4, dropout=2.0), ValueError, "a probability"),
        (lambda: nn.MultiheadAttention(7, 2), ValueError, r"embed_dim \(7\) must be a multiple of num_heads \(2\)"),
        (lambda: nn.MultiheadAttention(4, 2)(*[ct.zeros(2, 1, 5)] * 3), ct.ShapeError, "query .* must have 4 features"),
    ],
)
def test_what_does_not_fit_a_layer_is_a_sentence(call: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


# -- parametrisations --------------------------------------------------------------------------------------------------


class Symmetric(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


class Doubled(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0

    def right_inverse(self, x: Tensor) -> Tensor:
        return x / 2.0


def test_a_parametrised_weight_is_computed_and_trained() -> None:
    layer: Any = nn.Linear(3, 3)
    before = layer.weight.detach().numpy().copy()
    assert parametrize.register_parametrization(layer, "weight", Symmetric()) is layer
    assert issubclass(type(layer), nn.Linear)
    assert type(layer).__name__ == "ParametrizedLinear"
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    assert parametrize.is_parametrized(layer)
    assert parametrize.is_parametrized(layer, "weight")
    assert not parametrize.is_parametrized(layer, "bias")
    weight = layer.weight.detach().numpy()
    assert np.array_equal(weight, weight.T)
    assert [name for name, _ in layer.named_parameters()] == ["bias", "parametrizations.weight.original"]
    layer(ct.ones(1, 3)).sum().backward()
    grad = layer.parametrizations.weight.original.grad
    assert grad.numpy().tolist() == [[1, 2, 2], [0, 1, 2], [0, 0, 1]]
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert type(layer) is nn.Linear
    assert np.array_equal(layer.weight.detach().numpy(), before)
    assert set(dict(layer.named_parameters())) == {"weight", "bias"}


def test_parametrisations_follow_each_other_and_can_be_assigned_through() -> None:
    layer: Any = nn.Linear(2, 2)
    parametrize.register_parametrization(layer, "weight", Doubled())
    parametrize.register_parametrization(layer, "weight", Doubled())
    layer.weight = ct.full((2, 2), 8.0)
    assert layer.parametrizations.weight.original.detach().numpy().tolist() == [[2.0, 2.0]] * 2
    assert layer.weight.detach().numpy().tolist() == [[8.0, 8.0]] * 2
    parametrize.remove_parametrizations(layer, "weight")
    assert isinstance(layer.weight, Parameter)
    assert layer.weight.detach().numpy().tolist() == [[8.0, 8.0]] * 2


def test_a_copy_of_a_parametrised_module_is_apart() -> None:
    layer: Any = nn.Linear(2, 2)
    parametrize.register_parametrization(layer, "weight", Doubled())
    twin = copy.deepcopy(layer)
    parametrize.remove_parametrizations(layer, "weight")
    assert parametrize.is_parametrized(twin, "weight")
    twin.parametrizations.weight.original.data[...] = 1.0
    assert twin.weight.detach().numpy().tolist() == [[2.0, 2.0]] * 2
    assert not (layer.weight.detach().numpy() == 2.0).any()


def test_inside_cached_a_value_is_computed_once() -> None:
    class Counting(Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.calls += 1
            return x + 0.0

    layer: Any = nn.Linear(2, 2)
    parametrize.register_parametrization(layer, "weight", Counting())
    Counting.calls = 0
    with parametrize.cached():
        assert layer.weight is layer.weight
    assert Counting.calls == 1
    assert layer.weight is not layer.weight


def test_a_parametrised_buffer_stays_a_buffer() -> None:
    layer: Any = nn.Linear(2, 2)
    layer.register_buffer("scale", ct.ones(2))
    parametrize.register_parametrization(layer, "scale", Doubled())
    assert "parametrizations.scale.original" in dict(layer.named_buffers())
    assert layer.scale.numpy().tolist() == [1.0, 1.0]
    parametrize.remove_parametrizations(layer, "scale")
    assert "scale" in dict(layer.named_buffers())


def test_what_cannot_be_parametrised_is_refused() -> None:
    class Longer(Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten()

    layer: Any = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="has no parameter or buffer 'wait' of its own"):
        parametrize.register_parametrization(layer, "wait", Doubled())
    with pytest.raises(ValueError, match=r"Longer makes 'weight' of float32\[2, 2\] to float32\[4\]; unsafe=True"):
        parametrize.register_parametrization(layer, "weight", Longer())
    assert not parametrize.is_parametrized(layer)
    with pytest.raises(ValueError, match="has no parametrisation of 'weight'"):
        parametrize.remove_parametrizations(layer, "weight")
    parametrize.register_parametrization(layer, "weight", Symmetric())
    with pytest.raises(TypeError, match="Symmetric has no right_inverse"):
        layer.weight = ct.zeros(2, 2)
    parametrizations.weight_norm(layer, "bias")
    with pytest.raises(ValueError, match="made of 2 tensors"):
        parametrize.remove_parametrizations(layer, "bias", leave_parametrized=False)


def test_weight_norm_leaves_the_weight_as_it_was_and_reads_older_states() -> None:
    layer: Any = nn.Linear(4, 3)
    before = layer.weight.detach().numpy().copy()
    parametrizations.weight_norm(layer)
    np.testing.assert_allclose(layer.weight.detach().numpy(), before, rtol=1e-6)
    older = {"bias": np.zeros(3), "weight_g": np.full((3, 1), 2.0), "weight_v": before}
    layer.load_state_dict(older)
    np.testing.assert_allclose(np.linalg.norm(layer.weight.detach().numpy(), axis=1), 2.0, rtol=1e-6)


def test_spectral_norm_makes_the_largest_singular_value_one() -> None:
    ct.manual_seed(1)
    layer: Any = parametrizations.spectral_norm(nn.Linear(6, 4), n_power_iterations=30)
    assert np.linalg.svd(layer.weight.detach().numpy())[1][0] == pytest.approx(1.0, rel=1e-4)
    layer(ct.ones(2, 6)).sum().backward()
    assert layer.parametrizations.weight.original.grad is not None
    vector: Any = parametrizations.spectral_norm(nn.Linear(3, 2), "bias")
    assert np.linalg.norm(vector.bias.detach().numpy()) == pytest.approx(1.0, rel=1e-5)
    conv = parametrizations.spectral_norm(nn.Conv2d(2, 3, 3))
    assert conv(ct.ones(1, 2, 4, 4)).shape == (1, 3, 2, 2)


@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (5, 3)])
def test_orthogonal_weights_stay_so_under_training(orthogonal_map: str, size: tuple[int, int]) -> None:
    ct.manual_seed(2)
    layer: Any = nn.Linear(*size).double()
    nn.init.orthogonal_(layer.weight)
    before = layer.weight.detach().numpy().copy()
    parametrizations.orthogonal(layer, orthogonal_map=orthogonal_map)
    np.testing.assert_allclose(layer.weight.detach().numpy(), before, atol=1e-12)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (layer(ct.ones(2, size[0], dtype=ct.float64)) ** 2).sum().backward()
        optimizer.step()
    weight = layer.weight.detach().numpy()
    assert not np.allclose(weight, before)
    small = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    np.testing.assert_allclose(small, np.eye(min(size)), atol=1e-10)


def test_householder_reflections_have_an_inverse() -> None:
    ct.manual_seed(2)
    layer: Any = nn.Linear(3, 5).double()
    nn.init.orthogonal_(layer.weight)
    before = layer.weight.detach().numpy().copy()
    parametrizations.orthogonal(layer, use_trivialization=False)
    np.testing.assert_allclose(layer.weight.detach().numpy(), before, atol=1e-12)
    with pytest.raises(ValueError, match="the map cayley has no inverse"):
        parametrizations.orthogonal(nn.Linear(3, 3), orthogonal_map="cayley", use_trivialization=False)
    with pytest.raises(ValueError, match="orthogonal_map must be one of"):
        parametrizations.orthogonal(nn.Linear(3, 3), orthogonal_map="qr")
