"""Makes `layers.npz`: PyTorch's recurrent layers, attention, transformers, activations, losses and parametrisations.

A case builds a function (a module or not) and its inputs with either library. Inputs and the state are cosines of their
places, as in `make_golden_nn.py`. Compared are all outputs, the gradients of a weighted sum of them by inputs and
parameters, in float64, and the names and shapes of the state. Making it needs PyTorch.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TARGET = Path(__file__).with_name("layers.npz")

Built = tuple[Any, tuple[Any, ...]]
Build = Callable[[Any, Any], Built]


def real(shape: tuple[int, ...], number: int) -> NDArray[np.float64]:
    """Numbers without pattern or ties, from -1.5 to 1.5, and others for another `number`."""
    size = int(np.prod(shape, dtype=int))
    values: NDArray[np.float64] = 1.5 * np.cos(np.arange(size) ** 1.5 * 0.9 + number * 1.7 + 0.3).reshape(shape)
    return values


def whole(shape: tuple[int, ...], below: int) -> NDArray[np.int64]:
    size = int(np.prod(shape, dtype=int))
    return ((np.arange(size) * 5 + 3) % below).astype(np.int64).reshape(shape)


def positive(shape: tuple[int, ...], number: int) -> NDArray[np.float64]:
    return 0.2 + np.abs(real(shape, number))


def unit(shape: tuple[int, ...], number: int) -> NDArray[np.float64]:
    """Between 0.05 and 0.95."""
    return 0.5 + 0.3 * real(shape, number)


def signs(shape: tuple[int, ...], number: int) -> NDArray[np.float64]:
    return np.where(real(shape, number) > 0, 1.0, -1.0)


def layer(name: str, *arrays: Any, args: Any = (), **kwargs: Any) -> Build:
    """`nn.<name>(*args, **kwargs)` of these arrays; a tuple of arrays is a tuple of tensors, arrays in kwargs too."""
    tensor_options = {key: value for key, value in kwargs.items() if isinstance(value, np.ndarray)}

    def build(nn: Any, tensor: Any) -> Built:
        options = kwargs | {key: tensor(value) for key, value in tensor_options.items()}
        return getattr(nn, name)(*args, **options), _tensors(arrays, tensor)

    return build


def call(name: str, *arrays: Any, **kwargs: Any) -> Build:
    """`nn.functional.<name>(*arrays, **kwargs)`, arrays among the kwargs too."""

    def build(nn: Any, tensor: Any) -> Built:
        options = {key: tensor(v) if isinstance(v, np.ndarray) else v for key, v in kwargs.items()}
        function = getattr(nn.functional, name)
        return (lambda *inputs: function(*inputs, **options)), _tensors(arrays, tensor)

    return build


def attention(
    *arrays: Any, options: dict[str, Any] | None = None, args: tuple[Any, ...] = (8, 2), **kwargs: Any
) -> Build:
    def build(nn: Any, tensor: Any) -> Built:
        module = nn.MultiheadAttention(*args, **(options or {}))
        extra = {key: tensor(v) if isinstance(v, np.ndarray) else v for key, v in kwargs.items()}
        return _With(module, extra), _tensors(arrays, tensor)

    return build


def transformer(
    name: str, *arrays: Any, args: tuple[Any, ...] = (8, 2), inner: int = 12, masks: Any = None, **kwargs: Any
) -> Build:
    def build(nn: Any, tensor: Any) -> Built:
        module = getattr(nn, name)(*args, dim_feedforward=inner, dropout=0.0, **kwargs)
        extra = {key: tensor(v) if isinstance(v, np.ndarray) else v for key, v in (masks or {}).items()}
        return _With(module, extra), _tensors(arrays, tensor)

    return build


def stack(kind: str, *arrays: Any, **kwargs: Any) -> Build:
    def build(nn: Any, tensor: Any) -> Built:
        one = getattr(nn, f"Transformer{kind}Layer")(8, 2, dim_feedforward=12, dropout=0.0, **kwargs)
        return getattr(nn, f"Transformer{kind}")(one, 2, nn.LayerNorm(8)), _tensors(arrays, tensor)

    return build


def packed(name: str, lengths: list[int], enforce_sorted: bool, **kwargs: Any) -> Build:
    """A recurrent layer on a packed batch, its output padded again."""

    def build(nn: Any, tensor: Any) -> Built:
        module = getattr(nn, name)(3, 4, **kwargs)

        def run(x: Any) -> Any:
            rnn = nn.utils.rnn
            batch = rnn.pack_padded_sequence(x, tensor(np.array(lengths)), enforce_sorted=enforce_sorted)
            output, last = module(batch)
            padded, found = rnn.pad_packed_sequence(output, padding_value=-1.0)
            return padded, last, found

        return _Through(module, run), _tensors((real((5, len(lengths), 3), 0),), tensor)

    return build


def parametrised(kind: str, size: tuple[int, int], training: bool = True, **kwargs: Any) -> Build:
    def build(nn: Any, tensor: Any) -> Built:
        module = nn.Linear(*size)
        module.train(training)
        getattr(nn.utils.parametrizations, kind)(module, **kwargs)
        return module, _tensors((real((3, size[0]), 0),), tensor)

    return build


def ctc(*more: Any, **kwargs: Any) -> Build:
    """Behind a log_softmax, where PyTorch's gradient is that of the function."""

    def build(nn: Any, tensor: Any) -> Built:
        def run(x: Any) -> Any:
            return nn.functional.ctc_loss(x.log_softmax(-1), *_tensors(more, tensor), **kwargs)

        return run, _tensors((real((6, 3, 4), 0),), tensor)

    return build


