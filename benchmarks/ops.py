"""Single operations, Cordee's beside PyTorch's: microseconds forward, and forward with backward.

    python benchmarks/ops.py [--threads 1 2] [--only conv,softmax] [--compile] [--sort] [--quick] [--device cuda]

The ratio is Cordee's time by PyTorch's: below 1, Cordee needs less. Forward is without recording; backward starts from
a gradient of ones and ends in every floating operand. The two libraries are in processes of their own and take turns,
burst by burst; of a burst the fastest stretch counts, and the median over bursts is the figure. Convolutions of images
are timed with images that lie as planes and with channels last, in both libraries, and of each the faster counts (`cl`
behind its time: channels last, as Cordee's convolutions leave their results). `--compile` has
PyTorch's also by `torch.compile`, which takes seconds per operation. `--sort` puts the worst ratios first; `--only`
takes the operations in whose family or name one of these words is (`aims`: those that have an aim); `--quick` shows
that everything runs, its figures are nothing.

Before an operation is timed, both libraries' results are compared: "differs" behind a row says that they are not the
same, so neither are the times. Without PyTorch the figures are Cordee's alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from machine import print_machine, print_rows
from op_cases import CASES as COMMON_CASES
from op_cases import Case
from op_cases_aimed import AIMED_CASES
from peers import DEVICES, LIBRARIES, Peer, import_library, installed, on_host, serve, waiting

NUM_BURSTS, BURST_SECONDS, STRETCHES = 9, 0.02, 10
CASES = [*COMMON_CASES, *AIMED_CASES]


# -- one child ---------------------------------------------------------------------------------------------------------


class Calls(NamedTuple):
    """What is timed of a case; `both` is None where nothing has a gradient."""

    forward: Callable[[], Any]
    both: Callable[[], Any] | None
    gradients: Callable[[], list[Any]]


def prepare(lib: Any, case: Case, variant: str = "") -> Calls:
    """Makes operands, the same in both libraries, and what is called. `variant` is PyTorch's: "cl", "compiled"."""
    if case.prepare is not None:
        return Calls(case.prepare(lib), None, list)
    rng = np.random.default_rng(0)
    operands = [lib.tensor(operand.make(rng)) for operand in case.operands]
    operands = [
        tensor.to(getattr(lib, operand.dtype)) if operand.is_floating else tensor
        for tensor, operand in zip(operands, case.operands, strict=True)
    ]
    if variant == "cl":
        operands = channels_last(lib, operands)
    leaves = [tensor for tensor, operand in zip(operands, case.operands, strict=True) if operand.is_floating]
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
    if variant == "compiled":
        lib.compiler.reset()  # cases share code, and code is compiled anew only so often
        call = lib.compile(call)

    def forward() -> Any:
        with lib.no_grad():
            return call(*arguments)

    result = call(*arguments)
    if not result.requires_grad:
        return Calls(forward, None, list)
    ones = lib.ones_like(result.detach())
    if variant == "cl":
        (ones,) = channels_last(lib, [ones])

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        call(*arguments).backward(ones)

    return Calls(forward, both, lambda: [leaf.grad for leaf in leaves if leaf.grad is not None])


def channels_last(lib: Any, operands: list[Any]) -> list[Any]:
    """The same with channels last in memory. (In Cordee that goes for images; weights have one order.)"""
    if hasattr(lib, "channels_last"):
        return [operand.contiguous(memory_format=lib.channels_last) for operand in operands]
    image, *others = operands
    values = np.moveaxis(np.ascontiguousarray(np.moveaxis(on_host(image), 1, -1)), -1, 1)
    return [lib.tensor(values), *others]


def variants_of(library: str, case: Case, compiled: bool) -> list[str]:
    """How a library's operation is timed; "" is as it is."""
    if case.prepare is not None:
        return [""]
    is_image = case.family == "convolution" and all(len(operand.shape) == 4 for operand in case.operands)
    return ["", *(["cl"] if is_image else []), *(["compiled"] if compiled and library == "torch" else [])]


def size(lib: Any, tensor: Any) -> float:
    """The sum of what it holds, without signs: enough to see whether two libraries compute the same."""
    tensor = tensor.detach()
    values = on_host(tensor.to(lib.float32) if tensor.dtype == lib.bfloat16 else tensor)
    return float(np.abs(values.astype(np.complex128)).sum())


