"""One training step, Cordee's beside PyTorch's: time and peak memory, as ratios (below 1: Cordee needs less).

    python benchmarks/training_step.py [--threads 1 2] [--dtypes float32 bfloat16] [--rows mlp-tiny,conv] [--compile]
        [--device cuda]

A step is `zero_grad`, forward, loss, backward and optimiser update, on a fixed batch. PyTorch runs eagerly with its
fused optimisers, images in whichever layout is faster (`cl` behind its time: channels last), and with `--compile` also
by `torch.compile`, which takes its time to start. Beside the ratio of times is that of CPU times, of all threads, which
says more on a machine that others use too (though with several threads PyTorch's wait by spinning). bfloat16 is
`autocast` in both, with float32 weights. Without PyTorch the figures are Cordee's alone. The two run the same model
code, given one or the other `nn`, and start from the same weights, Cordee's, carried over by name; that their losses
stay the same is part of the run, which fails where they do not.

Every figure has a child process of its own, so that none disturbs another's thread pool or memory; they take turns,
burst by burst, and a figure is the median over all steps. Memory is the growth of the child's peak resident set (VmHWM
of /proc, after all steps) over its resident set before the model was built, when the library had been imported and had
trained a tiny model with layers of every kind, so that its parts (LLVM, oneDNN) were loaded; of PyTorch it is that of
the eager child. On a GPU it is what the library's pool has grown to, and a figure is the median over bursts, each of
which ends when the GPU has done all of it. (The first run on a machine also compiles Cordee's loops, which takes
memory: look at the second.)

`--profile` says instead where a step of each library goes, by operation. `--json FILE` keeps everything measured.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine
from peers import DEVICES, LIBRARIES, Peer, import_library, installed, on_host, serve, waiting
from step_profile import print_profile, profile_cordee, profile_torch
from step_table import Line, Measured, print_header, print_means
from workloads.training_models import OPTIONS, ROWS, Row, tiny

DTYPES = ("float32", "bfloat16")
NUM_WARMUP, NUM_BURSTS = 5, 10
# How far the losses of the warm-up steps may be apart, as a part of the first one. Sums in another order part two
# trainings, slowly: PyTorch's own two layouts of ResNet-18 are 6e-4 apart by the third step.
TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}


# -- one child: one library, one row -----------------------------------------------------------------------------------


class Training:
    """A model, its optimiser and a fixed batch; `parts` is what a step is made of."""

    def __init__(self, lib: Any, model: Any, optimizer: str, inputs: Any, targets: Any, context: Any) -> None:
        self.model = model
        self.optimizer = getattr(lib.optim, optimizer)(model.parameters(), **OPTIONS[optimizer], fused=True)
        criterion = lib.nn.CrossEntropyLoss()
        self.loss: Any = None
        self.loss_of = lambda: criterion(model(inputs), targets)
        self.context = context
        self.parts: dict[str, Callable[[], Any]] = {
            "zero_grad": self.optimizer.zero_grad,
            "forward": self.forward,
            "backward": lambda: self.loss.backward(),  # noqa: PLW0108 (the loss is another each time)
            "update": self.optimizer.step,
        }

    def forward(self) -> None:
        with self.context():
            self.loss = self.loss_of()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.forward()
        self.loss.backward()
        self.optimizer.step()


def batch_of(row: Row) -> tuple[Any, Any]:
    """The same for both libraries."""
    rng = np.random.default_rng(0)
    if row.kind == "text":
        inputs: Any = rng.integers(0, row.classes, row.input_shape)
    else:
        inputs = rng.standard_normal(row.input_shape, dtype=np.float32)
    return inputs, rng.integers(
        0, row.classes, math.prod(row.input_shape) if row.kind == "text" else row.input_shape[0]
    )


def share_weights(lib: Any, model: Any, path: Path) -> None:
    """The first to come writes its initial weights; the others take them."""
    if not path.exists():
        np.savez(path, **{name: on_host(value.detach()) for name, value in model.state_dict().items()})
    else:
        with np.load(path) as arrays:
            model.load_state_dict({name: lib.tensor(arrays[name]) for name in arrays.files})


def build(lib: Any, row: Row, dtype: str, variant: str, weights: Path, device: str) -> Training:
    """The row's training. `variant` names PyTorch's layout and whether it is compiled: "", "cl", "compile", …"""
    inputs, targets = map(lib.tensor, batch_of(row))
    lib.manual_seed(0)
    model = row.make(lib.nn, lib.arange)
    share_weights(lib, model, weights)
    if "cl" in variant:
        model, inputs = (each.to(memory_format=lib.channels_last) for each in (model, inputs))
    context: Callable[[], Any] = contextlib.nullcontext
    if dtype != "float32":
        context = functools.partial(lib.autocast, device, dtype=getattr(lib, dtype))
    training = Training(lib, model, row.optimizer, inputs, targets, context)
    if "compile" in variant:
        training.loss_of = lib.compile(training.loss_of)
    return training


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


def device_bytes(lib: Any) -> int:
    """What a library's pool has grown to (PyTorch calls that reserved, and allocated what is in use of it)."""
    return int(getattr(lib.cuda, "max_memory_reserved", lib.cuda.max_memory_allocated)())


