"""MKL beside the others: when it is taken, on which threads it runs, and that its bits are always the same."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cordee.trainer import kernels, ops, tensor
from cordee.trainer.array import get_num_threads, set_num_threads
from cordee.trainer.errors import KernelError
from cordee.trainer.kernels import providers
from cordee.trainer.kernels.mkl import library
from cordee.trainer.kernels.providers import PROVIDERS

installed = pytest.mark.skipif(
    not PROVIDERS["mkl"].installed(), reason="mkl is not installed: pip install 'cordee[mkl]'"
)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads = get_num_threads()
    yield
    set_num_threads(threads)
    kernels.choose("auto")


@installed
def test_what_is_installed_works() -> None:
    assert PROVIDERS["mkl"].lack() == ""
    assert PROVIDERS["mkl"].identity().startswith(f"mkl {PROVIDERS['mkl'].version()} ")


@pytest.mark.parametrize(
    ("intel", "lacking", "expected"),
    [
        (True, (), ["mkl", "onednn"]),
        (False, (), ["onednn"]),
        (False, ("onednn",), ["mkl"]),
        (True, ("mkl",), ["onednn"]),
    ],
)
def test_it_is_ahead_of_onednn_on_intels_cpus_and_stands_in_on_others(
    intel: bool, lacking: tuple[str, ...], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "is_intel", lambda: intel)
    monkeypatch.setattr(providers.Provider, "installed", lambda _: True)
    monkeypatch.setattr(providers.Provider, "lack", lambda self: "it is away" if self.name in lacking else "")
    assert [name for name in providers.automatic("cpu") if name != "llvm"] == expected


def test_whose_cpu_it_is(tmp_path: Path) -> None:
    for vendor, intel in (("GenuineIntel", True), ("AuthenticAMD", False)):
        told = tmp_path / vendor
        told.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu\n")
        assert library.is_intel(told) is intel
    assert not library.is_intel(tmp_path / "none")


@installed
def test_products_of_both_precisions_are_its_where_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.choose("llvm,mkl" if not PROVIDERS["llvm"].lack() else "mkl")
    called, bindings = [], library.bindings()
    for name in ("sgemm", "dgemm"):
        own = getattr(bindings, name)
        monkeypatch.setattr(bindings, name, lambda *given, name=name, own=own: called.append(name) or own(*given))
    for dtype in (np.float32, np.float64):
        a, b = (np.random.default_rng(0).standard_normal(shape).astype(dtype) for shape in ((120, 110), (110, 130)))
        found = ops.matmul(tensor(a), tensor(b)).numpy()
        np.testing.assert_allclose(found, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4)
    assert called == ["sgemm", "dgemm"]


@installed
def test_a_package_that_misses_a_part_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the process."""
    monkeypatch.setattr(library, "_files", lambda: {"rt": Path("libmkl_rt.so.3")})
    with pytest.raises(KernelError, match="libmkl_gnu_thread"):
        library._library.__wrapped__()


PROGRAM = """
import hashlib
import numpy as np
from cordee.trainer.array import set_num_threads
from cordee.trainer.kernels.mkl.products import multiply
found = hashlib.sha256()
for threads in (1, 2):
    set_num_threads(threads)
    for dtype in (np.float32, np.float64):
        for m, k, n in ((257, 300, 129), (64, 900, 40)):
            values = np.random.default_rng(0).standard_normal(m * k + k * n).astype(dtype)
            bits = set()
            for offset in (0, 1, 5, 12):  # wherever the operands begin in memory
                room = np.empty(values.size + 16, dtype)
                here = room[offset : offset + values.size]
                here[:] = values
                bits.add(multiply(here[: m * k].reshape(m, k), here[m * k :].reshape(k, n)).tobytes())
            assert len(bits) == 1, (threads, dtype, m, k, n)
            found.update(bits.pop())
pools = {line.rsplit("/", 1)[-1].strip() for line in open("/proc/self/maps") if "omp" in line}
print(found.hexdigest(), *sorted(pool for pool in pools if pool.startswith(("libgomp", "libiomp"))))
"""


@installed
def test_the_same_bits_in_every_process_and_one_team_of_threads() -> None:
    def run(**environment: str) -> list[str]:
        given = dict(os.environ, **environment)
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], env=given, capture_output=True, text=True, check=True, timeout=100
        ).stdout.split()

    first = run()
    assert first == run(MKL_THREADING_LAYER="INTEL", MKL_CBWR="COMPATIBLE", OMP_NUM_THREADS="3")
    assert len(first[0]) == hashlib.sha256().digest_size * 2
    assert [pool.partition(".")[0] for pool in first[1:]] == ["libgomp"]