def seconds_per_call(call: Callable[[], Any], wait: Callable[[], None], num_calls: int) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(num_calls):
        call()
    wait()
    return (time.perf_counter() - start) / num_calls


def burst(call: Callable[[], Any], wait: Callable[[], None], seconds: float) -> float:
    """Seconds per call of the fastest of a number of stretches, which last so long together. (There are fewer where a
    call takes longer than a stretch, but never one alone, unless `seconds` is 0.)"""
    once = seconds_per_call(call, wait, 1)
    num_calls = max(int(seconds / STRETCHES / once), 1)
    num_stretches = min(max(int(seconds / (num_calls * once)), 2 if seconds else 1), STRETCHES)
    return min(seconds_per_call(call, wait, num_calls) for _ in range(num_stretches))


def child(library: str, threads: int, compiled: bool, device: str) -> None:
    """Answers "prepare CASE" with what came out, by variant, and "burst SECONDS" with seconds per call, by variant."""
    lib = import_library(library, threads, device)
    wait = waiting(lib, device)
    timed: dict[str, list[Callable[[], Any]]] = {}

    def prepared(case: Case, variant: str) -> list[float]:
        calls = prepare(lib, case, variant)
        sizes = [size(lib, calls.forward())]
        timed[variant] = [calls.forward]
        if calls.both is not None:
            calls.both()
            sizes += [size(lib, gradient) for gradient in calls.gradients()]
            timed[variant].append(calls.both)
        return sizes

    def answer(question: str) -> Any:
        what, number = question.split()
        if what == "burst":
            return {variant: [burst(call, wait, float(number)) for call in calls] for variant, calls in timed.items()}
        timed.clear()
        case = CASES[int(number)]
        sizes = {}
        for variant in variants_of(library, case, compiled):
            try:
                sizes[variant] = prepared(case, variant)
            except Exception as error:
                if variant != "compiled":
                    raise
                print(f"{case.title}, compiled: {error}", file=sys.stderr)
        return sizes

    serve(answer)


# -- the parent --------------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """Of one case: seconds per call, forward and (where there is one) with backward, by library or variant of it."""

    case: Case
    seconds: dict[str, list[float]]
    same: bool

    def best(self, library: str, column: int) -> str:
        """The faster of a library's layouts; "" without it."""
        names = [name for name in (library, f"{library} cl") if len(self.seconds.get(name, ())) > column]
        return min(names, key=lambda name: self.seconds[name][column], default="")

    def time(self, name: str, column: int) -> float:
        """Microseconds; NaN where there are none."""
        times = self.seconds.get(name, [])
        return times[column] * 1e6 if len(times) > column else math.nan

    def ratio(self, column: int, peer: str = "") -> float:
        """Cordee's time by PyTorch's (eager, unless another is named), in the best layout of each; NaN where either is
        missing."""
        return self.time(self.best("cordee", column), column) / self.time(peer or self.best("torch", column), column)

    @property
    def worst(self) -> float:
        return max((ratio for ratio in (self.ratio(0), self.ratio(1)) if not math.isnan(ratio)), default=0.0)


def measure(peers: list[Peer], index: int, num_bursts: int, burst_seconds: float) -> Result:
    """Has the peers prepare a case, and time it in turns."""
    case = CASES[index]

    def named(peer: Peer, by_variant: dict[str, Any]) -> dict[str, Any]:
        return {f"{peer.library} {variant}".rstrip(): value for variant, value in by_variant.items()}

    sizes: dict[str, list[float]] = {}
    for peer in peers:
        sizes |= named(peer, peer.ask(f"prepare {index}"))
    bursts: dict[str, list[list[float]]] = {name: [] for name in sizes}
    for _ in range(num_bursts):
        for peer in peers:
            for name, times in named(peer, peer.ask(f"burst {burst_seconds}")).items():
                bursts[name].append(times)
    seconds = {
        name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in bursts.items()
    }
    rtol = 1e-2 if any(operand.dtype == "bfloat16" for operand in case.operands) else 1e-3
    same = case.random or all(
        len(each) == len(sizes["cordee"]) and np.allclose(each, sizes["cordee"], rtol=rtol, atol=1e-2)
        for each in sizes.values()
    )
    return Result(case, seconds, same)


