"""Training steps with every CUDA provider in use, on the stand-ins: what they wait for, and what memory they take.

    python tests/conformance/cuda_steps.py             # one line of JSON per model

CUDA's texts run on the CPU, thread by thread; cuBLASLt and cuDNN are their stand-ins. Nothing here is fast.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

__all__ = ["MODELS", "main"]


def _prepare() -> Any:
    """The engine on the stand-in, with its CUDA providers."""
    sys.path[:0] = [str(HERE), str(HERE / "cupy_stand_in")]
    os.environ["CORDEE_DEVICE"] = "cuda"
    import cublaslt_stand_in
    import cudnn_stand_in

    from cordee.trainer.kernels import choose, providers
    from cordee.trainer.kernels.cuda import cudnn, products

    providers.Provider.installed = lambda self: self.device == "cuda"  # type: ignore[method-assign]
    products._library = lambda: cublaslt_stand_in  # type: ignore[assignment]
    cudnn._library = lambda: cudnn_stand_in  # type: ignore[assignment]
    choose("nvrtc,cublaslt,cudnn")
    import cupy

    return cupy


def _mlp(ct: Any) -> tuple[Any, Callable[[], Any]]:
    nn = ct.nn
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 5))
    x, y = ct.randn(8, 12), ct.arange(8) % 5
    return model, lambda: nn.functional.cross_entropy(model(x), y)


def _images(ct: Any) -> tuple[Any, Callable[[], Any]]:
    nn = ct.nn
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1),
        nn.GroupNorm(2, 4), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    x, y = ct.randn(4, 1, 8, 8), ct.arange(4) % 5
    return model, lambda: nn.functional.cross_entropy(model(x), y)


def _gpt(ct: Any) -> tuple[Any, Callable[[], Any]]:
    nn = ct.nn

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.before, self.behind = nn.LayerNorm(16), nn.LayerNorm(16)
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
            self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)

        def forward(self, x: Any) -> Any:
            n, t, c = x.shape
            q, k, v = (
                each.reshape(n, t, 2, c // 2).transpose(1, 2) for each in self.qkv(self.before(x)).chunk(3, dim=-1)
            )
            seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(seen.transpose(1, 2).reshape(n, t, c))
            return x + self.narrow(nn.functional.gelu(self.wide(self.behind(x)), approximate="tanh"))

    class Model(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(11, 16), nn.Embedding(6, 16)
            self.blocks = nn.ModuleList([Block(), Block()])
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 11, bias=False)

        def forward(self, words: Any) -> Any:
            x = self.words(words) + self.places(ct.arange(words.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    model = Model()
    words = ct.arange(18).reshape(3, 6) % 11
    return model, lambda: nn.functional.cross_entropy(model(words).reshape(-1, 11), words.reshape(-1))


def _recurrent(ct: Any) -> tuple[Any, Callable[[], Any]]:
    nn = ct.nn

    class Model(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.gru, self.head = nn.LSTM(4, 8), nn.GRU(8, 8), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.gru(self.lstm(x)[0])[0][-1])

    model = Model()
    x, y = ct.randn(5, 3, 4), ct.arange(3)
    return model, lambda: nn.functional.cross_entropy(model(x), y)


def _halves(make: Any) -> Any:
    """A model in mixed precision."""

    def made(ct: Any) -> tuple[Any, Callable[[], Any]]:
        model, loss = make(ct)

        def autocast() -> Any:
            with ct.autocast(ct.device_name(), dtype=ct.bfloat16):
                return loss()

        return model, autocast

    return made


MODELS = {
    "mlp": _mlp, "images": _images, "gpt": _gpt, "recurrent": _recurrent, "images in bfloat16": _halves(_images),
    "gpt in bfloat16": _halves(_gpt), "recurrent in bfloat16": _halves(_recurrent),
}  # fmt: skip


def _step(optimiser: Any, loss: Callable[[], Any], clip: Any) -> float:
    """The loss, read from the stand-in's memory: nobody has waited for it."""
    optimiser.zero_grad()
    found = loss()
    found.backward()
    clip(optimiser.param_groups[0]["params"], 1.0)
    optimiser.step()
    return float(getattr(found.data, "_held", found.data))


def main() -> int:
    cupy = _prepare()
    import cublaslt_stand_in

    import cordee.trainer as ct
    from cordee.trainer.array import set_device

    clip = ct.nn.utils.clip_grad_norm_
    for name, make in MODELS.items():
        told: dict[str, Any] = {"model": name}
        for device, key in (("cuda", "losses"), ("cpu", "on_cpu")):
            set_device(device)
            ct.manual_seed(3)
            model, loss = make(ct)
            optimiser = ct.optim.AdamW(model.parameters(), lr=0.01)
            cupy.cuda.watched[:] = [blocks := cupy.cuda.Blocks()] if device == "cuda" else []
            losses = [_step(optimiser, loss, clip) for _ in range(2)]
            before = blocks.taken.copy()
            cupy.NOTES.clear()
            losses += [_step(optimiser, loss, clip) for _ in range(3)]
            if device == "cuda":
                told["blocks"] = {512 * size: number for size, number in (blocks.taken - before).items()}
                told["waits"] = {f"{Path(file).name}:{line} {what}": n for (what, file, line), n in cupy.NOTES.items()}
                told["epilogues"] = dict(Counter(str(each["epilogue"]) for each in cublaslt_stand_in.products))
            cublaslt_stand_in.products.clear()
            told[key] = losses
        print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
