"""What users of other engines complain about (pytorch issues by number) is told here in a sentence that helps."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import autograd, data, nn, optim


class Block(nn.Module):
    def __init__(self) -> None:
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(16, 8)

    def forward(self, x: ct.Tensor) -> ct.Tensor:
        out: ct.Tensor = self.down(self.up(x))
        return out


class Network(nn.Module):
    def __init__(self) -> None:
        self.embed = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList([Block()])

    def forward(self, tokens: ct.Tensor) -> ct.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return x


def _told(error: BaseException) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def test_a_shape_mismatch_names_module_op_shapes_dimension_and_what_would_fit() -> None:
    """5135: "mat1 and mat2 shapes cannot be multiplied" names no layer."""
    with pytest.raises(ct.ShapeError) as caught:
        Network()(ct.zeros(2, 3, dtype=ct.int64))
    text = _told(caught.value)
    for word in ("Network.blocks.0.down", "linear", "input of shape (2, 3, 32)", "weight of shape (8, 16)", "32", "16"):
        assert word in text, (word, text)
    assert any(frame.name == "forward" for frame in caught.traceback), "the user's own frames are kept"


@pytest.mark.parametrize("loss", [nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss])
def test_losses_refuse_silent_broadcasting(loss: Any) -> None:
    """16045, 16413, 19699: (N, 1) beside (N,) is a matrix of differences."""
    with pytest.raises(ct.ShapeError) as caught:
        loss()(ct.zeros(4, 1), ct.zeros(4))
    text = _told(caught.value)
    for word in ("(4, 1)", "(4,)", "input", "target", "squeeze"):
        assert word in text, (word, text)


def test_an_overwritten_saved_value_names_the_lines_of_the_save_and_of_the_write() -> None:
    """18523, 96265: "one of the variables needed for gradient computation has been modified. Good luck!"."""
    x = ct.ones(3, requires_grad=True)
    y = x.sigmoid()  # the save
    y += 1.0  # the write
    with pytest.raises(ct.GraphError) as caught:
        y.sum().backward()
    text = _told(caught.value)
    assert "# the save" in text
    assert "# the write" in text
    assert "sigmoid" in text
    assert "clone()" in text


def test_a_nan_in_the_loss_is_found_in_the_forward() -> None:
    """160016, 1274: the anomaly mode looks only at gradients."""
    with autograd.detect_anomaly(), pytest.raises(autograd.AnomalyError) as caught:
        nn.Sequential(nn.Linear(2, 2), nn.ReLU())(ct.tensor([[float("nan"), 1.0]]))
    text = _told(caught.value)
    for word in ("linear made NaN", "Sequential.0", "first at index (0, 0)", "1 NaN", "test_error_sentences.py"):
        assert word in text, (word, text)


def test_an_index_out_of_range_says_value_size_and_module() -> None:
    """16027: "index out of range in self", or a device-side assert."""
    with pytest.raises(ct.TrainerIndexError) as caught:
        Network()(ct.tensor([[1, 12]]))
    text = _told(caught.value)
    for word in ("12", "10", "Network.embed", "embedding"):
        assert word in text, (word, text)
    with pytest.raises(ct.TrainerIndexError, match=r"7 .* dimension 1.* size 5"):
        ct.zeros(3, 5)[:, 7]


def test_a_class_out_of_range_says_value_and_number_of_classes() -> None:
    with pytest.raises(ct.TrainerError) as caught:
        nn.CrossEntropyLoss()(ct.zeros(2, 3), ct.tensor([0, 3]))
    text = _told(caught.value)
    for word in ("3", "classes", "ignore_index"):
        assert word in text, (word, text)


def test_backward_through_freed_values_says_which() -> None:
    x = ct.ones(3, requires_grad=True)
    hidden = x.tanh()
    loss = (hidden * hidden).sum()
    loss.backward()
    with pytest.raises(
        ct.GraphError, match=r"mul, recorded at .*\(loss = \(hidden \* hidden\).sum\(\)\).*retain_graph"
    ):
        loss.backward()


def test_one_seed_is_enough_whatever_the_number_of_data_workers() -> None:
    """7068, 6351, 15170: five switches, and results that change with num_workers."""

    class Noisy(data.Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Any:
            return np.float32(index) + data.sample_rng().standard_normal(3).astype(np.float32)

    def epoch(workers: int) -> Any:
        ct.manual_seed(3)
        model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
        loader = data.DataLoader(Noisy(), batch_size=6, shuffle=True, num_workers=workers)
        return [model(batch.x).detach().numpy() for batch in loader]

    expected = epoch(0)
    for workers in (1, 3):
        for one, other in zip(expected, epoch(workers), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_optimisers_state_has_names_and_one_report_of_all_problems() -> None:
    """3852, 34963: state by position, no partial load."""
    model = nn.Linear(3, 2)
    optimizer = optim.Adam(model.named_parameters())
    model(ct.ones(1, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    text = str(state)
    assert "weight" in text
    assert "bias" in text
    with pytest.raises(ValueError, match=r"(?s)bias.*weight|weight.*bias"):
        optim.Adam(nn.Linear(4, 3).named_parameters()).load_state_dict(state)


def test_a_state_that_does_not_fit_is_reported_whole() -> None:
    state = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).state_dict()
    state["1.wait"] = state.pop("1.weight")
    state["0.weight"] = ct.zeros(5, 5)
    with pytest.raises(ValueError) as caught:
        nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).load_state_dict(state)
    text = str(caught.value)
    for word in ("missing: 1.weight", "unexpected: 1.wait", "0.weight", "(5, 5)", "(2, 3)"):
        assert word in text, (word, text)


MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "matrices": (lambda: ct.ones(2, 3) @ ct.ones(4, 5), ct.ShapeError, r"matmul: .*3.*4.*\(2, 3\).*\(4, 5\)"),
    "broadcast": (lambda: ct.ones(2, 3) + ct.ones(2, 4), ct.ShapeError, r"add: sizes 3 and 4 differ in dimension -1"),
    "cat": (lambda: ct.cat([ct.ones(2, 3), ct.ones(2, 4)]), ct.ShapeError, r"cat: tensor 1 has size 4 in dimension 1"),
    "reshape": (lambda: ct.ones(2, 3).reshape(4, 2), ct.ShapeError, r"reshape: 6 elements do not fill"),
    "dim": (lambda: ct.ones(2, 3).sum(2), ct.TrainerError, r"sum: there is no dimension 2"),
    "item": (lambda: ct.ones(2).item(), ct.ShapeError, r"one element; this one has shape \(2,\)"),
    "bool": (lambda: bool(ct.ones(2) > 0), ct.ShapeError, r"\.any\(\) or \.all\(\)"),
    "numpy": (lambda: ct.ones(2, requires_grad=True).numpy(), ct.GraphError, r"detach\(\)\.numpy\(\)"),
    "no graph": (lambda: ct.ones(1).backward(), ct.GraphError, r"does not require a gradient"),
    "not one number": (
        lambda: (ct.ones(2, requires_grad=True) * 2).backward(None), ct.GraphError, r"one element, not of shape \(2,\)",
    ),
    "channels": (
        lambda: nn.Conv2d(3, 4, 3)(ct.ones(1, 1, 8, 8)), ct.ShapeError, r"conv2d: .*1 channels.* takes 3|3.*1 channel",
    ),
    "kernel": (lambda: nn.Conv2d(1, 1, 5)(ct.ones(1, 1, 3, 3)), ct.ShapeError, r"conv2d: .*larger than the image"),
    "integers": (lambda: ct.tensor([1, 2]).requires_grad_(), TypeError, r"floating-point"),
    "einsum": (lambda: ct.einsum("ij,jk->ik", ct.ones(2, 3), ct.ones(4, 5)), ct.ShapeError, r"einsum: .*j"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_everyday_mistakes(name: str) -> None:
    mistake, kind, words = MISTAKES[name]
    with pytest.raises(kind) as caught:
        mistake()
    assert re.search(words, _told(caught.value), re.DOTALL), _told(caught.value)
