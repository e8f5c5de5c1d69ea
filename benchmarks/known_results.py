"""Trains what is well known, with Cordee and with PyTorch, from the same weights on the same batches: do both learn it?

    python benchmarks/known_results.py                       # LeNet on the bundled digits: held-out accuracy
    python benchmarks/known_results.py --text input.txt      # and a character transformer: validation loss

`input.txt` is tinyshakespeare, 1.1 MB: data/tinyshakespeare of https://github.com/karpathy/char-rnn. The transformer
and its training are those that nanoGPT's readme gives for a CPU: 4 layers, 4 heads, width 128, context 64, batches of
12, 2000 steps of AdamW, warm-up and cosine, gradients clipped, no dropout; it reports a validation loss of 1.88. (Its
output layer shares the embedding's weights, and it has no biases; here neither is so.) The validation loss is over all
of the text's last tenth, in windows one after the other.

Both libraries run the same model code; weights are drawn once, by NumPy, and batches are chosen by NumPy. They take
turns, so whatever else the machine does slows both. CPU time is that of the training's thread or threads alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import print_machine, print_rows
from peers import LIBRARIES, Peer, import_library, installed, serve
from training_step import char_transformer

from cordee.trainer.data.datasets import digits

CONTEXT, WIDTH, BATCH = 64, 128, 12
LR, MIN_LR, NUM_WARMUP_STEPS = 1e-3, 1e-4, 100
CLIP_NORM = 1.0
NUM_TURNS = 20


class Training(NamedTuple):
    """What a child does: train some steps, and say how good the model is."""

    train: Callable[[int], None]
    evaluate: Callable[[], float]


def take_weights(lib: Any, model: Any, scale: Callable[[tuple[int, ...]], float], seed: int) -> None:
    """Gives a model weights that do not depend on the library: normal ones of this scale, biases 0, norms 1."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, parameter in sorted(model.named_parameters()):
        shape = tuple(parameter.shape)
        if len(shape) > 1:
            value = rng.standard_normal(shape) * scale(shape)
        else:
            value = np.ones(shape) if name.endswith("weight") else np.zeros(shape)
        weights[name] = lib.tensor(value.astype(np.float32))
    model.load_state_dict(weights)


def fused(lib: Any) -> dict[str, bool]:
    """PyTorch's optimisers at their fastest; Cordee's are always so."""
    return {"fused": True} if lib.__name__ == "torch" else {}


# -- the transformer ---------------------------------------------------------------------------------------------------


def text_training(lib: Any, path: str, num_steps: int) -> Training:
    """nanoGPT's recipe for a CPU."""
    text = Path(path).read_text(encoding="utf-8")
    characters = {character: number for number, character in enumerate(sorted(set(text)))}
    ids = np.array([characters[character] for character in text])
    train_ids, held_out = np.split(ids, [len(ids) * 9 // 10])
    model = char_transformer(lib.nn, lib.arange, len(characters), WIDTH, CONTEXT)
    take_weights(lib, model, lambda _: 0.02, seed=0)

    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = lib.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99), **fused(lib))
    schedules = lib.optim.lr_scheduler
    schedule = schedules.SequentialLR(
        optimizer,
        [
            schedules.LinearLR(optimizer, start_factor=1e-2, total_iters=NUM_WARMUP_STEPS),
            schedules.CosineAnnealingLR(optimizer, T_max=num_steps - NUM_WARMUP_STEPS, eta_min=MIN_LR),
        ],
        milestones=[NUM_WARMUP_STEPS],
    )
    rng = np.random.default_rng(1)
    window = np.arange(CONTEXT + 1)

    def loss_of(starts: Any, tokens: Any) -> Any:
        windows = tokens[starts[:, None] + window]
        inputs, targets = lib.tensor(windows[:, :-1].copy()), lib.tensor(windows[:, 1:].copy())
        return lib.nn.functional.cross_entropy(model(inputs), targets.reshape(-1))

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(rng.integers(0, len(train_ids) - CONTEXT, BATCH), train_ids).backward()
            lib.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            optimizer.step()
            schedule.step()

    def evaluate() -> float:
        starts = np.arange(0, len(held_out) - CONTEXT, CONTEXT)
        parts = [starts[begin : begin + 64] for begin in range(0, len(starts), 64)]
        with lib.no_grad():
            return math.fsum(loss_of(part, held_out).item() * len(part) for part in parts) / len(starts)

    return Training(train, evaluate)


# -- LeNet -------------------------------------------------------------------------------------------------------------