class _With:
    """A module called with keyword arguments."""

    def __init__(self, module: Any, kwargs: dict[str, Any]) -> None:
        self.module, self.kwargs = module, kwargs

    def __call__(self, *inputs: Any) -> Any:
        return self.module(*inputs, **self.kwargs)


class _Through:
    """A function that calls a module."""

    def __init__(self, module: Any, run: Callable[..., Any]) -> None:
        self.module, self.run = module, run

    def __call__(self, *inputs: Any) -> Any:
        return self.run(*inputs)


def _tensors(arrays: Any, tensor: Any) -> tuple[Any, ...]:
    return tuple(_tensors(a, tensor) if isinstance(a, tuple) else tensor(a) for a in arrays)


SEQ = real((5, 2, 3), 0)
LONG = np.triu(np.ones((4, 4), bool), 1)
HIDE = np.array([[False, False, True, False], [False, True, True, False]])
Q, K = real((3, 2, 8), 0), real((4, 2, 8), 1)
X = real((3, 4), 0)
SHAPE = (4, 3)
IMAGE = (2, 5, 3, 2)

CASES: dict[str, Build] = {
    **{
        f"activation-{name}": layer(name, X)
        for name in (
            "ReLU", "ReLU6", "SiLU", "Mish", "Sigmoid", "LogSigmoid", "Hardsigmoid", "Tanh", "Tanhshrink", "Hardswish",
            "SELU", "Softsign", "LeakyReLU", "ELU", "CELU", "Softplus", "Hardshrink", "Softshrink", "GLU", "GELU",
            "Hardtanh", "PReLU",
        )
    },
    "activation-Threshold": layer("Threshold", X, args=(0.3, -2.0)),
    "activation-RReLU-eval": lambda nn, tensor: (nn.RReLU(0.1, 0.4).eval(), (tensor(X),)),
    "activation-CELU-alpha": layer("CELU", X, args=(0.7,)),
    "activation-PReLU-channels": layer("PReLU", real((2, 3, 2), 0), args=(3,)),
    "activation-GLU-first": layer("GLU", X[:2], args=(0,)),
    "activation-Hardtanh-bounds": layer("Hardtanh", X, args=(-0.3, 0.9)),
    "activation-Softmin": layer("Softmin", X, dim=0),
    "activation-Softmax-3d": layer("Softmax", real((2, 3, 4), 0), dim=1),
    "activation-LogSoftmax": layer("LogSoftmax", X, dim=1),
    "activation-Softmax2d": layer("Softmax2d", real((2, 3, 2, 2), 0)),
    "bilinear": layer("Bilinear", real((2, 5, 3), 0), real((2, 5, 4), 1), args=(3, 4, 2)),
    "bilinear-no-bias": layer("Bilinear", real((5, 3), 0), real((5, 4), 1), args=(3, 4, 2), bias=False),
    "cosine-similarity": layer("CosineSimilarity", real(SHAPE, 0), real(SHAPE, 1)),
    "cosine-similarity-dim": layer("CosineSimilarity", real((2, 3, 4), 0), real((2, 3, 4), 1), dim=2),
    "pairwise-distance": layer("PairwiseDistance", real(SHAPE, 0), real(SHAPE, 1)),
    "pairwise-distance-1": layer("PairwiseDistance", real(SHAPE, 0), real(SHAPE, 1), p=1.0, keepdim=True),
    "normalize": call("normalize", real((2, 3, 4), 0), dim=-1),
    "embedding-padded": layer("Embedding", whole((4, 2), 7), args=(7, 3), padding_idx=3),
    "embedding-by-frequency": layer("Embedding", whole((4, 2), 3), args=(7, 3), scale_grad_by_freq=True),
    "embedding-bag": layer("EmbeddingBag", whole((4, 3), 7), args=(7, 3)),
    "embedding-bag-sum": layer("EmbeddingBag", whole((7,), 7), np.array([0, 3, 3, 5]), args=(7, 3), mode="sum"),
    "embedding-bag-max": layer("EmbeddingBag", whole((4, 3), 7), args=(7, 3), mode="max"),
    "unflatten": layer("Unflatten", real((2, 6), 0), args=(1, (2, 3))),
    # recurrent
    "rnn": layer("RNN", SEQ, args=(3, 4)),
    "rnn-relu-deep": layer("RNN", SEQ, args=(3, 4, 2), nonlinearity="relu", bidirectional=True),
    "rnn-no-bias": layer("RNN", SEQ, args=(3, 4), bias=False, batch_first=True),
    "lstm": layer("LSTM", SEQ, args=(3, 4)),
    "lstm-with-states": layer("LSTM", SEQ, (real((1, 2, 4), 1), real((1, 2, 4), 2)), args=(3, 4)),
    "lstm-deep": layer("LSTM", SEQ, args=(3, 4, 2), bidirectional=True, batch_first=True),
    "lstm-projected": layer("LSTM", SEQ, args=(3, 4, 2), proj_size=2, bidirectional=True),
    "lstm-no-bias": layer("LSTM", SEQ, args=(3, 4), bias=False),
    "lstm-unbatched": layer("LSTM", SEQ[:, 0], (real((1, 4), 1), real((1, 4), 2)), args=(3, 4)),
    "gru": layer("GRU", SEQ, args=(3, 4)),
    "gru-deep": layer("GRU", SEQ, real((4, 2, 4), 1), args=(3, 4, 2), bidirectional=True),
    "gru-no-bias": layer("GRU", SEQ, args=(3, 4), bias=False, batch_first=True),
    "gru-unbatched": layer("GRU", SEQ[:, 0], args=(3, 4)),
    "rnn-packed": packed("RNN", [5, 3, 2], True),
    "lstm-packed": packed("LSTM", [2, 5, 3], False, num_layers=2, bidirectional=True),
    "gru-packed": packed("GRU", [2, 4, 3], False, bidirectional=True),
    "rnn-cell": layer("RNNCell", SEQ[0], real((2, 4), 1), args=(3, 4), nonlinearity="relu"),
    "lstm-cell": layer("LSTMCell", SEQ[0], (real((2, 4), 1), real((2, 4), 2)), args=(3, 4)),
    "lstm-cell-alone": layer("LSTMCell", SEQ[0, 0], args=(3, 4)),
    "gru-cell": layer("GRUCell", SEQ[0], real((2, 4), 1), args=(3, 4)),
    "gru-cell-no-bias": layer("GRUCell", SEQ[0], args=(3, 4), bias=False),
    # attention
    "attention": attention(Q, K, real((4, 2, 8), 2)),
    "attention-self": lambda nn, tensor: (
        _With(nn.MultiheadAttention(8, 2), {}), (tensor(Q),) * 3,
    ),
    "attention-widths": attention(
        Q, real((4, 2, 5), 1), real((4, 2, 6), 2), options={"kdim": 5, "vdim": 6, "bias": False},
        average_attn_weights=False,
    ),
    "attention-masked": attention(Q, K, K + 1, key_padding_mask=HIDE, attn_mask=LONG[:3]),
    "attention-biased": attention(
        Q, K, K + 1, need_weights=False, attn_mask=real((4, 3, 4), 3), options={"add_bias_kv": True}
    ),
    "attention-extra": attention(
        Q, K, K + 1, key_padding_mask=HIDE, options={"add_bias_kv": True, "add_zero_attn": True}
    ),
    "attention-batch-first": attention(
        real((2, 4, 8), 0), real((2, 4, 8), 1), real((2, 4, 8), 2), options={"batch_first": True},
        need_weights=False, attn_mask=LONG, is_causal=True,
    ),
    "attention-alone": attention(real((3, 8), 0), real((4, 8), 1), real((4, 8), 2), key_padding_mask=HIDE[0]),
    "encoder-layer": transformer("TransformerEncoderLayer", real((4, 2, 8), 0), masks={"src_mask": LONG}),
    "encoder-layer-first": transformer(
        "TransformerEncoderLayer", real((2, 4, 8), 0), masks={"src_key_padding_mask": HIDE}, norm_first=True,
        batch_first=True, activation="gelu",
    ),
    "encoder-layer-no-bias": transformer("TransformerEncoderLayer", real((4, 2, 8), 0), bias=False),
    "decoder-layer": transformer("TransformerDecoderLayer", Q, K, masks={"memory_key_padding_mask": HIDE}),
    "decoder-layer-first": transformer(
        "TransformerDecoderLayer", real((4, 2, 8), 0), K, masks={"tgt_mask": LONG, "tgt_is_causal": True},
        norm_first=True,
    ),
    "encoder": stack("Encoder", real((4, 2, 8), 0), norm_first=True),
    "decoder": stack("Decoder", Q, K),
    "transformer": transformer(
        "Transformer", K, Q, args=(8, 2, 2, 1), masks={"tgt_mask": LONG[:3, :3], "src_key_padding_mask": HIDE}
    ),
    # losses
    **{
        f"{name}-{reduction}": layer(kind, *arrays, reduction=reduction, **options)
        for reduction in ("mean", "sum", "none")
        for name, kind, arrays, options in (
            ("cross-entropy", "CrossEntropyLoss", (real((6, 5), 0), whole((6,), 5)), {}),
            ("cross-entropy-weighted", "CrossEntropyLoss", (real((6, 5), 0), whole((6,), 5)),
             {"weight": positive((5,), 3), "ignore_index": 1, "label_smoothing": 0.1}),
            ("cross-entropy-images", "CrossEntropyLoss", (real(IMAGE, 0), whole((2, 3, 2), 5)),
             {"weight": positive((5,), 3), "ignore_index": 2}),
            ("cross-entropy-probabilities", "CrossEntropyLoss", (real(IMAGE, 0), unit(IMAGE, 1)),
             {"weight": positive((5,), 3), "label_smoothing": 0.2}),
            ("cross-entropy-alone", "CrossEntropyLoss", (real((5,), 0), np.array(3)), {"label_smoothing": 0.2}),
            ("nll", "NLLLoss", (real(IMAGE, 0), whole((2, 3, 2), 5)), {"weight": positive((5,), 3), "ignore_index": 0}),
            ("bce", "BCELoss", (unit(SHAPE, 0), unit(SHAPE, 1)), {"weight": positive((3,), 2)}),
            ("bce-logits", "BCEWithLogitsLoss", (real(SHAPE, 0), unit(SHAPE, 1)),
             {"weight": positive(SHAPE, 2), "pos_weight": positive((3,), 3)}),
            ("mse", "MSELoss", (real(SHAPE, 0), real(SHAPE, 1)), {}),
            ("l1", "L1Loss", (real(SHAPE, 0), real(SHAPE, 1)), {}),
            ("smooth-l1", "SmoothL1Loss", (real(SHAPE, 0), real(SHAPE, 1)), {"beta": 0.7}),
            ("huber", "HuberLoss", (real(SHAPE, 0), real(SHAPE, 1)), {"delta": 0.7}),
            ("kl-div", "KLDivLoss", (real(SHAPE, 0), unit(SHAPE, 1)), {}),
            ("kl-div-log", "KLDivLoss", (real(SHAPE, 0), real(SHAPE, 1)), {"log_target": True}),
            ("poisson", "PoissonNLLLoss", (real(SHAPE, 0), 2.0 * positive(SHAPE, 1)), {"full": True}),
            ("poisson-plain", "PoissonNLLLoss", (positive(SHAPE, 0), positive(SHAPE, 1)), {"log_input": False}),
            ("gaussian", "GaussianNLLLoss", (real(SHAPE, 0), real(SHAPE, 1), positive(SHAPE, 2)), {"full": True}),
            ("gaussian-one", "GaussianNLLLoss", (real(SHAPE, 0), real(SHAPE, 1), positive((4, 1), 2)), {"eps": 0.5}),
            ("soft-margin", "SoftMarginLoss", (real(SHAPE, 0), signs(SHAPE, 1)), {}),
            ("hinge", "HingeEmbeddingLoss", (real(SHAPE, 0), signs(SHAPE, 1)), {"margin": 0.8}),
            ("ranking", "MarginRankingLoss", (real(SHAPE, 0), real(SHAPE, 1), signs(SHAPE, 2)), {"margin": 0.3}),
            ("cosine", "CosineEmbeddingLoss", (real(SHAPE, 0), real(SHAPE, 1), signs((4,), 2)), {"margin": -0.2}),
            ("multi-margin", "MultiMarginLoss", (real((6, 5), 0), whole((6,), 5)),
             {"p": 2, "margin": 0.7, "weight": positive((5,), 3)}),
            ("multilabel", "MultiLabelMarginLoss",
             (real((2, 4), 0), np.array([[3, 0, -1, 1], [2, -1, 0, 0]])), {}),
            ("multilabel-soft", "MultiLabelSoftMarginLoss", (real(SHAPE, 0), unit(SHAPE, 1)),
             {"weight": positive((3,), 3)}),
            ("triplet", "TripletMarginLoss", tuple(real(SHAPE, n) for n in range(3)), {"swap": True, "p": 1.0}),
            ("triplet-with-distance", "TripletMarginWithDistanceLoss", tuple(real(SHAPE, n) for n in range(3)),
             {"margin": 1.5}),
        )
    },
    "adaptive-softmax": layer(
        "AdaptiveLogSoftmaxWithLoss", real((6, 8), 0), np.array([0, 7, 3, 11, 4, 1]), args=(8, 12, [3, 7]),
        div_value=2.0, head_bias=True,
    ),
    "adaptive-softmax-alone": layer("AdaptiveLogSoftmaxWithLoss", real((8,), 0), np.array(5), args=(8, 12, [4])),
    "multi-margin-alone": layer("MultiMarginLoss", real((5,), 0), np.array(2)),
    "kl-div-batchmean": layer("KLDivLoss", real(SHAPE, 0), unit(SHAPE, 1), reduction="batchmean"),
    "mse-weighted": call("mse_loss", real(SHAPE, 0), real(SHAPE, 1), weight=positive(SHAPE, 2)),
    "l1-weighted": call("l1_loss", real(SHAPE, 0), real(SHAPE, 1), weight=positive(SHAPE, 2)),
    "huber-weighted": call("huber_loss", real(SHAPE, 0), real(SHAPE, 1), weight=positive(SHAPE, 2)),
    "ctc": ctc(np.array([[1, 2], [3, 3], [2, 1]]), np.array([6, 6, 6]), np.array([2, 2, 2])),
    "ctc-lengths": ctc(
        np.array([1, 2, 1, 3]), np.array([6, 4, 3]), np.array([3, 0, 1]), reduction="sum"
    ),
    "ctc-blank": ctc(
        np.array([[1, 1, 0], [0, 0, 0], [2, 1, 2]]), np.array([6, 4, 6]), np.array([2, 3, 3]), blank=3,
        reduction="none", zero_infinity=True,
    ),
    # parametrisations
    "weight-norm": parametrised("weight_norm", (4, 3)),
    "weight-norm-all": parametrised("weight_norm", (4, 3), dim=None),
    "spectral-norm": parametrised("spectral_norm", (4, 3), training=False),
    "orthogonal-square": parametrised("orthogonal", (4, 4)),
    "orthogonal-tall": parametrised("orthogonal", (3, 5)),
    "orthogonal-wide-cayley": parametrised("orthogonal", (5, 3), orthogonal_map="cayley"),
    "orthogonal-tall-exp": parametrised("orthogonal", (3, 5), orthogonal_map="matrix_exp"),
}  # fmt: skip


