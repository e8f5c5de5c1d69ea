"""From loops to machine code: compiled once per machine, kept on disk, loaded by LLVM's just-in-time compiler.

What is kept are object files, in the user's cache folder, by a hash of everything that they depend on: the generator's
own sources, LLVM's version, the CPU. They are native code, so they are only taken from a folder that nobody else can
write to; where there is none, each process compiles for itself.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
from llvmlite import binding, ir  # type: ignore[import-untyped]

from cordee.trainer.kernels.llvm.loops import Loop, build

__all__ = ["Library", "cache_folder", "cpu", "load", "version"]


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


def cache_folder() -> Path | None:
    """Where object files are kept; None where there is no folder that is the user's alone."""
    folder = Path(os.environ.get("CORDEE_KERNEL_CACHE") or platformdirs.user_cache_path("cordee") / "kernels")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return None
    return folder if _is_private(status) else None


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


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
        team: the address of the team's table, see `loops.TEAM`.
        formula: what the loops depend on beside this package's sources.
    """
    _target()
    features = binding.get_host_cpu_features().flatten()
    depends = (_generator(), family, formula, version(), sys.platform, cpu(), features)
    key = hashlib.sha256("\0".join(depends).encode()).hexdigest()[:32]
    folder = cache_folder()
    path = None if folder is None else folder / f"{family}-{key}.o"
    if path is not None and (known := _read(path)) is not None:
        return Library(known, team)
    code = _compile(family, loops)
    if path is not None:
        _write(path, code)
    return Library(code, team)


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


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read() if _is_private(os.fstat(file.fileno())) else None
    except OSError:
        return None


def _write(path: Path, code: bytes) -> None:
    """Whole or not at all: other processes read it, too."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, delete=False) as file:
            file.write(code)
        Path(file.name).replace(path)
    except OSError:
        pass
