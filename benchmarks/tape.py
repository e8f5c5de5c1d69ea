"""The tape's own cost: recording a small operation and walking back over it, beyond the array calls it stands for.

    python benchmarks/tape.py [--only add,softmax] [--profile] [--quick]

A chain of 100 operations on 64 elements, forward and backward, is timed in three ways: with Cordee, with PyTorch (where
it is installed), and bare: the NumPy calls that Cordee's forward and backward come to, in a plain loop, with the same
gradients added up at the end. Microseconds per operation; "over" is what a library takes beyond the bare calls. The
three take turns, burst by burst; the fastest burst of each counts, because what disturbs only ever adds.

`--profile` says where Cordee's part goes: what each step of recording and walking costs by itself. `--quick` shows that
everything runs; its figures are nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from machine import print_machine, print_rows
from peers import LIBRARIES, Peer, import_library, installed, serve

LENGTH, NUM_BURSTS, BURST_SECONDS, STRETCHES = 100, 15, 0.03, 10


class Case(NamedTuple):
    """An operation that keeps its first operand's shape, so that it can be chained."""

    title: str
    shapes: tuple[tuple[int, ...], ...]
    call: Callable[..., Any]
    """With either library: `(lib, x, *others)` to the next x."""
    forward: Callable[..., tuple[Any, Any]]
    """Bare: `(x, *others)` to the next x and what backward reads."""
    backward: Callable[..., tuple[Any, ...]]
    """Bare: `(g, kept, *others)` to the gradients of x and of the others."""


def _softmax(x: Any) -> tuple[Any, Any]:
    out = x - x.max(axis=-1, keepdims=True)
    np.exp(out, out=out)
    out /= out.dot(_ONES).reshape(8, 1)
    return out, out


def _softmax_back(g: Any, out: Any) -> tuple[Any, ...]:
    weighted = g * out
    return (weighted - out * weighted.sum(axis=-1, keepdims=True),)


def _linear(x: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    out = x @ weight.T
    out += bias
    return out, x


def _relu(x: Any) -> tuple[Any, Any]:
    out = np.maximum(x, 0)
    return out, out


def _tanh(x: Any) -> tuple[Any, Any]:
    out = np.tanh(x)
    return out, out


def _spread(g: Any) -> Any:
    out = np.empty((1, 64), g.dtype)
    out[...] = g.reshape(1, 64)
    return out


def _put(g: Any) -> Any:
    out = np.zeros((8, 8), g.dtype)
    out[0:8] += g
    return out


_ONES = np.ones(8, np.float32)
_FLAT, _ROW, _SQUARE = (64,), (1, 64), (8, 8)
CASES = [
    Case("add", (_FLAT, _FLAT), lambda lib, x, b: x + b, lambda x, b: (x + b, None), lambda g, _, b: (g, g)),
    Case("mul", (_FLAT, _FLAT), lambda lib, x, b: x * b, lambda x, b: (x * b, x), lambda g, x, b: (g * b, g * x)),
    Case("mul by a number", (_FLAT,), lambda lib, x: x * 0.5, lambda x: (x * 0.5, None), lambda g, _: (g * 0.5,)),
    Case("relu", (_FLAT,), lambda lib, x: x.relu(), _relu, lambda g, out: (g * (out > 0),)),
    Case("tanh", (_FLAT,), lambda lib, x: x.tanh(), _tanh, lambda g, out: (g * (1.0 - out * out),)),
    Case(
        "matmul", (_SQUARE, _SQUARE), lambda lib, x, w: x @ w, lambda x, w: (x @ w, x),
        lambda g, x, w: (g @ w.swapaxes(-1, -2), x.swapaxes(-1, -2) @ g),
    ),
    Case(
        "linear", (_SQUARE, _SQUARE, (8,)), lambda lib, x, w, b: lib.nn.functional.linear(x, w, b), _linear,
        lambda g, x, w, b: (g @ w, g.T @ x, _ONES.dot(g)),
    ),
    Case(
        "reshape", (_SQUARE,), lambda lib, x: x.reshape(8, 8), lambda x: (x.reshape(8, 8), None),
        lambda g, _: (g.reshape(8, 8),),
    ),
    Case(
        "transpose", (_SQUARE,), lambda lib, x: x.transpose(0, 1), lambda x: (x.swapaxes(0, 1), None),
        lambda g, _: (g.swapaxes(0, 1),),
    ),
    Case(
        "getitem", (_SQUARE,), lambda lib, x: x[0:8], lambda x: (x[0:8], None), lambda g, _: (_put(g),),
    ),
    Case(
        "sum", (_ROW,), lambda lib, x: x.sum(0, keepdim=True), lambda x: (x.sum(axis=0, keepdims=True), None),
        lambda g, _: (_spread(g),),
    ),
    Case("softmax", (_SQUARE,), lambda lib, x: lib.nn.functional.softmax(x, -1), _softmax, _softmax_back),
]  # fmt: skip


# -- what is timed -----------------------------------------------------------------------------------------------------


def operands(case: Case) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1) for shape in case.shapes]


