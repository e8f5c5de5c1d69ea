"""The models that `training_step.py` trains: written once, for whichever library's `nn` they are given.

Parameters have the same names in both libraries, so that initial weights can be carried from one to the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

__all__ = ["OPTIONS", "ROWS", "Row", "tiny"]


def mlp(nn: Any, *widths: int) -> Any:
    """Linear layers with ReLUs between them."""
    layers: list[Any] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def tiny(nn: Any) -> Any:
    """Layers of every kind, for `(N, 64)`; the first two have products that are large enough for the libraries' own
    ones, whose machine code is made when they are first needed."""
    return nn.Sequential(
        nn.Linear(64, 512),
        nn.Linear(512, 64),
        nn.LayerNorm(64),
        nn.GELU(),
        nn.Unflatten(1, (4, 4, 4)),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def conv_net(nn: Any) -> Any:
    """Two convolutions on 28 × 28."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def resnet18(nn: Any, num_classes: int) -> Any:
    """ResNet-18 (arXiv:1512.03385) for images of 32 × 32: a stem of 3 × 3 that does not shrink, and no max-pool."""
    functional = nn.functional

    class BasicBlock(nn.Module):  # type: ignore[misc]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.shortcut = nn.Sequential()
            if stride != 1 or inputs != outputs:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x: Any) -> Any:
            out = functional.relu(self.bn1(self.conv1(x)))
            return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))

    blocks: list[Any] = []
    inputs = 64
    for outputs, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first_stride, 1):
            blocks.append(BasicBlock(inputs, outputs, stride))
            inputs = outputs
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, num_classes),
    )


def last_of_lstm(nn: Any, width: int, num_classes: int) -> Any:
    """One layer over the whole sequence, `(N, T, width)`, and a classifier on its last output."""

    class Classifier(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(width, width, batch_first=True)
            self.head = nn.Linear(width, num_classes)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    return Classifier()


def transformer(
    nn: Any, arange: Callable[[int], Any], vocabulary: int, width: int, context: int, num_layers: int, num_heads: int
) -> Any:
    """nanoGPT's shape: learned positions, pre-norm, causal attention, tanh GELU; logits of `(N * T, vocabulary)`."""
    functional = nn.functional

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            apart = self.qkv(self.norm1(x)).reshape(batch, length, 3, num_heads, width // num_heads)
            heads = apart.permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
            x = x + self.project(mixed.permute(0, 2, 1, 3).reshape(batch, length, width))
            return x + self.contract(functional.gelu(self.expand(self.norm2(x)), approximate="tanh"))

    class Transformer(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(num_layers)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)
            self.places = arange(context)

        def forward(self, tokens: Any) -> Any:
            x = self.token(tokens) + self.position(self.places)
            return self.head(self.norm(self.blocks(x))).reshape(-1, vocabulary)

    return Transformer()


class Row(NamedTuple):
    """A training step: `make(nn, arange)` builds the model, for inputs of this shape."""

    title: str
    make: Callable[[Any, Callable[[int], Any]], Any]
    optimizer: str
    input_shape: tuple[int, ...]
    classes: int
    kind: Literal["vectors", "images", "text"] = "vectors"


ROWS = {
    "mlp-tiny": Row("MLP 64-64-64-10, batch 32", lambda nn, _: mlp(nn, 64, 64, 64, 10), "SGD", (32, 64), 10),
    "mlp-small": Row("MLP 784-128-10, batch 64", lambda nn, _: mlp(nn, 784, 128, 10), "SGD", (64, 784), 10),
    "mlp-medium": Row("MLP 784-512-512-10, batch 128", lambda nn, _: mlp(nn, 784, 512, 512, 10), "SGD", (128, 784), 10),
    "mlp-large": Row(
        "MLP 784-1024×3-10, batch 256", lambda nn, _: mlp(nn, 784, 1024, 1024, 1024, 10), "SGD", (256, 784), 10
    ),
    "conv": Row("conv 16-32, 28×28, batch 64", lambda nn, _: conv_net(nn), "SGD", (64, 1, 28, 28), 10, "images"),
    "resnet": Row("ResNet-18, 32×32, batch 32", lambda nn, _: resnet18(nn, 10), "SGD", (32, 3, 32, 32), 10, "images"),
    "lstm": Row("LSTM 256, 64 steps, batch 32", lambda nn, _: last_of_lstm(nn, 256, 10), "AdamW", (32, 64, 256), 10),
    "transformer": Row(
        "char transformer, 4×128, batch 12",
        lambda nn, arange: transformer(nn, arange, 65, 128, 64, 4, 4),
        "AdamW",
        (12, 64),
        65,
        "text",
    ),
    "gpt": Row(
        "GPT 6×384, context 256, batch 4",
        lambda nn, arange: transformer(nn, arange, 65, 384, 256, 6, 6),
        "AdamW",
        (4, 256),
        65,
        "text",
    ),
}

OPTIONS: dict[str, dict[str, float]] = {"SGD": {"lr": 0.01, "momentum": 0.9}, "AdamW": {"lr": 3e-4}}
