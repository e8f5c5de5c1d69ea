"""Makes `nn.npz`: values and gradients of PyTorch's layers, losses and functions (needs PyTorch).

Inputs, parameters and the weights of the outputs are cosines of their places, so both sides make them by themselves.
What is compared is the output, and the gradients of `sum(output * weights)` by inputs and parameters, in float64.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TARGET = Path(__file__).with_name("nn.npz")


class Case(NamedTuple):
    name: str
    """Of a class in `nn`, or (in lower case) of a function in `nn.functional`."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[tuple[int, ...], ...]
    """The shapes of the real inputs."""
    integers: tuple[tuple[tuple[int, ...], int], ...] = ()
    """Shapes of whole-number inputs that follow, and what their values stay below."""


def case(name: str, *inputs: tuple[int, ...], args: tuple[Any, ...] = (), integers: Any = (), **kwargs: Any) -> Case:
    return Case(name, args, kwargs, inputs, integers)


IMAGE = (2, 4, 7, 6)
CASES: dict[str, Case] = {
    "linear": case("Linear", (5, 3), args=(3, 2)),
    "linear-3d-no-bias": case("Linear", (2, 4, 3), args=(3, 2), bias=False),
    "conv": case("Conv2d", IMAGE, args=(4, 6, 3)),
    "conv-padded": case("Conv2d", IMAGE, args=(4, 6, 3), padding=1),
    "conv-strided": case("Conv2d", IMAGE, args=(4, 6, (3, 2)), stride=2, padding=(1, 0), bias=False),
    "conv-dilated": case("Conv2d", IMAGE, args=(4, 6, 2), dilation=(2, 3)),
    "conv-grouped": case("Conv2d", IMAGE, args=(4, 6, 3), groups=2, padding=2),
    "conv-depthwise": case("Conv2d", IMAGE, args=(4, 4, 3), groups=4),
    "conv-1x1": case("Conv2d", IMAGE, args=(4, 2, 1)),
    "max-pool": case("MaxPool2d", IMAGE, args=(2,)),
    "max-pool-overlapping": case("MaxPool2d", IMAGE, args=(3,), stride=2, padding=1),
    "avg-pool": case("AvgPool2d", IMAGE, args=(2,)),
    "avg-pool-padded": case("AvgPool2d", IMAGE, args=((3, 2),), stride=2, padding=1),
    "layer-norm": case("LayerNorm", (2, 3, 5), args=(5,)),
    "layer-norm-2d": case("LayerNorm", (2, 3, 5), args=((3, 5),), eps=0.1),
    "layer-norm-no-bias": case("LayerNorm", (4, 5), args=(5,), bias=False),
    "layer-norm-plain": case("LayerNorm", (4, 5), args=(5,), elementwise_affine=False),
    "embedding": case("Embedding", args=(7, 3), integers=(((4, 2), 7),)),
    "flatten": case("Flatten", (2, 3, 4)),
    "relu": case("ReLU", (4, 5)),
    "leaky-relu": case("LeakyReLU", (4, 5), args=(0.2,)),
    "elu": case("ELU", (4, 5), args=(0.7,)),
    "gelu": case("GELU", (4, 5)),
    "gelu-tanh": case("GELU", (4, 5), approximate="tanh"),
    "silu": case("SiLU", (4, 5)),
    "sigmoid": case("Sigmoid", (4, 5)),
    "tanh": case("Tanh", (4, 5)),
    "softplus": case("Softplus", (4, 5), beta=2.0),
    "softmax": case("Softmax", (4, 5), dim=-1),
    "softmax-first": case("Softmax", (4, 5), dim=0),
    "log-softmax": case("LogSoftmax", (4, 5), dim=-1),
    "cross-entropy": case("CrossEntropyLoss", (6, 5), integers=(((6,), 5),)),
    "cross-entropy-sum": case("CrossEntropyLoss", (6, 5), integers=(((6,), 5),), reduction="sum"),
    "cross-entropy-none": case("CrossEntropyLoss", (6, 5), integers=(((6,), 5),), reduction="none"),
    "cross-entropy-ignoring": case("CrossEntropyLoss", (6, 5), integers=(((6,), 5),), ignore_index=2),
    "cross-entropy-smoothed": case("CrossEntropyLoss", (6, 5), integers=(((6,), 5),), label_smoothing=0.2),
    "cross-entropy-smoothed-ignoring": case(
        "CrossEntropyLoss", (6, 5), integers=(((6,), 5),), label_smoothing=0.1, ignore_index=1
    ),
    "cross-entropy-images": case("CrossEntropyLoss", (2, 5, 3, 2), integers=(((2, 3, 2), 5),)),
    "nll": case("NLLLoss", (6, 5), integers=(((6,), 5),), ignore_index=0),
    "mse": case("MSELoss", (4, 3), (4, 3)),
    "mse-sum": case("MSELoss", (4, 3), (4, 3), reduction="sum"),
    "l1": case("L1Loss", (4, 3), (4, 3)),
    "bce-with-logits": case("BCEWithLogitsLoss", (4, 3), (4, 3)),
    "attention": case("scaled_dot_product_attention", (2, 2, 4, 3), (2, 2, 5, 3), (2, 2, 5, 6)),
    "attention-causal": case("scaled_dot_product_attention", (2, 4, 3), (2, 4, 3), (2, 4, 3), is_causal=True),
    "attention-scaled": case("scaled_dot_product_attention", (4, 3), (4, 3), (4, 3), scale=0.25),
    "attention-biased": case("scaled_dot_product_attention", (2, 4, 3), (2, 5, 3), (2, 5, 3), (4, 5)),
}


