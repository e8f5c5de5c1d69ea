"""CuPy for tests of kernels: a device's under `--device cuda`, else the stand-in, which runs CUDA's text on the CPU."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Nvrtc", "cupy_of_tests", "needs_compiler"]

STAND_IN = str(Path(__file__).resolve().parents[2] / "conformance" / "cupy_stand_in")
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="there is no g++ here to compile CUDA's sources"
)


@contextmanager
def cupy_of_tests(device: str, *caches: Any) -> Iterator[Any]:
    """The module, imported as `cupy` while this lasts; `caches`, of functions that keep something of it, are emptied
    before and after."""
    if device == "cuda" or "cupy_stand_in" in str(getattr(sys.modules.get("cupy"), "__file__", "")):
        yield importlib.import_module("cupy")
        return
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in ("cupy", "cupyx")}
    sys.path.insert(0, STAND_IN)
    try:
        for each in caches:
            each.cache_clear()
        yield importlib.import_module("cupy")
    finally:
        sys.path.remove(STAND_IN)
        for each in caches:
            each.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupyx")]:
            del sys.modules[name]
        sys.modules.update(before)


class Nvrtc:
    """NVIDIA's compiler, which needs no GPU: the package nvidia-cuda-nvrtc-cu12."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("nvidia.cuda_nvrtc") if importlib.util.find_spec("nvidia") else None
        if found is None or not found.submodule_search_locations:
            pytest.skip("there is no NVRTC here: pip install nvidia-cuda-nvrtc-cu12")
        self.library = ctypes.CDLL(str(Path(found.submodule_search_locations[0]) / "lib" / "libnvrtc.so.12"))

    def compile(self, source: str, *options: str) -> str:
        """PTX for the GPUs that most have, or the compiler's words."""
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        self.library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"source.cu", 0, None, None)
        given = [b"-arch=compute_80", b"-std=c++17", *map(str.encode, options)]
        failed = self.library.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        which = "ProgramLog" if failed else "PTX"
        getattr(self.library, f"nvrtcGet{which}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{which}")(program, text)
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        assert not failed, text.value.decode()
        return text.value.decode()
