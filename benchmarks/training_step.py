"""One training step, Cordee's beside PyTorch's: time and peak memory, as ratios (below 1: Cordee needs less).

    python benchmarks/training_step.py [--threads 2] [--rows mlp-tiny,conv]

A step is `zero_grad`, forward, loss, backward and optimiser update, on a fixed batch. PyTorch runs eagerly with its
fused optimisers; without PyTorch the figures are Cordee's alone. The two run the same model code, given one or the
other `nn`.

Every row has two child processes, one per library, so that neither disturbs the other's thread pool or memory; they
take turns, burst by burst, and a figure is the median over all steps. Memory is the growth of the child's peak resident
set (VmHWM of /proc, after all steps) over its resident set before the model was built, when the library had been
imported and had trained a tiny model.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LIBRARIES = ("cordee", "torch")


# -- the models, for both libraries ------------------------------------------------------------------------------------


def mlp(nn: Any, *widths: int) -> Any:
    layers: list[Any] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


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


def char_transformer(nn: Any, arange: Callable[[int], Any], vocabulary: int, width: int, context: int) -> Any:
    """Four layers, four heads, learned positions, pre-norm, tanh GELU: nanoGPT's shape for CPUs."""
    functional = nn.functional

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            heads = self.qkv(self.norm1(x)).reshape(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
            x = x + self.project(mixed.permute(0, 2, 1, 3).reshape(batch, length, width))
            return x + self.contract(functional.gelu(self.expand(self.norm2(x)), approximate="tanh"))

    class Transformer(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(4)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)
            self.places = arange(context)

        def forward(self, tokens: Any) -> Any:
            x = self.token(tokens) + self.position(self.places)
            return self.head(self.norm(self.blocks(x))).reshape(-1, vocabulary)

    return Transformer()


class Row(NamedTuple):
    title: str
    make: Callable[[Any, Callable[[int], Any]], Any]
    optimizer: str
    input_shape: tuple[int, ...]
    classes: int
    is_text: bool = False


ROWS = {
    "mlp-tiny": Row("MLP 64-64-64-10, batch 32", lambda nn, _: mlp(nn, 64, 64, 64, 10), "SGD", (32, 64), 10),
    "mlp-small": Row("MLP 784-128-10, batch 64", lambda nn, _: mlp(nn, 784, 128, 10), "SGD", (64, 784), 10),
    "mlp-medium": Row("MLP 784-512-512-10, batch 128", lambda nn, _: mlp(nn, 784, 512, 512, 10), "SGD", (128, 784), 10),
    "mlp-large": Row(
        "MLP 784-1024×3-10, batch 256", lambda nn, _: mlp(nn, 784, 1024, 1024, 1024, 10), "SGD", (256, 784), 10
    ),
    "conv": Row("conv 16-32, 28×28, batch 64", lambda nn, _: conv_net(nn), "SGD", (64, 1, 28, 28), 10),
    "transformer": Row(
        "char transformer, batch 12",
        lambda nn, arange: char_transformer(nn, arange, 65, 128, 64),
        "AdamW",
        (12, 64),
        65,
        is_text=True,
    ),
}
OPTIONS: dict[str, dict[str, float]] = {"SGD": {"lr": 0.01, "momentum": 0.9}, "AdamW": {"lr": 3e-4}}


# -- one child: one library, one row -----------------------------------------------------------------------------------


def make_step(library: str, row: Row, threads: int) -> Callable[[], Callable[[], Any]]:
    """Imports the library and trains a tiny model; what it returns builds the row's and returns its training step."""
    rng = np.random.default_rng(0)
    if row.is_text:
        inputs: Any = rng.integers(0, row.classes, row.input_shape)
    else:
        inputs = rng.standard_normal(row.input_shape, dtype=np.float32)
    targets: Any = rng.integers(0, row.classes, math.prod(row.input_shape) if row.is_text else row.input_shape[0])
    lib: Any
    if library == "torch":
        import torch as lib

        lib.set_num_threads(threads)
        nn, optim, fused = lib.nn, lib.optim, {"fused": True}
    else:
        import cordee.trainer as lib
        from cordee.trainer import nn, optim

        lib.set_num_threads(threads)
        fused = {}
    inputs, targets = lib.tensor(inputs), lib.tensor(targets)
    criterion = nn.CrossEntropyLoss()

    def build(make_model: Callable[[], Any], inputs: Any, targets: Any) -> Callable[[], Any]:
        lib.manual_seed(0)
        model = make_model()
        optimizer = getattr(optim, row.optimizer)(model.parameters(), **OPTIONS[row.optimizer], **fused)

        def step() -> Any:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            return loss

        return step

    # Libraries load parts of themselves at first use: that is not the model's memory.
    build(lambda: mlp(nn, 2, 2, 2), lib.ones(2, 2), lib.tensor(np.array([0, 1])))()
    return lambda: build(lambda: row.make(nn, lib.arange), inputs, targets)


def memory_bytes(field: str) -> int:
    """A field of /proc/self/status; where there is none (macOS), the peak that getrusage knows."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def child(library: str, row_name: str, threads: int) -> None:
    """Builds and warms up, then answers lines on stdin: a number of steps gives their times, "memory" the growth."""
    build = make_step(library, ROWS[row_name], threads)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    baseline = memory_bytes("VmRSS")
    step = build()
    for _ in range(5):
        loss = step()
    print(json.dumps(float(loss.item())), flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(json.dumps(memory_bytes("VmHWM") - baseline), flush=True)
            continue
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


# -- the parent --------------------------------------------------------------------------------------------------------


class Child:
    def __init__(self, library: str, row_name: str, threads: int) -> None:
        environment = dict(os.environ, **dict.fromkeys(["OMP_NUM_THREADS", "CORDEE_THREADS"], str(threads)))
        environment["CORDEE_DEVICE"] = "cpu"
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", library, "--rows", row_name, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.times: list[float] = []
        self.loss = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a child process ended without an answer; its error is above")
        return json.loads(line)

    def ask(self, question: object) -> Any:
        assert self.process.stdin is not None
        print(question, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(row_name: str, libraries: list[str], threads: int, seconds: float) -> dict[str, tuple[float, int]]:
    """Median seconds per step, and bytes, by library."""
    children = {library: Child(library, row_name, threads) for library in libraries}
    num_bursts = 10
    # As many steps per burst as fill the time; the slower library takes as many as it has time for.
    sizes = {
        name: max(int(seconds / num_bursts / statistics.median(each.ask(3))), 1) for name, each in children.items()
    }
    for _ in range(num_bursts):
        for name, each in children.items():
            each.times += each.ask(sizes[name])
    results = {name: (statistics.median(each.times), each.ask("memory")) for name, each in children.items()}
    for each in children.values():
        each.close()
    return results


def machine() -> str:
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of both libraries (default: %(default)s)")
    parser.add_argument("--rows", default=",".join(ROWS), help="which rows (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="per row and library (default: %(default)s)")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rows = arguments.rows.split(",")
    if unknown := set(rows) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if arguments.child:
        child(arguments.child, rows[0], arguments.threads)
        return
    libraries = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
    print(f"machine   {machine()}")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in [*libraries, "numpy"])
    print(f"versions  Python {platform.python_version()}, {versions}")
    print(f"threads   {arguments.threads}")
    print(f"\n{'':32}{'milliseconds':^27}{'peak memory, MB':^27}")
    print(f"{'training step':32}{'cordee':>9}{'torch':>9}{'ratio':>9}{'cordee':>9}{'torch':>9}{'ratio':>9}")
    ratios: list[tuple[float, float]] = []
    for row_name in rows:
        results = measure(row_name, libraries, arguments.threads, arguments.seconds)
        ours, peer = results["cordee"], results.get("torch")
        cells = [ours[0] * 1e3, ours[1] / 1e6]
        if peer is None:
            print(
                f"{ROWS[row_name].title:32}{cells[0]:9.3f}{'–':>9}{'–':>9}{cells[1]:9.1f}{'–':>9}{'–':>9}", flush=True
            )
            continue
        ratios.append((ours[0] / peer[0], ours[1] / peer[1]))
        print(
            f"{ROWS[row_name].title:32}{cells[0]:9.3f}{peer[0] * 1e3:9.3f}{ratios[-1][0]:9.2f}"
            f"{cells[1]:9.1f}{peer[1] / 1e6:9.1f}{ratios[-1][1]:9.2f}",
            flush=True,
        )
    if ratios:
        means = [statistics.geometric_mean(column) for column in zip(*ratios, strict=True)]
        print(f"{'geometric mean':32}{means[0]:27.2f}{means[1]:27.2f}")


if __name__ == "__main__":
    main()
