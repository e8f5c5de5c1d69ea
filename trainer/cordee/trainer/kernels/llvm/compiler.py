"""From loops to machine code: compiled once per machine, kept on disk, loaded by LLVM's just-in-time compiler.

What is kept are object files (see `cache`), by a hash of everything that they depend on: the generator's own sources,
LLVM's version, the CPU. Where they cannot be kept, each process compiles for itself.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]

from cordee.trainer.kernels.llvm import cache
from cordee.trainer.kernels.llvm.entries import build
from cordee.trainer.kernels.llvm.loops import Loop

__all__ = ["Library", "cpu", "load", "version"]


@functools.cache
def _target() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="jitdefault",
    )


def cpu() -> str:
    """LLVM's name of this CPU."""
    return str(binding.get_host_cpu_name())


def version() -> str:
    """LLVM's version."""
    return ".".join(map(str, binding.llvm_version_info))


@functools.cache
def _generator() -> str:
    """A hash of this package's sources: a change of any makes other code."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


class Library:
    """Compiled loops in memory. It lives as long as the process: NumPy keeps addresses of it."""

    def __init__(self, code: bytes, team: int) -> None:
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _target())
        self._engine.add_object_file(binding.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        place = self._engine.get_global_value_address("team")
        ctypes.c_int64.from_address(place).value = team

    def address(self, name: str) -> int:
        """Where a loop's function is."""
        return int(self._engine.get_function_address(name))


def load(family: str, loops: Sequence[Loop], team: int, formula: str = "") -> Library:
    """The loops of a family, from the cache or compiled now.

    Args:
        team: the address of the team's table, see `entries.TEAM`.
        formula: what the loops depend on beside this package's sources.
    """
    _target()
    features = binding.get_host_cpu_features().flatten()
    depends = (_generator(), family, formula, version(), sys.platform, cpu(), features)
    key = hashlib.sha256("\0".join(depends).encode()).hexdigest()[:32]
    return Library(cache.kept(f"{family}-{key}.o", lambda: _compile(family, loops)), team)


def _compile(family: str, loops: Sequence[Loop]) -> bytes:
    module = ir.Module(family)
    module.triple = binding.get_default_triple()
    for loop in loops:
        build(module, loop)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    target = _target()
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False  # the loops say how wide they are
    options.loop_unrolling = False
    passes = binding.create_pass_builder(target, options)
    passes.getModulePassManager().run(parsed, passes)
    return bytes(target.emit_object(parsed))
