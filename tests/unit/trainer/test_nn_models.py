"""Whole models learn real data: a convolutional net digits, an attention model a poem."""

from __future__ import annotations

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import data, nn, optim, random
from cordee.trainer.data import DataLoader, TensorDataset, datasets
from cordee.trainer.tensors import Tensor


def test_a_convolutional_net_learns_digits() -> None:
    ct.manual_seed(0)
    images, labels = datasets.digits()
    images, held_out = images[:, None] / 16, np.arange(len(labels)) % 5 == 0
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(64, 10),
    )
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    criterion = nn.CrossEntropyLoss()
    loader = DataLoader(TensorDataset(images[~held_out], labels[~held_out]), 64, shuffle=True)
    for _ in range(6):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    model.eval()
    with ct.no_grad():
        predicted = model(ct.tensor(images[held_out])).numpy().argmax(axis=1)
    # A linear classifier gets 95 % right.
    assert (predicted == labels[held_out]).mean() > 0.96


POEM = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date."""


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.permute(0, 2, 1, 3).reshape(batch, length, width))
        output: Tensor = x + self.mlp(self.norm2(x))
        return output


class CharModel(nn.Module):
    def __init__(self, vocabulary: int, width: int = 32, context: int = 24) -> None:
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.token.weight  # tied, as in GPT-2

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position(ct.arange(tokens.shape[1]))
        output: Tensor = self.head(self.norm(self.blocks(x)))
        return output


def test_an_attention_model_learns_a_poem() -> None:
    ct.manual_seed(0)
    letters = sorted(set(POEM))
    numbers = np.array([letters.index(letter) for letter in POEM])
    context = 24
    starts = np.arange(len(numbers) - context)
    inputs, targets = (np.stack([numbers[s + shift : s + shift + context] for s in starts]) for shift in (0, 1))
    model = CharModel(len(letters))
    assert "head.weight" not in dict(model.named_parameters())
    nn.init.normal_(model.token.weight, std=0.1)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(TensorDataset(inputs, targets), 32, shuffle=True)
    losses = []
    for _ in range(32):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x).reshape(-1, len(letters)), y.reshape(-1))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    # Knowing the letters' frequencies alone leaves 2.9 nats.
    assert losses[-1] < 1.5


def test_attention_does_not_look_ahead() -> None:
    ct.manual_seed(0)
    model = CharModel(7).eval()
    tokens = np.arange(24)[None] % 7
    changed = tokens.copy()
    changed[0, 15:] = 3
    with ct.no_grad():
        before, after = model(ct.tensor(tokens)).numpy(), model(ct.tensor(changed)).numpy()
    np.testing.assert_allclose(before[:, :15], after[:, :15], rtol=1e-5, atol=1e-6)
    assert not np.allclose(before[:, 15:], after[:, 15:])


def test_dropout_depends_on_step_and_shard_alone() -> None:
    ct.manual_seed(4)
    layer = nn.Dropout(0.3)
    x = ct.ones(50, 40)

    def draw(step: int, shard: int) -> bytes:
        with random.scope(step=step, shard=shard):
            return layer(x).numpy().tobytes() + layer(x).numpy().tobytes()

    first = draw(1, 0)
    others = [draw(1, 1), draw(2, 0)]
    layer(x)  # a draw outside any scope
    assert draw(1, 0) == first
    assert first not in others
    assert others[0] != others[1]
    half = len(first) // 2
    assert first[:half] != first[half:]


def test_dropout_keeps_the_mean_and_is_nothing_in_evaluation() -> None:
    ct.manual_seed(4)
    x = ct.ones(200, 100)
    values = nn.Dropout(0.3)(x).numpy()
    kept = values != 0
    np.testing.assert_allclose(values[kept], 1 / 0.7, rtol=1e-6)
    # 20,000 draws: a standard error of 0.0032.
    assert abs(kept.mean() - 0.7) < 0.016
    assert np.array_equal(nn.Dropout(0.3).eval()(x).numpy(), x.numpy())
    assert not nn.Dropout(1.0)(x).numpy().any()


@pytest.mark.parametrize("name", ["MSELoss", "L1Loss", "BCEWithLogitsLoss"])
def test_a_loss_of_unequal_shapes_is_refused_instead_of_broadcast(name: str) -> None:
    with pytest.raises(ValueError, match=r"input has shape \(4, 1\), target \(4,\); they must be the same"):
        getattr(nn, name)()(ct.ones(4, 1), ct.ones(4))


def test_the_public_names_are_there() -> None:
    for module in (nn, nn.functional, nn.init, optim, data):
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