def with_library(lib: Any, case: Case) -> Callable[[], Any]:
    """A chain forward and backward; it returns the operands' gradients."""
    leaves = [lib.tensor(array).requires_grad_() for array in operands(case)]
    first, *others = leaves
    call, ones = case.call, lib.ones(*case.shapes[0])

    def run() -> list[Any]:
        for leaf in leaves:
            leaf.grad = None
        x = first
        for _ in range(LENGTH):
            x = call(lib, x, *others)
        x.backward(ones)
        return leaves

    return run


def bare(case: Case) -> Callable[[], Any]:
    """The same on arrays."""
    first, *others = operands(case)
    forward, backward, ones = case.forward, case.backward, np.ones(case.shapes[0], np.float32)

    def run() -> list[Any]:
        x, tape = first, []
        for _ in range(LENGTH):
            x, kept = forward(x, *others)
            tape.append(kept)
        g, sums = ones, None
        while tape:
            g, *more = backward(g, tape.pop(), *others)
            if sums is None:
                sums = [each.copy() for each in more]
            else:
                for total, each in zip(sums, more, strict=True):
                    np.add(total, each, out=total)
        return [g, *(sums or ())]

    return run


def idle(case: Case) -> Callable[[], Any]:
    """The loop of `with_library`, with calls that do nothing."""
    first, *others = operands(case)

    def call(lib: Any, x: Any, *operands: Any) -> Any:  # noqa: ARG001
        return x

    def run() -> None:
        x = first
        for _ in range(LENGTH):
            x = call(None, x, *others)

    return run


def idle_bare(case: Case) -> Callable[[], Any]:
    """The loops of `bare`, likewise."""
    first, *others = operands(case)

    def forward(x: Any, *operands: Any) -> tuple[Any, Any]:  # noqa: ARG001
        return x, None

    def backward(g: Any, kept: Any, *operands: Any) -> tuple[Any, ...]:  # noqa: ARG001
        return (g, *operands)

    def run() -> None:
        x, tape = first, []
        for _ in range(LENGTH):
            x, kept = forward(x, *others)
            tape.append(kept)
        g = first
        while tape:
            g, *more = backward(g, tape.pop(), *others)
            for _ in zip(others, more, strict=True):
                pass

    return run


# -- where it goes -----------------------------------------------------------------------------------------------------


class Floor:
    """What a recorded operation cannot do without: it is called, and makes an object for the result and one for the
    node; backward calls a function for it."""

    __slots__ = ("_grad", "_node", "_sink", "data")

    def __neg__(self) -> Floor:
        node, out = FloorOfNode(), Floor()
        node.op = node.edges = node.saved = node.out = node.params = node.number = node.code = node.lasti = None
        out._node, out.data, out._grad, out._sink = node, None, None, None
        return out

    def __pos__(self) -> Floor:
        return self


class FloorOfNode:
    __slots__ = ("code", "edges", "lasti", "number", "op", "out", "params", "saved")


def steps_of_recording() -> dict[str, Callable[[], Any]]:
    """What recording one operation and walking back over it is made of, each step by itself."""
    from cordee.trainer import tensor
    from cordee.trainer.autograd import walk
    from cordee.trainer.autograd.graph import Node
    from cordee.trainer.autograd.location import OURS
    from cordee.trainer.autograd.mode import MODE, OFF
    from cordee.trainer.tensors import next_number, wrap

    x, b = tensor(np.ones(64, np.float32)).requires_grad_(), tensor(np.ones(64, np.float32)).requires_grad_()
    raw, plain, g, floor = x.data, x.detach(), np.ones(64, np.float32), Floor()
    frame = sys._getframe
    chain: Any = x
    for _ in range(LENGTH):
        chain = -chain

    def place() -> Any:
        found = frame(1)
        code = found.f_code
        return code.co_filename in OURS, found.f_lasti

    def unwalked() -> None:
        walk.walk({chain._node: g}, True)

    return {
        "the array call of -x, and freeing its result": lambda: -raw,
        "the floor: an operator that does nothing": lambda: +floor,
        "the floor: and makes an object for the result and one for the node": lambda: -floor,
        "-x without recording": lambda: -plain,
        "-x, recorded": lambda: -x,
        "x + b, recorded": lambda: x + b,
        "of these: a tensor around an array": lambda: wrap(raw, None),
        "of these: an empty node": lambda: Node() is None,
        "of these: the place in the program": place,
        "of these: the number": lambda: next_number() > 0,
        "of these: whether this thread records": lambda: OFF.threads and not MODE.enabled,
        "of these: whether two shapes are the same": lambda: raw.shape == g.shape,
        "of these: a dtype": lambda: raw.dtype,
        "walking back over -x": unwalked,
        "an empty call": lambda: raw,
    }


