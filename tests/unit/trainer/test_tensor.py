"""The tensor itself: dtypes, conversion, printing, writing in place, and a surface that is what it declares."""

from __future__ import annotations

import ast
import copy
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import ops
from cordee.trainer.array import to_numpy
from cordee.trainer.ops.methods import collect


def test_python_floats_are_single_precision_and_arrays_keep_theirs() -> None:
    assert ct.tensor(1.5).dtype == np.float32
    assert ct.tensor([[1.0, 2.0]]).dtype == np.float32
    assert ct.tensor([1, 2]).dtype == np.int64
    assert ct.tensor([True]).dtype == np.bool_
    assert ct.tensor(np.ones(2)).dtype == np.float64
    assert ct.tensor([1, 2], dtype=ct.float64).dtype == np.float64
    assert ct.tensor([ct.tensor(1.0), 2.0]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("call", "dtype"),
    [
        (lambda f, i: f * 2, np.float32),
        (lambda f, i: f + 1.5, np.float32),
        (lambda f, i: f * np.float64(1.5), np.float32),
        (lambda f, i: f * i, np.float32),
        (lambda f, i: i / 2, np.float32),
        (lambda f, i: i / i, np.float32),
        (lambda f, i: i * 1.5, np.float32),
        (lambda f, i: i.exp(), np.float32),
        (lambda f, i: i + 1, np.int64),
        (lambda f, i: i.sum(), np.int64),
        (lambda f, i: f.sum(), np.float32),
        (lambda f, i: f.double() * f, np.float64),
        (lambda f, i: f.half() * 2, np.float16),
        (lambda f, i: f > 1, np.bool_),
        (lambda f, i: (f > 1).sum(), np.int64),
        (lambda f, i: ct.where(f > 1, 1.0, f), np.float32),
        (lambda f, i: f[0] * f[1], np.float32),
        (lambda f, i: f * ct.tensor(2.0, dtype=ct.float64), np.float32),
        (lambda f, i: f[0] * ct.tensor(2.0, dtype=ct.float64), np.float64),
    ],
)  # fmt: skip
def test_results_have_pytorchs_dtypes(call: Any, dtype: Any) -> None:
    out = call(ct.tensor([1.0, 2.0]), ct.tensor([1, 2]))
    assert out.dtype == dtype
    assert hasattr(out.data, "flags"), "a tensor holds an array, never a scalar"


def test_casting_carries_the_gradient_back_in_its_own_dtype() -> None:
    x = ct.ones(2, requires_grad=True)
    (x.double() * 3).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == np.float32
    assert x.grad.tolist() == [3.0, 3.0]


def test_conversions() -> None:
    x = ct.tensor([[1.0, 2.0]])
    assert x.numpy().tolist() == [[1.0, 2.0]]
    assert np.asarray(x).shape == (1, 2)
    assert (x.numpy() + x).tolist() == [[2.0, 4.0]]
    assert (np.ones((1, 2), np.float32) * x).tolist() == [[1.0, 2.0]]
    assert float(ct.tensor(2.5)) == 2.5
    assert int(ct.tensor(3)) == 3
    assert [10, 20, 30][ct.tensor(1)] == 20
    assert bool(ct.tensor([True]))
    assert f"{ct.tensor(0.12345):.2f}" == "0.12"
    assert len(x) == 1
    assert x.size() == (1, 2)
    assert x.size(1) == 2
    assert (x.dim(), x.ndim, x.numel(), x.nbytes, x.itemsize) == (2, 2, 2, 8, 4)


def test_what_has_no_single_value_is_refused() -> None:
    for call in (float, int, bool, lambda t: t.item()):
        with pytest.raises(ct.ShapeError, match=r"\(2,\)"):
            call(ct.ones(2))
    with pytest.raises(TypeError):
        len(ct.tensor(1.0))
    with pytest.raises(TypeError, match="integer"):
        [1, 2][ct.tensor(1.0)]


def test_printing_shows_values_dtype_and_origin() -> None:
    x = ct.tensor([1.0, 2.0], requires_grad=True)
    assert repr(x).replace(", device='cuda'", "") == "tensor([1., 2.], requires_grad=True)"
    assert "grad_fn=<mul>" in repr(x * 2)
    double = ct.tensor([1.0], dtype=ct.float64)
    assert repr(double).replace(", device='cuda'", "") == "tensor([1.], dtype=float64)"


def test_writing_in_place_under_no_grad_changes_the_tensor_itself() -> None:
    w = ct.ones(3, requires_grad=True)
    alias = w
    with ct.no_grad():
        w += 1.0
        w *= 2.0
        w -= 1.0
        w /= 2.0
        w[0] = 9.0
    assert w is alias
    assert w.tolist() == [9.0, 1.5, 1.5]
    assert w.is_leaf
    with pytest.raises(ct.ShapeError, match="in place"), ct.no_grad():
        w += ct.ones(2, 3)


def test_fractions_are_not_cut_off_in_place() -> None:
    count = ct.tensor([1, 2])
    with ct.no_grad(), pytest.raises(TypeError, match="float32 numbers do not fit in place into int64"):
        count += 0.7