def child(library: str, row: Row, dtype: str, variant: str, threads: int, weights: Path, device: str) -> None:
    """Builds when asked what it lacks; then warms up, takes steps, tells its memory or its profile, by questions."""
    lib = import_library(library, threads, device)
    wait = waiting(lib, device)
    # Libraries load parts of themselves at first use: that is not the model's memory.
    batch = (lib.ones(64, 64), lib.tensor(np.zeros(64, int)))
    Training(lib, tiny(lib.nn), row.optimizer, *batch, contextlib.nullcontext).step()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    baseline = device_bytes(lib) if device == "cuda" else memory_bytes("VmRSS")
    held: list[Training] = []

    def losses(num_steps: int) -> list[float]:
        found = []
        for _ in range(num_steps):
            held[0].step()
            found.append(float(held[0].loss.item()))
        return found

    def burst(num_steps: int) -> list[tuple[float, float]]:
        """Of each step, seconds by the clock and of the CPU."""
        times, step = [], held[0].step
        if device == "cuda":  # to wait for every step would be to time how it waits
            wait()
            start, spent = time.perf_counter(), time.process_time()
            for _ in range(num_steps):
                step()
            wait()
            return [((time.perf_counter() - start) / num_steps, (time.process_time() - spent) / num_steps)]
        for _ in range(num_steps):
            start, spent = time.perf_counter(), time.process_time()
            step()
            times.append((time.perf_counter() - start, time.process_time() - spent))
        return times

    def answer(question: str) -> Any:
        what, _, number = question.partition(" ")
        if what == "build":
            if dtype != "float32" and not hasattr(lib, "autocast"):
                return f"{library} has no autocast"
            held.append(build(lib, row, dtype, variant, weights, device))
            return ""
        if what == "memory":
            peak = device_bytes(lib) if device == "cuda" else memory_bytes("VmHWM")
            return [peak - baseline, peak]
        if what == "profile":
            profile = profile_cordee if library == "cordee" else functools.partial(profile_torch, lib)
            return profile(held[0].parts, int(number))
        return {"losses": losses, "burst": burst}[what](int(number))

    serve(answer)


# -- the parent --------------------------------------------------------------------------------------------------------