def real(shape: tuple[int, ...], number: int) -> NDArray[np.float64]:
    """Numbers without pattern or ties, from -1.5 to 1.5, and others for another `number`."""
    size = int(np.prod(shape, dtype=int))
    return 1.5 * np.cos(np.arange(size) ** 1.5 * 0.9 + number * 1.7 + 0.3).reshape(shape)


def whole(shape: tuple[int, ...], below: int) -> NDArray[np.int64]:
    size = int(np.prod(shape, dtype=int))
    return ((np.arange(size) * 5 + 3) % below).astype(np.int64).reshape(shape)


def evaluate(nn: Any, case: Case, tensor: Any) -> dict[str, Any]:
    """Output and gradients, with either library: `tensor` makes one of an array, `nn` is the library's."""
    inputs = [tensor(real(shape, index)) for index, shape in enumerate(case.inputs)]
    numbers = [tensor(whole(shape, below)) for shape, below in case.integers]
    for each in inputs:
        each.requires_grad_(True)
    named: dict[str, Any] = {f"input{index}": each for index, each in enumerate(inputs)}
    if case.name[0].islower():
        output = getattr(nn.functional, case.name)(*inputs, *numbers, *case.args, **case.kwargs)
    else:
        layer = getattr(nn, case.name)(*case.args, **case.kwargs).double()
        layer.load_state_dict(
            {name: tensor(real(tuple(p.shape), 10 + index)) for index, (name, p) in enumerate(layer.named_parameters())}
        )
        named.update(layer.named_parameters())
        output = layer(*inputs, *numbers)
    (output * tensor(real(tuple(output.shape), 99))).sum().backward()
    return {"output": output.detach(), **{name: each.grad for name, each in named.items()}}


def main() -> None:
    import torch

    arrays: dict[str, NDArray[Any]] = {}
    for name, each in CASES.items():
        for key, value in evaluate(torch.nn, each, torch.tensor).items():
            arrays[f"{name}/{key}"] = value.numpy()
    arrays["made_with"] = np.frombuffer(json.dumps({"torch": torch.__version__}).encode(), np.uint8)
    np.savez_compressed(TARGET, allow_pickle=False, **arrays)
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