CONSTANT_TARGETS = ("SoftMarginLoss",)
"""Losses that PyTorch does not differentiate by their targets."""


def evaluate(nn: Any, build: Build, tensor: Any) -> dict[str, NDArray[Any]]:
    """Outputs, gradients and the state's names, with either library: `tensor` makes one of an array."""
    function, inputs = build(nn, tensor)
    module: Any = getattr(function, "module", function)
    named: dict[str, Any] = {}
    found: dict[str, NDArray[Any]] = {}
    if hasattr(module, "load_state_dict"):
        module.double()
        state = module.state_dict()
        places = {name: tuple(value.shape) for name, value in state.items()}
        found["state"] = np.array([f"{name} {list(shape)}" for name, shape in places.items()])
        made = {name: tensor(0.5 * real(shape, 10 + i)) for i, (name, shape) in enumerate(places.items())}
        module.load_state_dict(
            state if type(module).__name__.endswith("Loss") and "Adaptive" not in type(module).__name__ else made
        )  # a loss has its weights already
        named.update(module.named_parameters())
    for index, each in enumerate(_flat(inputs)):
        if each.is_floating_point() and not (index and type(module).__name__ in CONSTANT_TARGETS):
            each.requires_grad_(True)
            named.setdefault(f"input{index}", each)
    outputs = [each for each in _flat(function(*inputs)) if each is not None]
    total: Any = 0.0
    for index, each in enumerate(outputs):
        found[f"output{index}"] = each.detach().numpy()
        if each.is_floating_point() and each.requires_grad:
            total = total + (each * tensor(real(tuple(each.shape), 99 + index))).sum()
    total.backward()
    found.update({name: each.grad.numpy() for name, each in named.items() if each.grad is not None})
    return found


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [each for part in value for each in _flat(part)]
    return [value]


def main() -> None:
    torch: Any = importlib.import_module("torch")

    arrays: dict[str, NDArray[Any]] = {}
    for name, build in CASES.items():
        for key, value in evaluate(torch.nn, build, torch.tensor).items():
            arrays[f"{name}/{key}"] = value
    arrays["made_with"] = np.frombuffer(json.dumps({"torch": torch.__version__}).encode(), np.uint8)
    np.savez_compressed(TARGET, allow_pickle=False, **arrays)
    print(f"{TARGET.name}: {len(CASES)} cases, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
