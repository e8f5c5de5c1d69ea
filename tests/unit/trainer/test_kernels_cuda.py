"""CUDA sources without a GPU: the same text, compiled for the CPU, beside NumPy."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee.trainer import ops as ops  # declares the records
from cordee.trainer.autograd.fusing import formulas
from cordee.trainer.autograd.record import REGISTRY
from cordee.trainer.kernels.cuda import fused, philox

sys.path.insert(0, str(Path(__file__).parent))
from cuda_support import Nvrtc, cupy_of_tests

COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no g++ here to compile CUDA's sources for the CPU")

# What CUDA's C has and C++ has not; threads run one after another.
SHIM = """
#include <cmath>
#include <cstring>
#define __device__
#define __global__
#define __forceinline__ inline
struct Place { unsigned x; };
static Place blockIdx, blockDim, threadIdx;
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
#define erfcxf(x) (expf((x) * (x)) * erfcf(x))
#define erfinvf(x) (x)
"""


def compiled(folder: Path, source: str) -> Any:
    assert COMPILER is not None
    (folder / "source.cpp").write_text(SHIM + source)
    subprocess.run(
        [COMPILER, "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-o", folder / "library.so", folder / "source.cpp"],
        check=True,
    )
    return ctypes.CDLL(str(folder / "library.so"))


def pointer(array: Any) -> Any:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.mark.parametrize(
    "counter", [(0, 5, 7, 9), (2**64 - 2, 3, 2, 1), (2**64 - 3, 2**64 - 1, 4, 1), (2**64 - 1, 2**64 - 1, 2**64 - 1, 0)]
)
def test_philox_draws_numpys_words(counter: tuple[int, ...], tmp_path_factory: Any) -> None:
    library = library_of_philox(tmp_path_factory)
    key, count = (12345, 2**63 + 1), 1003
    out = np.zeros(count, np.uint64)
    library.draw(pointer(out), ctypes.c_longlong(count), *map(ctypes.c_ulonglong, (*key, *counter)))
    words = [np.array(each, np.uint64) for each in (key, counter)]
    expected = np.random.Generator(np.random.Philox(key=words[0], counter=words[1])).integers(
        0, 1 << 64, count, np.uint64
    )
    np.testing.assert_array_equal(out, expected)


_built: dict[str, Any] = {}


def library_of_philox(tmp_path_factory: Any) -> Any:
    if "philox" not in _built:
        run_all = """
        extern "C" void draw(unsigned long long* out, long long count, unsigned long long k0, unsigned long long k1,
            unsigned long long c0, unsigned long long c1, unsigned long long c2, unsigned long long c3) {
            blockDim.x = 256;
            for (blockIdx.x = 0; blockIdx.x < 8; ++blockIdx.x)
                for (threadIdx.x = 0; threadIdx.x < 256; ++threadIdx.x)
                    philox_words(out, count, k0, k1, c0, c1, c2, c3);
        }
        """
        _built["philox"] = compiled(tmp_path_factory.mktemp("philox"), philox.SOURCE + run_all)
    return _built["philox"]


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -3.0, 1e-6, 20.0, -20.0, 90.0, -90.0, np.inf, -np.inf, np.nan]
NAMES = [
    name
    for name, record in sorted(REGISTRY.items())
    if record.elementwise and record.expr and not record.params and len(record.inputs) == 1
]


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[tuple[str, str]]]:
    """All unary operations without params, and their gradients, in one library: `name(count, g, out, a, result)`."""
    text, found = fused.PREAMBLE, []
    for name in NAMES:
        result, slopes = formulas(REGISTRY[name], REGISTRY)
        for what, term in (("forward", result), ("gradient", slopes[0] if slopes else None)):
            if term is not None and not isinstance(term, float) and fused.can_compute(term):
                code = fused.body("fff->f", ["g", "out", "a"], [term])
                text += (
                    f'extern "C" void {name}_{what}'
                    "(long n, const float* g_, const float* out_, const float* a_, float* r) "
                    f"{{ for (long i = 0; i < n; ++i) {{ float g = g_[i], out = out_[i], a = a_[i], out0;\n{code}\n"
                    f"r[i] = out0; }} }}\n"
                )
                found.append((name, what))
    return compiled(tmp_path_factory.mktemp("loops"), text), found


@np.errstate(all="ignore")
def test_formulas_in_cudas_c_are_the_records(loops: Any) -> None:
    library, found = loops
    assert len(found) > 60
    rng = np.random.default_rng(0)
    for name, what in found:
        if name in ("erfcx", "erfinv"):  # C++ has none
            continue
        record = REGISTRY[name]
        inside = name in ("asin", "acos", "atanh", "logit", "erfinv")
        a = np.array([*SPECIAL, *(rng.uniform(-0.9, 0.9, 50) if inside else rng.standard_normal(50))], np.float32)
        g = rng.standard_normal(a.size).astype(np.float32)
        out, result = record.forward(np, a), np.zeros_like(a)
        if out.dtype != np.float32:
            continue
        function = getattr(library, f"{name}_{what}")
        function(ctypes.c_long(a.size), *map(pointer, (g, out, a, result)))
        expected = out
        if what == "gradient":
            from cordee.trainer.autograd.vocabulary import array_vocabulary

            expected = record.vjps[0](array_vocabulary(np), g, out, a)  # type: ignore[misc]
        known = ~np.isnan(expected) | np.isnan(a)
        np.testing.assert_allclose(result[known], expected[known], rtol=2e-5, atol=2e-6, err_msg=f"{name} {what}")


def test_bfloat16_as_bits(tmp_path: Path) -> None:
    import ml_dtypes

    record = REGISTRY["gelu_tanh"]
    result, _ = formulas(record, REGISTRY)
    code = fused.body("h->h", ["a"], [result])
    library = compiled(
        tmp_path,
        fused.PREAMBLE + 'extern "C" void f(long n, const unsigned short* a_, unsigned short* r) '
        f"{{ for (long i = 0; i < n; ++i) {{ unsigned short a = a_[i], out0;\n{code}\nr[i] = out0; }} }}",
    )
    a = np.random.default_rng(0).standard_normal(300).astype(ml_dtypes.bfloat16)
    out = np.zeros_like(a)
    library.f(ctypes.c_long(a.size), pointer(a), pointer(out))
    expected = record.forward(np, a.astype(np.float32)).astype(ml_dtypes.bfloat16)
    np.testing.assert_allclose(out.astype(np.float32), expected.astype(np.float32), rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 4, 7, 4000])
def test_a_generator_goes_on_behind_the_words_that_the_device_drew(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from cordee.trainer import random

    monkeypatch.setattr(philox, "words", lambda key, counter, count: (key, counter, count))
    with random.scope(step=3, shard=1):
        there = random.generator()
    with random.scope(step=3, shard=1):
        here = random.generator()
    drawn = philox.random_words(there, count)
    words = here.integers(0, 1 << 64, count, np.uint64)
    bits = np.random.Philox(key=np.array(drawn[0], np.uint64), counter=np.array(drawn[1], np.uint64))
    np.testing.assert_array_equal(np.random.Generator(bits).integers(0, 1 << 64, count, np.uint64), words)
    np.testing.assert_array_equal(there.random(9), here.random(9))


def test_nvidias_compiler_takes_the_sources() -> None:
    """Those of formulas as CuPy's elementwise kernels wrap them: a function of the loop's index."""
    nvrtc = Nvrtc()
    assert ".entry philox_words(" in nvrtc.compile(philox.SOURCE)
    text, count = fused.PREAMBLE, 0
    for name in NAMES:
        result, slopes = formulas(REGISTRY[name], REGISTRY)
        for term in (result, *slopes[:1]):
            if term is not None and not isinstance(term, float) and fused.can_compute(term):
                code, count = fused.body("hfq->fh", ["g", "out", "a"], [term, term]), count + 1
                text += (
                    f'extern "C" __global__ void f{count}(const unsigned short* g_, const float* out_, '
                    "const long long* a_, float* r0, unsigned short* r1) { int i = threadIdx.x; "
                    "unsigned short g = g_[i]; float out = out_[i]; long long a = a_[i]; "
                    f"float& out0 = r0[i]; unsigned short& out1 = r1[i];\n{code}}}\n"
                )
    assert nvrtc.compile(text, "-fmad=false").count(".entry ") == count > 60


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("shape", [(1,), (3, 700), (257, 129)])
def test_dropout_keeps_what_it_keeps_on_the_host(
    shape: tuple[int, ...], p: float, request: pytest.FixtureRequest
) -> None:
    """To the last element: also those whose byte is at the border, whose number nobody on the host knows."""
    from cordee.trainer import random
    from cordee.trainer.array import to_numpy
    from cordee.trainer.ops.dropping import kept_mask

    with random.scope(step=3, shard=1):
        expected = kept_mask(shape, p, np)
    with cupy_of_tests(request.config.getoption("--device"), philox._kernel):
        with random.scope(step=3, shard=1):
            generator = random.generator()
        count = int(np.prod(shape))
        draws = philox.random_words(generator, -(-count // 8)).view(np.uint8)[:count].reshape(shape)
        border, rest = divmod(p * 256.0, 1.0)
        kept = philox.kept_bytes(draws, generator, border=int(border), rest=rest) if rest else draws >= border
        np.testing.assert_array_equal(to_numpy(kept), expected)