def test_copies_are_apart() -> None:
    x = ct.ones(2, requires_grad=True)
    twin = copy.deepcopy(x)
    twin.data[...] = 5.0
    assert x.tolist() == [1.0, 1.0]
    assert twin.requires_grad
    array = np.ones(2)
    made = ct.tensor(array)
    array[0] = 7
    assert made.tolist() == [1.0, 1.0]


def test_creation() -> None:
    assert ct.zeros(2, 3).shape == (2, 3)
    assert ct.ones((2, 3)).shape == (2, 3)
    assert ct.full((2,), 3).dtype == np.int64
    assert ct.full((2,), 3.0).dtype == np.float32
    assert ct.arange(2, 8, 2).tolist() == [2, 4, 6]
    assert ct.arange(3.0).dtype == np.float32
    assert ct.linspace(0, 1, 3).tolist() == [0.0, 0.5, 1.0]
    assert ct.eye(2).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert ct.ones_like(ct.zeros(2, dtype=ct.float64)).dtype == np.float64
    assert sorted(ct.randperm(5).tolist()) == [0, 1, 2, 3, 4]
    assert set(ct.randint(2, 4, (100,)).tolist()) == {2, 3}


def test_comparisons_and_logic() -> None:
    a, b = ct.tensor([1.0, 2.0, float("nan")]), ct.tensor([1.0, 3.0, 0.0])
    assert (a == b).tolist() == [True, False, False]
    assert (a != b).tolist() == [False, True, True]
    assert ((a < b) | (a == b)).tolist() == [True, True, False]
    assert (~(a >= b)).tolist() == [False, True, True]
    assert a.isnan().tolist() == [False, False, True]
    assert (ct.tensor([7, -7]) // 2).tolist() == [3, -4]
    assert (ct.tensor([7, -7]) % 3).tolist() == [1, 2]
    assert ct.tensor([0.5, 1.5]).round().tolist() == [0.0, 2.0]
    assert ct.tensor([0, 3, 0]).nonzero().tolist() == [[1]]
    assert ct.tensor([1.0]).allclose(ct.tensor([1.0 + 1e-7]))
    i, j = ct.tensor([1, 2, 0]), ct.tensor([2, 2, 1])
    assert [(i & j).tolist(), (i | j).tolist(), (i ^ j).tolist(), (~i).tolist()] == [
        [0, 2, 0], [3, 2, 1], [3, 0, 1], [-2, -3, -1],
    ]  # fmt: skip
    assert i.logical_and(j).tolist() == [True, True, False]
    assert (i * 0.5).logical_or(0.0).tolist() == [True, True, False]
    assert i.logical_xor(j).tolist() == [False, False, True]
    assert i.logical_not().tolist() == [False, False, True]


def test_the_declared_surface_is_the_attached_one() -> None:
    stub = Path(inspect.getfile(ct)).with_name("surface.pyi")
    tree = ast.parse(stub.read_text())
    surface = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    declared = {node.name: node for node in surface.body if isinstance(node, ast.FunctionDef)}
    methods = collect(ops.FAMILIES)
    assert set(declared) == set(methods)
    for name, node in declared.items():
        attached = inspect.unwrap(methods[name]) if callable(methods[name]) else methods[name]
        if isinstance(attached, property) or name.startswith("__"):
            continue
        ours = list(inspect.signature(attached).parameters)[1:]
        theirs = [a.arg for a in (*node.args.args[1:], *node.args.kwonlyargs)]
        theirs = theirs if node.args.vararg is None else [node.args.vararg.arg, *theirs]
        assert sorted(ours) == sorted(theirs), name


def test_every_public_name_is_there() -> None:
    for name in ct.__all__:
        assert hasattr(ct, name), name
    for name in ops.__all__:
        assert getattr(ct, name) is getattr(ops, name)


def test_importing_the_engine_loads_nothing_heavy() -> None:
    code = "import cordee.trainer, sys; print(*sorted(m.partition('.')[0] for m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(found.stdout.split())
    assert "cordee" in loaded
    heavy = {"scipy", "sklearn", "torch", "cupy", "llvmlite", "grpc", "fastapi", "safetensors", "pydantic", "asyncio"}
    assert not loaded & heavy


def test_threads_and_device_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import cordee.trainer as ct; print(ct.get_num_threads(), ct.device_name())"
    environment = {"CORDEE_THREADS": "2", "CORDEE_DEVICE": "cpu", "PATH": "/usr/bin:/bin"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    assert found.stdout.split() == ["2", "cpu"]
    with pytest.raises(ct.DeviceError, match="cpu, cuda, auto"):
        ct.set_device("tpu")
    with pytest.raises(ValueError, match="at least 1"):
        ct.set_num_threads(0)


def test_a_missing_gpu_is_told_by_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(ct.DeviceError, match=r"CORDEE_DEVICE is cuda, but CuPy is not installed: .*; or use cpu"):
        ct.set_device("cuda")


def test_arrays_of_the_tensor_are_plain_memory() -> None:
    x = ct.arange(6).reshape(2, 3)
    assert x.is_contiguous()
    assert not x.T.is_contiguous()
    assert x.T.contiguous().is_contiguous()
    assert to_numpy(x.data).tolist() == [[0, 1, 2], [3, 4, 5]]
