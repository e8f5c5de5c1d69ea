"""Products of matrices by oneDNN, beside NumPy's: whichever way the operands lie, and right where they are wanted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cordee.trainer import ops as ops  # declares the kernels
from cordee.trainer.array import get_num_threads, set_num_threads
from cordee.trainer.kernels import registry
from cordee.trainer.kernels.providers import PROVIDERS

pytestmark = pytest.mark.skipif(bool(PROVIDERS["onednn"].lack()), reason=PROVIDERS["onednn"].lack() or "-")


@pytest.fixture(params=[1, 2])
def threads(request: Any) -> Iterator[int]:
    before = get_num_threads()
    set_num_threads(request.param)
    yield request.param
    set_num_threads(before)


def ways(rng: Any, rows: int, columns: int) -> dict[str, Any]:
    """A matrix that lies by rows, by columns, with gaps, reversed, and with gaps both ways."""
    return {
        "rows": rng.standard_normal((rows, columns), np.float32),
        "columns": rng.standard_normal((columns, rows), np.float32).T,
        "a part": rng.standard_normal((rows + 3, columns + 5), np.float32)[1 : rows + 1, 2 : columns + 2],
        "reversed": rng.standard_normal((rows, columns), np.float32)[::-1],
        "every other": rng.standard_normal((rows, 2 * columns), np.float32)[:, ::2],
    }


@pytest.mark.parametrize(("m", "k", "n"), [(130, 97, 101), (300, 300, 300)])
def test_as_numpys(m: int, k: int, n: int, threads: int) -> None:
    multiply = registry.load("multiply", "onednn")
    rng = np.random.default_rng(0)
    for (how, a), (other, b) in itertools.product(ways(rng, m, k).items(), ways(rng, k, n).items()):
        out = multiply(a, b)
        if how in ("reversed", "every other") or other in ("reversed", "every other"):
            assert out is NotImplemented
            continue
        np.testing.assert_allclose(out, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4)
        assert out.tobytes() == multiply(a, b).tobytes()
        place = np.zeros((m, n + 4), np.float32)
        assert multiply(a, b, out=place[:, :n]) is not NotImplemented
        np.testing.assert_array_equal(place[:, :n], out)
        assert not place[:, n:].any()


def test_what_is_left_to_numpy() -> None:
    multiply = registry.load("multiply", "onednn")
    a = np.ones((200, 200), np.float32)
    for x, y in (
        (a[:10], a),
        (a.astype(np.float64), a),
        (np.ones((2, 200, 200), np.float32), a),
        (a, a[:100]),
        (np.ones((1, 9999), np.float32), np.ones((9999, 200), np.float32)),
    ):
        assert multiply(x, y) is NotImplemented
    assert multiply(a, a, out=np.ones((200, 200), np.float32).T) is NotImplemented
