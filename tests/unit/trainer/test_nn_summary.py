"""The summary counts what there is, and leaves the model as it was."""

from __future__ import annotations

from typing import Any

import pytest

import cordee.trainer as ct
from cordee.trainer import nn, random


def net() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 6 * 6, 10))
    )


def test_shapes_parameters_and_multiply_adds_are_those_of_the_layers() -> None:
    found = net().summary(input_size=(2, 3, 8, 8))
    rows = {layer.path: layer for layer in found.layers}
    assert rows["0"].output_shape == (2, 8, 6, 6)
    assert rows["0"].own_parameters == 8 * 3 * 9 + 8
    assert rows["0"].multiply_adds == 2 * 6 * 6 * 8 * 3 * 9
    assert rows["2.2"].multiply_adds == 2 * 288 * 10
    assert found.total_parameters == found.trainable_parameters == 224 + 2890
    assert found.parameter_bytes == 4 * (224 + 2890)
    assert found.multiply_adds == 2 * 36 * 216 + 5760
    # Convolution and ReLU 2 * 8 * 6 * 6 numbers each, Flatten and Dropout 2 * 288, the last layer 2 * 10.
    assert found.output_bytes == 4 * (2 * 576 + 2 * 576 + 20)


def test_the_text_is_a_table_of_the_layers_by_path() -> None:
    lines = str(net().summary(input_size=(2, 3, 8, 8))).splitlines()
    assert lines[0] == "Sequential  ←  2 × 3 × 8 × 8"
    assert lines[2].split("  ")[0] == "Layer"
    assert any(line.startswith("  2") and "Linear" in line and "2 × 10" in line and "2,890" in line for line in lines)
    assert lines[-2] == "3,114 parameters (12.5 KB), all trainable"
    assert "21,312 multiply-adds" in lines[-1]
    assert not any("Linear" in line for line in str(net().summary(depth=1)).splitlines())


def test_the_model_and_the_random_numbers_are_left_as_they_were() -> None:
    model = net()
    model[0].eval()
    before = random.get_state()
    nn.summary(model, ct.ones(1, 3, 8, 8))
    assert random.get_state() == before
    assert [module.training for module in model.modules()] == [True, False, True, True, True, True, True]
    assert all(module._hooks is None for module in model.modules())


def test_tied_frozen_and_repeated_layers_are_counted_once() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad = False
    model.append(model[0])
    found = model.summary(ct.ones(2, 4))
    assert found.total_parameters == 16 + 4 + 4
    assert found.trainable_parameters == 20
    assert {layer.path: layer.calls for layer in found.layers} == {"": 1, "0": 2, "1": 1}
    assert "4 of them frozen" in str(found)
    assert "Linear × 2" in str(found)


def test_recurrent_layers_attention_and_embeddings_are_counted() -> None:
    lstm = nn.LSTM(3, 4).summary(input_size=(5, 2, 3))
    assert lstm.layers[0].output_shape == ((5, 2, 4), ((1, 2, 4), (1, 2, 4)))
    assert lstm.multiply_adds == 5 * 2 * 16 * (3 + 4)
    x = ct.ones(5, 2, 8)
    attention = nn.MultiheadAttention(8, 2)
    # Projections of queries, keys, values and the output; then the two products with the weights.
    assert attention.summary(x, x, x).multiply_adds == 2 * (5 * 8 * 8 * 4 + 2 * 5 * 5 * 8)
    words = nn.Embedding(7, 3).summary(input_size=(4,), dtypes=[ct.int64])
    assert (words.multiply_adds, words.layers[0].output_shape) == (0, (4, 3))


def test_inputs_and_sizes_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="give inputs or input_size, not both"):
        nn.summary(net(), ct.ones(1), input_size=(1,))
    with pytest.raises(ValueError, match="2 inputs, but 1 dtypes"):
        nn.summary(net(), input_size=[(1,), (2,)], dtypes=[ct.float32])