class Runner:
    """One row at one dtype and number of threads."""

    def __init__(self, row_name: str, dtype: str, threads: int, folder: Path, device: str = "cpu") -> None:
        self.device = device
        self.row = ROWS[row_name]
        self.arguments = ("--rows", row_name, "--dtypes", dtype, "--weights", str(folder / f"{row_name}.npz"))
        self.threads = threads
        self.children: dict[str, Peer] = {}
        self.losses: dict[str, list[float]] = {}
        self.lacking: dict[str, str] = {}

    def start(self, library: str, variant: str = "") -> None:
        """Starts a child, which builds and warms up; or notes what it lacks."""
        name = f"{library} {variant}".rstrip()
        peer = Peer(__file__, library, self.threads, *self.arguments, "--variant", variant, device=self.device)
        if lack := peer.ask("build"):
            self.lacking[name] = lack
            peer.close()
            return
        self.children[name] = peer
        self.losses[name] = peer.ask(f"losses {NUM_WARMUP}")

    def measure(self, libraries: list[str], compiled: bool, seconds: float) -> dict[str, Measured]:
        """Each child's figures, by `library variant`."""
        for library in libraries:
            self.start(library)
        if "torch" in libraries:
            layout = ""
            if self.row.kind == "images":
                self.start("torch", "cl")
                if self._typical("torch cl") < self._typical("torch"):
                    layout = "cl"
            if compiled:
                self.start("torch", f"{layout} compile".strip())
        # As many steps per burst as fill the time; a slower child takes as many as it has time for.
        sizes = {name: max(int(seconds / NUM_BURSTS / self._typical(name)), 1) for name in self.children}
        times: dict[str, list[list[float]]] = {name: [] for name in self.children}
        for _ in range(NUM_BURSTS if seconds else 1):
            for name, peer in self.children.items():
                times[name] += peer.ask(f"burst {sizes[name]}")
        return {
            name: Measured(
                *map(statistics.median, zip(*times[name], strict=True)), *peer.ask("memory"), self.losses[name]
            )
            for name, peer in self.children.items()
        }

    def profile(self, libraries: list[str], seconds: float) -> None:
        """Prints where a step of each library goes."""
        for library in libraries:
            self.start(library)
        for name, peer in self.children.items():
            num_steps = min(max(int(seconds / self._typical(name)), 1), 200)
            print_profile(name, peer.ask(f"profile {num_steps}"))

    def _typical(self, name: str) -> float:
        return statistics.median(seconds for seconds, _ in self.children[name].ask("burst 3"))

    def close(self) -> None:
        for peer in self.children.values():
            peer.close()


def agree(measured: dict[str, Measured], dtype: str) -> bool:
    """Whether all children saw the same losses, from the first step to the last of the warm-up."""
    first, *others = [each.losses for each in measured.values()]
    return all(np.allclose(each, first, rtol=0.0, atol=TOLERANCE[dtype] * first[0]) for each in others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of both libraries (default: 1)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"], help="default: float32")
    parser.add_argument("--rows", default=",".join(ROWS), help="which rows (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="per figure (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too")
    parser.add_argument("--profile", action="store_true", help="where a step goes, by operation")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where both compute (default: cpu)")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--variant", default="", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rows = arguments.rows.split(",")
    if unknown := set(rows) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if arguments.child:
        row, dtype, threads = ROWS[rows[0]], arguments.dtypes[0], arguments.threads[0]
        child(arguments.child, row, dtype, arguments.variant, threads, arguments.weights, arguments.device)
        return
    libraries = installed()
    from cordee.trainer import kernels  # not above: PyTorch's children are to be without it

    head = [*describe_machine("numpy", "torch", device=arguments.device), f"Cordee's kernels: {kernels.identity()}"]
    print("\n".join(f"# {line}" for line in head), flush=True)
    kept: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for threads in arguments.threads:
            for dtype in arguments.dtypes:
                measure_rows(arguments, rows, libraries, threads, dtype, Path(folder), kept)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": head, "steps": kept}, indent=1))
    if not all(line["same"] for line in kept):
        raise SystemExit("the libraries' losses differ")


def measure_rows(
    arguments: argparse.Namespace, rows: list[str], libraries: list[str], threads: int, dtype: str, folder: Path,
    kept: list[dict[str, Any]],
) -> None:  # fmt: skip
    """Prints one table, and keeps its lines."""
    print(f"\n{dtype}, threads {threads}{', on the GPU' if arguments.device == 'cuda' else ''}")
    if not arguments.profile:
        print_header()
    lines: list[Line] = []
    for row_name in rows:
        runner = Runner(row_name, dtype, threads, folder, arguments.device)
        try:
            if arguments.profile:
                print(ROWS[row_name].title)
                runner.profile(libraries, arguments.seconds)
                continue
            measured = runner.measure(libraries, arguments.compile, arguments.seconds)
        finally:
            runner.close()
        line = Line(ROWS[row_name].title, measured, agree(measured, dtype) if measured else True)
        lines.append(line)
        lacks = "; ".join(runner.lacking.values())
        print(f"{line}{f'  ({lacks})' if lacks else ''}", flush=True)
        figures = {name: each._asdict() for name, each in measured.items()}
        kept.append({"row": row_name, "dtype": dtype, "threads": threads, "same": line.same, "measured": figures})
    if lines:
        print_means(lines)


if __name__ == "__main__":
    main()