def hundred(step: Callable[[], Any]) -> Callable[[], None]:
    """So many calls that looking at the clock does not count."""

    def run() -> None:
        for _ in range(LENGTH):
            step()

    return run


def print_profile() -> None:
    """Nanoseconds of each step, the empty call taken off."""
    fastest = dict.fromkeys(steps := steps_of_recording(), float("inf"))
    for _ in range(NUM_BURSTS):
        for name, step in steps.items():
            fastest[name] = min(fastest[name], seconds_per_call(hundred(step), 0.01) / LENGTH)
    empty = fastest.pop("an empty call")
    fastest["walking back over -x"] = empty + (fastest["walking back over -x"] - empty) / LENGTH
    print_rows(["step", "ns"], [[name, f"{(seconds - empty) * 1e9:.0f}"] for name, seconds in fastest.items()])


# -- measuring ---------------------------------------------------------------------------------------------------------


def seconds_per_call(call: Callable[[], Any], burst_seconds: float) -> float:
    """Of the fastest of ten stretches, which last so long together."""
    start = time.perf_counter()
    call()
    num_calls = max(int(burst_seconds / STRETCHES / (time.perf_counter() - start)), 1)
    times = []
    for _ in range(STRETCHES if burst_seconds else 1):
        start = time.perf_counter()
        for _ in range(num_calls):
            call()
        times.append((time.perf_counter() - start) / num_calls)
    return min(times)


def child(library: str) -> None:
    """Answers "prepare CASE" with the gradients' sums, and "burst SECONDS" with seconds per operation: of the library,
    and from Cordee's child also those of the bare calls, and of the loops around both, which are taken off."""
    lib = import_library(library, 1)
    timed: list[Callable[[], Any]] = []

    def answer(question: str) -> Any:
        what, number = question.split()
        if what == "burst":
            return [seconds_per_call(call, float(number)) / LENGTH for call in timed]
        case = CASES[int(number)]
        timed[:] = [with_library(lib, case)]
        sums = [[float(np.abs(leaf.grad.numpy()).sum()) for leaf in timed[0]()]]
        if library == "cordee":
            timed.extend([bare(case), idle(case), idle_bare(case)])
            sums.append([float(np.abs(gradient).sum()) for gradient in timed[1]()])
        return sums

    serve(answer)


def measure(peers: Sequence[Peer], index: int, num_bursts: int, burst_seconds: float) -> list[str]:
    """A row of the table.

    Raises:
        RuntimeError: what is compared does not compute the same.
    """
    case = CASES[index]
    sums = [row for peer in peers for row in peer.ask(f"prepare {index}")]
    for row in sums[1:]:
        if not np.allclose(row, sums[0], rtol=1e-3, atol=1e-6):
            raise RuntimeError(f"{case.title}: the gradients differ: {sums}")
    fastest = [float("inf")] * (len(peers) + 3)
    for _ in range(num_bursts):
        found = [seconds for peer in peers for seconds in peer.ask(f"burst {burst_seconds}")]
        fastest = [min(pair) for pair in zip(fastest, found, strict=True)]
    ours, calls, loop, bare_loops, *theirs = [seconds * 1e6 for seconds in fastest]
    calls -= bare_loops
    ours -= loop
    row = [case.title, f"{calls:.2f}", f"{ours:.2f}", f"{ours - calls:.2f}"]
    for each in [seconds - loop for seconds in theirs]:
        row += [f"{each:.2f}", f"{each - calls:.2f}", f"{ours / each:.2f}"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="words, separated by commas (default: all operations)")
    parser.add_argument("--profile", action="store_true", help="where Cordee's part goes, instead")
    parser.add_argument("--quick", action="store_true", help="one short burst each")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    words = arguments.only.split(",")
    chosen = [index for index, case in enumerate(CASES) if any(word in case.title for word in words)]
    if not chosen:
        parser.error(f"no operation has {arguments.only!r} in its name")
    print_machine("numpy", "torch")
    if arguments.profile:
        import_library("cordee", 1)
        print("# one thread; nanoseconds\n")
        print_profile()
        return
    print(f"# one thread; microseconds per operation, forward and backward, in a chain of {LENGTH}\n")
    num_bursts, burst_seconds = (1, 0.0) if arguments.quick else (NUM_BURSTS, BURST_SECONDS)
    peers = [Peer(__file__, library, 1) for library in installed()]
    rows = [measure(peers, index, num_bursts, burst_seconds) for index in chosen]
    header = ["operation", "bare", "cordee", "over"]
    for peer in peers[1:]:
        header += [peer.library, "over", "ratio"]
    for peer in peers:
        peer.close()
    print_rows(header, rows)


if __name__ == "__main__":
    main()
