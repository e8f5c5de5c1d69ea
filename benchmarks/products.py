"""Products of matrices by each library that can compute them here, as Cordee calls them, beside PyTorch.

One child process per library (`CORDEE_KERNELS` chooses), burst by burst in turns; medians, in milliseconds, and the
ratio to PyTorch's time. The sizes are those of a GPT's layer (width 384, 1024 rows), of the gradients by its weights,
too, where the left matrix lies by columns. oneDNN leaves float64 to NumPy's BLAS.

    python benchmarks/products.py --threads 1 2
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from machine import describe_machine
from peers import LIBRARIES, Peer, import_library, installed, serve

WAYS = {"numpy": "OpenBLAS", "onednn": "oneDNN", "mkl": "MKL"}
SIZES = (
    ("rows", 1024, 384, 1152), ("rows", 1024, 384, 1536), ("rows", 1024, 1536, 384), ("rows", 1024, 384, 384),
    ("columns", 1152, 1024, 384), ("columns", 1536, 1024, 384), ("columns", 384, 1024, 1536),
)  # fmt: skip
"""How the left matrix lies, and its rows, its columns, the right one's columns."""
DTYPES = ("float32", "float64")
NUM_ROUNDS = 6


def child(library: str, threads: int) -> None:
    """Answers `dtype number` with the seconds of some products."""
    lib = import_library(library, threads)
    rng, made = np.random.default_rng(0), {}

    def prepared(dtype: str, number: int) -> Callable[[], Any]:
        lies, m, k, n = SIZES[number]
        a, b = (lib.tensor(rng.standard_normal(shape).astype(dtype)) for shape in ((m, k), (k, n)))
        if lies == "columns":
            a = lib.tensor(rng.standard_normal((k, m)).astype(dtype)).T
        return lambda: lib.matmul(a, b)

    def answer(question: str) -> Any:
        dtype, number = question.split()
        if question not in made:
            made[question] = prepared(dtype, int(number))
            made[question]()
        times = []
        for _ in range(8):
            start = time.perf_counter()
            made[question]()
            times.append(time.perf_counter() - start)
        return times

    serve(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of all libraries (default: 1)")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.threads[0])
        return
    from cordee.trainer.kernels.providers import PROVIDERS  # not above: PyTorch's child is to be without it

    print("\n".join(f"# {line}" for line in describe_machine("numpy", "onednn-cpu-gomp", "mkl", "torch")), flush=True)
    ways = {way: title for way, title in WAYS.items() if way == "numpy" or not PROVIDERS[way].lack()}
    for threads in arguments.threads:
        measure(threads, ways)


def measure(threads: int, ways: dict[str, str]) -> None:
    """Prints one table."""
    peers = {}
    for way, title in ways.items():
        os.environ["CORDEE_KERNELS"] = way  # which the child inherits
        peers[title] = Peer(__file__, "cordee", threads)
    if "torch" in installed():
        peers["PyTorch"] = Peer(__file__, "torch", threads)
    print(f"\nthreads {threads}\n{'':34}" + "".join(f"{title:>18}" for title in peers))
    ratios: dict[tuple[str, str], list[float]] = {}
    try:
        for dtype in DTYPES:
            for number, (lies, m, k, n) in enumerate(SIZES):
                times: dict[str, list[float]] = {title: [] for title in peers}
                for _ in range(NUM_ROUNDS):
                    for title, peer in peers.items():
                        times[title] += peer.ask(f"{dtype} {number}")
                typical = {title: statistics.median(each) * 1e3 for title, each in times.items()}
                line = f"{dtype} {m}×{k} by {lies}, ×{n}"
                for title, each in typical.items():
                    ratio = each / typical["PyTorch"] if "PyTorch" in typical else 1.0
                    ratios.setdefault((dtype, title), []).append(ratio)
                    line = f"{line:34}" if title == next(iter(typical)) else line
                    line += f"{each:11.2f} {ratio:6.2f}"
                print(line, flush=True)
            means = [statistics.geometric_mean(ratios[dtype, title]) for title in peers]
            print(f"{f'{dtype}, geometric mean':34}" + "".join(f"{mean:18.2f}" for mean in means), flush=True)
    finally:
        for peer in peers.values():
            peer.close()


if __name__ == "__main__":
    main()
