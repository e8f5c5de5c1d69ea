"""Single operations, Cordee's beside PyTorch's eager ones: microseconds forward, and forward with backward.

    python benchmarks/ops.py [--threads 2] [--only conv,softmax] [--sort] [--quick]

The ratio is Cordee's time by PyTorch's: below 1, Cordee needs less. Forward is without recording; backward starts from
a gradient of ones and ends in every floating operand. The two libraries are in processes of their own and take turns,
burst by burst; of a burst the fastest stretch counts, and the median over bursts is the figure. `--sort` puts the worst
ratios first; `--only` takes the operations in whose family or name one of these words is; `--quick` shows that
everything runs, its figures are nothing.

Before an operation is timed, both libraries' results are compared: "differs" behind a row says that they are not the
same, so neither are the times. Without PyTorch the figures are Cordee's alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from machine import print_machine, print_rows
from op_cases import CASES, Case
from peers import LIBRARIES, Peer, import_library, installed, serve

NUM_BURSTS, BURST_SECONDS, STRETCHES = 9, 0.02, 10


# -- one child ---------------------------------------------------------------------------------------------------------


class Calls(NamedTuple):
    """What is timed of a case; `both` is None where nothing has a gradient."""

    forward: Callable[[], Any]
    both: Callable[[], Any] | None
    gradients: Callable[[], list[Any]]


def prepare(lib: Any, case: Case) -> Calls:
    """Makes operands, the same in both libraries, and what is called."""
    rng = np.random.default_rng(0)
    operands = [lib.tensor(operand.make(rng)) for operand in case.operands]
    leaves = [tensor for tensor in operands if tensor.dtype == lib.float32]
    for leaf in leaves:
        leaf.requires_grad_()
    arguments = (lib, *operands)
    if case.module is not None:
        module = case.module(lib.nn)
        for _, parameter in sorted(module.named_parameters()):
            value = rng.standard_normal(tuple(parameter.shape), dtype=np.float32) * np.float32(0.1)
            with lib.no_grad():
                parameter.copy_(lib.tensor(value))
            leaves.append(parameter)
        arguments = (lib, module, *operands)
    call = case.call

    def forward() -> Any:
        with lib.no_grad():
            return call(*arguments)

    result = call(*arguments)
    if not result.requires_grad:
        return Calls(forward, None, list)
    ones = lib.ones_like(result.detach())

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        call(*arguments).backward(ones)

    return Calls(forward, both, lambda: [leaf.grad for leaf in leaves if leaf.grad is not None])


def size(tensor: Any) -> float:
    """The sum of what it holds, without signs: enough to see whether two libraries compute the same."""
    return float(np.abs(tensor.detach().numpy().astype(np.complex128)).sum())


def seconds_per_call(call: Callable[[], Any], num_calls: int) -> float:
    start = time.perf_counter()
    for _ in range(num_calls):
        call()
    return (time.perf_counter() - start) / num_calls


def burst(call: Callable[[], Any], seconds: float) -> float:
    """Seconds per call of the fastest of a number of stretches, which last so long together. (There are fewer where a
    call takes longer than a stretch, but never one alone, unless `seconds` is 0.)"""
    once = seconds_per_call(call, 1)
    num_calls = max(int(seconds / STRETCHES / once), 1)
    num_stretches = min(max(int(seconds / (num_calls * once)), 2 if seconds else 1), STRETCHES)
    return min(seconds_per_call(call, num_calls) for _ in range(num_stretches))


def child(library: str, threads: int) -> None:
    """Answers "prepare CASE" with what came out, and "burst SECONDS" with seconds per call."""
    lib = import_library(library, threads)
    timed: list[Callable[[], Any]] = []

    def answer(question: str) -> Any:
        what, number = question.split()
        if what == "burst":
            return [burst(call, float(number)) for call in timed]
        calls = prepare(lib, CASES[int(number)])
        sizes = [size(calls.forward())]
        timed[:] = [calls.forward]
        if calls.both is not None:
            calls.both()
            sizes += [size(gradient) for gradient in calls.gradients()]
            timed.append(calls.both)
        return sizes

    serve(answer)


# -- the parent --------------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """Of one case: seconds per call, forward and (where there is one) with backward, of each library."""

    case: Case
    seconds: list[list[float]]
    same: bool

    def ratio(self, column: int) -> float:
        """Cordee's time by PyTorch's; NaN where either is missing."""
        if len(self.seconds) < 2 or any(len(each) <= column for each in self.seconds):
            return math.nan
        return self.seconds[0][column] / self.seconds[1][column]

    @property
    def worst(self) -> float:
        return max((ratio for ratio in (self.ratio(0), self.ratio(1)) if not math.isnan(ratio)), default=0.0)


def measure(peers: list[Peer], index: int, num_bursts: int, burst_seconds: float) -> Result:
    case = CASES[index]
    sizes = [peer.ask(f"prepare {index}") for peer in peers]
    bursts: list[list[list[float]]] = [[] for _ in peers]
    for _ in range(num_bursts):
        for peer, times in zip(peers, bursts, strict=True):
            times.append(peer.ask(f"burst {burst_seconds}"))
    seconds = [[statistics.median(column) for column in zip(*times, strict=True)] for times in bursts]
    same = case.random or all(
        len(each) == len(sizes[0]) and np.allclose(each, sizes[0], rtol=1e-3, atol=1e-2) for each in sizes
    )
    return Result(case, seconds, same)


def cells(result: Result) -> list[str]:
    """A row of the table."""
    row = [result.case.family, result.case.title]
    for column in (0, 1):
        row += [f"{times[column] * 1e6:.1f}" if len(times) > column else "–" for times in result.seconds]
        if len(result.seconds) > 1:
            ratio = result.ratio(column)
            row.append("–" if math.isnan(ratio) else f"{ratio:.2f}")
    return [*row, "" if result.same else "differs"]


def print_means(results: list[Result]) -> None:
    """The geometric means of the ratios, by family and over all."""

    def mean(chosen: list[Result], column: int) -> str:
        ratios = [ratio for ratio in (result.ratio(column) for result in chosen) if not math.isnan(ratio)]
        return f"{statistics.geometric_mean(ratios):.2f}" if ratios else "–"

    families = dict.fromkeys(result.case.family for result in sorted(results, key=lambda r: CASES.index(r.case)))
    members = {family: [result for result in results if result.case.family == family] for family in families}
    rows = [[family, str(len(chosen)), mean(chosen, 0), mean(chosen, 1)] for family, chosen in members.items()]
    rows.append(["all", str(len(results)), mean(results, 0), mean(results, 1)])
    print_rows(["geometric mean of ratios", "operations", "forward", "with backward"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of both libraries (default: %(default)s)")
    parser.add_argument("--only", default="", help="words, separated by commas (default: all operations)")
    parser.add_argument("--sort", action="store_true", help="the worst ratios first")
    parser.add_argument("--quick", action="store_true", help="one short burst each")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.threads)
        return
    words = arguments.only.split(",")
    chosen = [index for index, case in enumerate(CASES) if any(word in f"{case.family} {case.title}" for word in words)]
    if not chosen:
        parser.error(f"no operation has {arguments.only!r} in its family or name")
    print_machine("numpy", "torch")
    print(f"# threads {arguments.threads}; microseconds\n")
    num_bursts, burst_seconds = (1, 0.0) if arguments.quick else (NUM_BURSTS, BURST_SECONDS)
    peers = [Peer(__file__, library, arguments.threads) for library in installed()]
    results = [measure(peers, index, num_bursts, burst_seconds) for index in chosen]
    for peer in peers:
        peer.close()
    if arguments.sort:
        results.sort(key=lambda result: result.worst, reverse=True)
    names = [*(peer.library for peer in peers), *(["ratio"] if len(peers) > 1 else [])]
    header = ["family", "operation", *names, *(f"+back {name}" for name in names), ""]
    print_rows(header, [cells(result) for result in results])
    if len(peers) > 1:
        print()
        print_means(results)


if __name__ == "__main__":
    main()