def cell(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def print_results(results: list[Result], beside: bool, compiled: bool) -> None:
    """The table; `beside`: PyTorch is there."""
    header = ["family", "operation"]
    for prefix in ("", "+back "):
        header += [f"{prefix}cordee", ""]
        header += ["torch", "", "ratio"] if beside else []
        header += ["compiled", "ratio"] if compiled else []
    rows = []
    for result in results:
        row = [result.case.family, result.case.title]
        for column in (0, 1):
            for library in ("cordee", *(["torch"] if beside else [])):
                best = result.best(library, column)
                row += [cell(result.time(best, column), 1), "cl" if best.endswith(" cl") else ""]
            if beside:
                row += [cell(result.ratio(column), 2)]
            if compiled:
                time = result.time("torch compiled", column)
                row += [cell(time, 1), cell(result.ratio(column, "torch compiled"), 2)]
        rows.append([*row, "" if result.same else "differs"])
    print_rows([*header, ""], rows)


def mean(results: list[Result], column: int, peer: str = "") -> str:
    """The geometric mean of the ratios."""
    ratios = [ratio for ratio in (result.ratio(column, peer) for result in results) if not math.isnan(ratio)]
    return f"{statistics.geometric_mean(ratios):.2f}" if ratios else "–"


def print_means(results: list[Result], compiled: bool) -> None:
    """The geometric means of the ratios, by family and over all; then the aims."""
    families = dict.fromkeys(result.case.family for result in sorted(results, key=lambda r: CASES.index(r.case)))
    members = {family: [result for result in results if result.case.family == family] for family in families}
    members["all"] = results
    header = ["geometric mean of ratios", "operations", "forward", "with backward"]
    rows = [[family, str(len(chosen)), mean(chosen, 0), mean(chosen, 1)] for family, chosen in members.items()]
    if compiled:
        header += ["compiled: forward", "with backward"]
        for row, chosen in zip(rows, members.values(), strict=True):
            row += [mean(chosen, 0, "torch compiled"), mean(chosen, 1, "torch compiled")]
    print()
    print_rows(header, rows)
    if aimed := [result for result in results if result.case.aim is not None]:
        print()
        rows = [
            [
                result.case.title,
                f"≤ {result.case.aim}",
                cell(result.ratio(0), 2),
                cell(result.ratio(1), 2),
                "" if result.worst <= (result.case.aim or 0.0) else "missed",
            ]
            for result in aimed
        ]
        print_rows(["aim", "", "forward", "with backward", ""], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of both libraries (default: 1)")
    parser.add_argument("--only", default="", help="words, separated by commas (default: all operations)")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too")
    parser.add_argument("--sort", action="store_true", help="the worst ratios first")
    parser.add_argument("--quick", action="store_true", help="one short burst each")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where both compute (default: cpu)")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.threads[0], arguments.compile, arguments.device)
        return
    words = arguments.only.split(",")

    def is_chosen(case: Case) -> bool:
        return any(word in f"{case.family} {case.title}" or (word == "aims" and case.aim) for word in words)

    chosen = [index for index, case in enumerate(CASES) if is_chosen(case)]
    if not chosen:
        parser.error(f"no operation has {arguments.only!r} in its family or name")
    print_machine("numpy", "torch", *(["cupy-cuda12x"] if arguments.device == "cuda" else []), device=arguments.device)
    for threads in arguments.threads:
        print(f"\n# threads {threads}; microseconds\n")
        num_bursts, burst_seconds = (1, 0.0) if arguments.quick else (NUM_BURSTS, BURST_SECONDS)
        options = ["--compile"] if arguments.compile else []
        peers = [Peer(__file__, library, threads, *options, device=arguments.device) for library in installed()]
        results = [measure(peers, index, num_bursts, burst_seconds) for index in chosen]
        for peer in peers:
            peer.close()
        if arguments.sort:
            results.sort(key=lambda result: result.worst, reverse=True)
        beside = len(peers) > 1
        print_results(results, beside, arguments.compile and beside)
        if beside:
            print_means(results, arguments.compile)


if __name__ == "__main__":
    main()