def lenet(nn: Any) -> Any:
    """LeNet-5's layers (LeCun et al. 1998) for 8 × 8 pixels, with ReLU and max-pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def digits_training(lib: Any, seed: int, num_steps: int) -> Training:
    """A step is a batch of 64; `evaluate` gives the accuracy on a fifth that is held out, the same for all seeds."""
    pixels, labels = digits()
    images = pixels[:, None] / np.float32(16)
    order = np.random.default_rng(0).permutation(len(images))
    train_set, held_out = order[:1437], order[1437:]
    model = lenet(lib.nn)
    take_weights(lib, model, lambda shape: math.sqrt(2 / math.prod(shape[1:])), seed)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, **fused(lib))
    schedule = lib.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps)
    rng = np.random.default_rng(seed)

    def train(steps: int) -> None:
        for _ in range(steps):
            chosen = rng.choice(train_set, 64, replace=False)
            optimizer.zero_grad()
            output = model(lib.tensor(images[chosen]))
            lib.nn.functional.cross_entropy(output, lib.tensor(labels[chosen])).backward()
            optimizer.step()
            schedule.step()

    def evaluate() -> float:
        with lib.no_grad():
            output = model(lib.tensor(images[held_out])).numpy()
        return float((output.argmax(axis=1) == labels[held_out]).mean())

    return Training(train, evaluate)


# -- children and parent -----------------------------------------------------------------------------------------------


def child(library: str, arguments: argparse.Namespace) -> None:
    """Answers "text" and "digits SEED", which begin a training, "train N" and "evaluate"."""
    lib = import_library(library, arguments.threads)
    trainings: list[Training] = []

    def answer(question: str) -> Any:
        what, *number = question.split()
        if what == "text":
            trainings.append(text_training(lib, arguments.text, arguments.steps))
        elif what == "digits":
            trainings.append(digits_training(lib, int(number[0]), arguments.digit_steps))
        elif what == "evaluate":
            return trainings[-1].evaluate()
        else:
            wall, cpu = time.perf_counter(), time.process_time()
            trainings[-1].train(int(number[0]))
            return time.perf_counter() - wall, time.process_time() - cpu
        return None

    serve(answer)


def run(peers: list[Peer], start: str, num_steps: int) -> list[tuple[list[float], float, float]]:
    """Of every peer: what it evaluates to a quarter, two, three and four quarters through; wall and CPU seconds."""
    for peer in peers:
        peer.ask(start)
    results: list[tuple[list[float], list[float], list[float]]] = [([], [], []) for _ in peers]
    turns = np.diff(np.linspace(0, num_steps, NUM_TURNS + 1).astype(int))
    for turn, steps in enumerate(turns, 1):
        for peer, (values, wall, cpu) in zip(peers, results, strict=True):
            seconds = peer.ask(f"train {steps}")
            wall.append(seconds[0])
            cpu.append(seconds[1])
            if turn * 4 % NUM_TURNS == 0:
                values.append(peer.ask("evaluate"))
    return [(values, sum(wall), sum(cpu)) for values, wall, cpu in results]


def print_text(peers: list[Peer], num_steps: int) -> None:
    results = run(peers, "text", num_steps)
    steps = [num_steps * quarter // 4 for quarter in range(1, 5)]
    rows = [
        [f"validation loss, step {step}", *(f"{values[index]:.4f}" for values, _, _ in results)]
        for index, step in enumerate(steps)
    ]
    rows += [
        ["seconds, wall", *(f"{wall:.1f}" for _, wall, _ in results)],
        ["seconds, CPU", *(f"{cpu:.1f}" for _, _, cpu in results)],
    ]
    print_rows(["character transformer", *(peer.library for peer in peers)], rows)
    if len(results) == 2:
        ours, peer = (values[-1] for values, _, _ in results)
        print(f"difference of the validation losses {(ours / peer - 1) * 100:+.2f} %; time ", end="")
        print(f"{results[0][1] / results[1][1]:.2f} of PyTorch's, CPU time {results[0][2] / results[1][2]:.2f}")


def print_digits(peers: list[Peer], num_steps: int, num_seeds: int) -> None:
    by_seed = [run(peers, f"digits {seed}", num_steps) for seed in range(num_seeds)]
    rows = [
        [f"held-out accuracy, seed {seed}", *(f"{values[-1]:.2%}" for values, _, _ in results)]
        for seed, results in enumerate(by_seed)
    ]
    columns = list(zip(*by_seed, strict=True))
    rows += [
        ["mean", *(f"{statistics.mean(values[-1] for values, _, _ in column):.2%}" for column in columns)],
        ["seconds per training, median", *(f"{statistics.median(w for _, w, _ in column):.2f}" for column in columns)],
    ]
    print_rows([f"LeNet on digits, {num_steps} steps", *(peer.library for peer in peers)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", metavar="PATH", help="train the transformer on this text, too")
    parser.add_argument("--steps", type=int, default=2000, help="of the transformer (default: %(default)s)")
    parser.add_argument("--digit-steps", type=int, default=500, help="of each LeNet (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=10, help="how many LeNets (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each library (default: %(default)s)")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps <= NUM_WARMUP_STEPS:
        parser.error(f"--steps must be more than the warm-up's {NUM_WARMUP_STEPS}")
    if arguments.child:
        child(arguments.child, arguments)
        return
    print_machine("numpy", "torch")
    print(f"# threads {arguments.threads}\n")
    options = ["--steps", str(arguments.steps), "--digit-steps", str(arguments.digit_steps)]
    options += ["--text", arguments.text] if arguments.text else []
    peers = [Peer(__file__, library, arguments.threads, *options) for library in installed()]
    print_digits(peers, arguments.digit_steps, arguments.seeds)
    if arguments.text:
        print()
        print_text(peers, arguments.steps)
    for peer in peers:
        peer.close()


if __name__ == "__main__":
    main()
