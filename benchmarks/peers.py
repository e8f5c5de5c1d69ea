"""Cordee and PyTorch as two child processes that take turns: neither disturbs the other's threads or memory.

A benchmark starts itself again, once per library, with `--child LIBRARY`; the child then answers questions, one per
line of its standard input, each with a line of JSON. PyTorch may be in an environment of its own: `TORCH_PYTHON` names
its interpreter then.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["DEVICES", "LIBRARIES", "Peer", "import_library", "installed", "interpreter", "on_host", "serve", "waiting"]

LIBRARIES = {"cordee": "cordee.trainer", "torch": "torch"}
DEVICES = ("cpu", "cuda")


def interpreter(library: str) -> str:
    """The Python that has this library."""
    return os.environ.get("TORCH_PYTHON", sys.executable) if library == "torch" else sys.executable


def installed() -> list[str]:
    """The libraries that are here; Cordee is the first."""
    return [name for name in LIBRARIES if interpreter(name) != sys.executable or importlib.util.find_spec(name)]


def import_library(name: str, threads: int, device: str = "cpu") -> Any:
    """The library, told how many threads to use and where. What a script here needs is called the same in both."""
    library = importlib.import_module(LIBRARIES[name])
    library.set_num_threads(threads)
    if name == "torch" and device == "cuda":  # Cordee is told by CORDEE_DEVICE
        library.set_default_device(device)
        library.backends.cudnn.allow_tf32 = False  # products are not rounded to it either, in both
    return library


def waiting(library: Any, device: str) -> Callable[[], None]:
    """What waits until the device has done what it was told: on the CPU nothing does."""
    return library.cuda.synchronize if device == "cuda" else lambda: None


def on_host(tensor: Any) -> Any:
    """Its values, as NumPy's array. PyTorch's have to be moved there first."""
    return (tensor.cpu() if type(tensor).__module__.startswith("torch") else tensor).numpy()


def serve(answer: Callable[[str], Any]) -> None:
    """Answers questions until there are no more."""
    for line in sys.stdin:
        print(json.dumps(answer(line.strip())), flush=True)


class Peer:
    """A child process of `script` that uses one library, with so many threads."""

    def __init__(self, script: str, library: str, threads: int, *arguments: str, device: str = "cpu") -> None:
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CORDEE_THREADS")
        environment = dict(os.environ, CORDEE_DEVICE=device, **dict.fromkeys(variables, str(threads)))
        command = [interpreter(library), script, "--child", library, "--threads", str(threads), *arguments]
        command += ["--device", device] if device != "cpu" else []
        self.library = library
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, question: object) -> Any:
        """Its answer.

        Raises:
            RuntimeError: it has ended; why is on standard error.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(question, file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the child process of {self.library} ended without an answer; its error is above")
        return json.loads(line)

    def close(self) -> None:
        """Ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
