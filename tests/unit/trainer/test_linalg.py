"""Laws of linear algebra that no table of values shows: failures, identities, gradients of what is made of several ops.

First and second gradients of the ops themselves are tested from their records; values beside PyTorch's in
`test_linalg_golden.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import linalg
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.autograd import gradcheck, gradgradcheck


def _draw(*shape: int, salt: int = 0) -> Any:
    return np.random.Generator(np.random.Philox(key=salt)).standard_normal(shape)


def _leaf(array: Any) -> ct.Tensor:
    return ct.Tensor(as_array(np.asarray(array, np.float64)), requires_grad=True)


def _complex(*shape: int, salt: int = 0) -> ct.Tensor:
    """Pairs of numbers, which finite differences can move."""
    return _leaf(_draw(*shape, 2, salt=salt))


def _c(pairs: ct.Tensor) -> ct.Tensor:
    return ct.view_as_complex(pairs)


def _r(z: ct.Tensor) -> ct.Tensor:
    return ct.view_as_real(z)


def _close(ours: ct.Tensor, expected: Any, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(to_numpy(ours.detach().data), expected, rtol=tolerance, atol=tolerance)


def _regular(n: int = 3, salt: int = 1) -> Any:
    return _draw(n, n, salt=salt) * 0.5 + 2 * np.eye(n)


# -- gradients of what is made of several ops, and of complex matrices -------------------------------------------------


def _definite(pairs: ct.Tensor) -> ct.Tensor:
    z = _c(pairs)
    return z @ z.mH + ct.tensor(np.eye(pairs.shape[0]))


def _svd_of_complex(pairs: ct.Tensor) -> ct.Tensor:
    u, s, vh = linalg.svd(_c(pairs), full_matrices=False)
    return _r((u * (s * s)[..., None, :]) @ vh)


def _eig_of(a: ct.Tensor) -> ct.Tensor:
    w, v = linalg.eig(a)
    return _r((v * (w * 0.2).exp()[..., None, :]) @ v.mH)


def _qr_of_complex(pairs: ct.Tensor) -> ct.Tensor:
    q, r = linalg.qr(_c(pairs))
    return _r(q[..., :1] @ q[..., :1].mH) + r.abs().sum()


def _lu_of(pairs: ct.Tensor) -> ct.Tensor:
    _, lower, upper = linalg.lu(_c(pairs))
    return _r(lower * 2.0) + _r(upper * upper)


COMPOSED: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "inv, complex": (lambda a: _r(linalg.inv(_c(a))), [_complex(2, 2)]),
    "solve, complex": (lambda a, b: _r(linalg.solve(_c(a), _c(b))), [_complex(2, 2), _complex(2, salt=1)]),
    "solve_triangular, complex": (
        lambda a, b: _r(linalg.solve_triangular(_c(a), _c(b), upper=True, left=False)),
        [_complex(2, 2), _complex(1, 2, salt=1)],
    ),
    "cholesky, complex": (lambda a: _r(linalg.cholesky(_definite(a))), [_complex(2, 2)]),
    "cholesky_solve": (
        lambda a, b: ct.cholesky_solve(b, linalg.cholesky(a @ a.mT + ct.tensor(np.eye(2)), upper=True), upper=True),
        [_leaf(_draw(2, 2)), _leaf(_draw(2, 1))],
    ),
    "qr, complex": (_qr_of_complex, [_complex(3, 2)]),
    "lu, complex": (_lu_of, [_complex(2, 2)]),
    "lu_solve": (
        lambda a, b: linalg.lu_solve(*linalg.lu_factor(a), b, adjoint=True),
        [_leaf(_regular()), _leaf(_draw(3, 2))],
    ),
    "householder_product": (linalg.householder_product, [_leaf(_draw(3, 2)), _leaf(_draw(2))]),
    "eigh, complex": (
        lambda a: _r((linalg.eigh(_definite(a))[1] * linalg.eigh(_definite(a))[0]) @ linalg.eigh(_definite(a))[1].mH),
        [_complex(2, 2)],
    ),
    "eigvalsh, complex": (lambda a: linalg.eigvalsh(_definite(a)), [_complex(2, 2)]),
    "svd, complex": (_svd_of_complex, [_complex(3, 2)]),
    "svdvals, complex": (lambda a: linalg.svdvals(_c(a)), [_complex(2, 3)]),
    "svd, top level": (lambda a: ct.svd(a).U.abs() @ ct.svd(a).V.abs().mT, [_leaf(_regular())]),
    "eig with complex values": (_eig_of, [_leaf([[1.0, 2.0, 0.3], [-2.0, 1.5, 0.1], [0.2, 0.4, 3.0]])]),
    "eig, complex": (lambda a: _eig_of(_c(a)), [_complex(2, 2)]),
    "eigvals": (lambda a: (linalg.eigvals(a) ** 3).sum().real, [_leaf(_draw(3, 3))]),
    "pinv, complex": (lambda a: _r(linalg.pinv(_c(a))), [_complex(3, 2)]),
    "pinv of lower rank": (lambda a, b: linalg.pinv(a @ b, rtol=1e-8), [_leaf(_draw(3, 1)), _leaf(_draw(1, 2))]),
    "lstsq": (lambda a, b: linalg.lstsq(a, b).solution, [_leaf(_draw(4, 2)), _leaf(_draw(4))]),
    "det, complex": (lambda a: _r(linalg.det(_c(a))), [_complex(2, 2)]),
    "det of a matrix of rank 1": (lambda a, b: linalg.det(a[:, None] * b), [_leaf(_draw(3)), _leaf(_draw(3, salt=1))]),
    "slogdet, complex": (
        lambda a: _r(linalg.slogdet(_c(a)).sign) + linalg.slogdet(_c(a)).logabsdet,
        [_complex(2, 2)],
    ),
    "logdet": (lambda a: ct.logdet(a @ a.mT), [_leaf(_regular())]),
    "matrix_exp, complex": (lambda a: _r(ct.matrix_exp(_c(a))), [_complex(2, 2)]),
    "matrix_power": (lambda a: linalg.matrix_power(a, 5) + linalg.matrix_power(a, -2), [_leaf(_regular(2))]),
    "multi_dot": (
        lambda a, b, c: linalg.multi_dot([a, b, c]),
        [_leaf(_draw(3)), _leaf(_draw(3, 2)), _leaf(_draw(2, 2))],
    ),
    "cond": (lambda a: ct.stack([linalg.cond(a, p) for p in (2, 1, math.inf, "fro")]), [_leaf(_regular(2))]),
    "matrix_norm": (
        lambda a: ct.stack([linalg.matrix_norm(a, p) for p in ("nuc", 2, -2, 1, -math.inf, "fro")]),
        [_leaf(_draw(2, 3))],
    ),
    "norm, complex": (
        lambda a: linalg.vector_norm(_c(a), 3) + linalg.matrix_norm(_c(a), 2) + linalg.norm(_c(a)),
        [_complex(2, 2)],
    ),
    "vander": (lambda a: linalg.vander(a, N=4), [_leaf(_draw(2))]),
    "tensorinv": (lambda a: linalg.tensorinv(a.reshape(2, 2, 4), 2), [_leaf(_regular(4))]),
    # complex numbers themselves
    "product and quotient": (
        lambda a, b: _r(_c(a) * _c(b) / (_c(b) + 3.0) - 1j * _c(a)), [_complex(2), _complex(2, salt=1)]
    ),
    "real and complex": (lambda a, b: _r(a * _c(b) + a.exp() / _c(b)), [_leaf(_draw(2)), _complex(2, salt=1)]),
    "matmul": (lambda a, b: _r(_c(a) @ _c(b)), [_complex(2, 3), _complex(3, 2, salt=1)]),
    "matmul of real and complex": (lambda a, b: _r(a @ _c(b)), [_leaf(_draw(2, 3)), _complex(3, 2, salt=1)]),
    "shapes": (
        lambda a: _r(ct.cat([_c(a).reshape(3, 2).mT, _c(a)[:, :1].expand(2, 3)]).sum(0) * _c(a).mean()),
        [_complex(2, 3)],
    ),
    "functions": (
        lambda a: _r((_c(a) * 0.5).exp() + _c(a).log() + _c(a).sqrt() + _c(a).sin() * _c(a).cos() + _c(a) ** 3),
        [_complex(3)],
    ),
    "polar": (lambda a, b: _r(ct.polar(a, b)), [_leaf(np.abs(_draw(2))), _leaf(_draw(2))]),
    "indices met twice": (lambda a: _r(_c(a)[[0, 1, 0]] * _c(a)[1]), [_complex(2)]),
    "where": (lambda a: _r(ct.where(ct.tensor([True, False]), _c(a) * 2.0, _c(a) * _c(a))), [_complex(2)]),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSED)
def test_first_and_second_gradients_are_the_finite_differences(name: str) -> None:
    function, inputs = COMPOSED[name]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs, atol=1e-5, rtol=1e-4)


def test_det_has_first_and_second_gradients_at_the_zero_matrix() -> None:
    a = _leaf(np.zeros((2, 2)))
    (first,) = ct.autograd.grad(linalg.det(a), a, create_graph=True)
    _close(first, np.zeros((2, 2)))
    (second,) = ct.autograd.grad(first[0, 0], a)  # d²det / (da₀₀ da₁₁) = 1
    _close(second, [[0.0, 0.0], [0.0, 1.0]])


# -- identities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4), (0, 2, 2), (2, 0, 0), (1, 1)])
def test_factors_multiply_to_the_matrix(shape: tuple[int, ...]) -> None:
    a = _draw(*shape)
    definite = a @ a.swapaxes(-1, -2) + np.eye(shape[-1])
    lower = linalg.cholesky(ct.tensor(definite))
    _close(lower @ lower.mT, definite)
    q, r = linalg.qr(ct.tensor(a))
    _close(q @ r, a)
    p, low, up = linalg.lu(ct.tensor(a))
    _close(p @ low @ up, a)
    u, s, vh = linalg.svd(ct.tensor(a))
    _close((u * s[..., None, :]) @ vh, a)
    w, v = linalg.eigh(ct.tensor(definite))
    _close((v * w[..., None, :]) @ v.mT, definite)
    w, v = linalg.eig(ct.tensor(a))
    _close((ct.tensor(a).to(ct.complex128) @ v - v * w[..., None, :]).abs(), np.zeros(shape), 1e-8)


def test_a_long_triangle_is_solved_in_blocks() -> None:
    a, b = np.tril(_draw(300, 300)) / 20 + np.eye(300) * 2, _draw(2, 300, 3)
    _close(linalg.solve_triangular(ct.tensor(a), ct.tensor(b), upper=False), np.linalg.solve(a, b))
    _close(linalg.solve_triangular(ct.tensor(a.T), ct.tensor(b), upper=True), np.linalg.solve(a.T, b))


def test_only_the_named_triangle_is_read() -> None:
    a, b = _regular(), _draw(3, 1)
    spoilt = a + np.tril(np.full((3, 3), math.nan), -1)
    _close(linalg.solve_triangular(ct.tensor(spoilt), ct.tensor(b), upper=True), np.linalg.solve(np.triu(a), b))


def test_a_zero_on_a_triangles_diagonal_gives_infinity() -> None:
    a = ct.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert not to_numpy(linalg.solve_triangular(a, ct.ones(2, 1), upper=True).isfinite().data).any()


def test_least_squares_reports_residuals_and_rank() -> None:
    a, b = _draw(2, 5, 3), _draw(2, 5, 2, salt=1)
    found = linalg.lstsq(ct.tensor(a), ct.tensor(b), driver="gelsd")
    for i in range(2):
        x, residuals, rank, values = np.linalg.lstsq(a[i], b[i])
        _close(found.solution[i], x)
        _close(found.residuals[i], residuals)
        _close(found.singular_values[i], values)
        assert int(found.rank[i]) == rank
    assert linalg.lstsq(ct.tensor(a.swapaxes(1, 2)), ct.tensor(b[:, :3])).residuals.numel() == 0


def test_the_rank_counts_what_is_above_the_tolerance() -> None:
    a = ct.tensor(np.diag([1.0, 1e-3, 1e-20]))
    assert int(linalg.matrix_rank(a)) == 2
    assert int(linalg.matrix_rank(a, rtol=1e-2)) == 1
    assert int(linalg.matrix_rank(a, atol=1e-30)) == 3
    assert int(linalg.matrix_rank(a, hermitian=True)) == 2
    assert linalg.matrix_rank(ct.zeros(4, 0, 3)).tolist() == [0] * 4


def test_the_exponential_of_large_matrices_keeps_its_precision() -> None:
    w, v = np.linalg.eigh(_draw(4, 4) + _draw(4, 4).T)
    a = (v * (w * 20)) @ v.T
    _close(ct.matrix_exp(ct.tensor(a)) / math.exp(20 * w.max()), ((v * np.exp(20 * (w - w.max()))) @ v.T), 1e-8)


def test_integers_are_taken_as_numbers_of_the_default_dtype() -> None:
    found = linalg.inv(ct.tensor([[2, 0], [0, 4]]))
    assert found.dtype == ct.float32
    _close(found, [[0.5, 0.0], [0.0, 0.25]])


# -- failures ----------------------------------------------------------------------------------------------------------

SINGULAR = np.stack((np.eye(2), np.ones((2, 2)), np.eye(2)))


@pytest.mark.parametrize(
    "function", [linalg.inv, lambda a: linalg.solve(a, ct.ones(3, 2, 1, dtype=ct.float64)), linalg.lu_factor]
)
def test_a_singular_matrix_is_named_by_its_place_in_the_batch(function: Any) -> None:
    with pytest.raises(ct.LinAlgError, match=r"singular.*batch element 1"):
        function(ct.tensor(SINGULAR))


def test_a_matrix_that_is_not_definite_is_named() -> None:
    with pytest.raises(linalg.LinAlgError, match=r"cholesky: the matrix is not positive definite \(batch element 1"):
        linalg.cholesky(ct.tensor(SINGULAR))
    with pytest.raises(RuntimeError, match="not positive definite"):  # as PyTorch's class is one
        linalg.cholesky(ct.tensor([[1.0, 2.0], [2.0, 1.0]]))


def test_ex_functions_report_instead_of_failing() -> None:
    a = ct.tensor(SINGULAR)
    inverse, info = linalg.inv_ex(a)
    assert info.tolist() == [0, 1, 0]
    assert inverse[1].isnan().all()
    _close(inverse[::2], SINGULAR[::2])
    result, info = linalg.solve_ex(a, ct.tensor(SINGULAR[:, :, :1]))
    assert info.tolist() == [0, 1, 0]
    assert result[1].isnan().all()
    lower, info = linalg.cholesky_ex(a)
    assert info.tolist() == [0, 1, 0]
    assert lower[1].isnan().all()
    assert linalg.lu_factor_ex(a).info.tolist() == [0, 2, 0]
    with pytest.raises(ct.LinAlgError):
        linalg.inv_ex(a, check_errors=True)


def test_a_matrix_with_nan_has_no_spectrum() -> None:
    with pytest.raises(ct.LinAlgError, match=r"svd.*NaN"):
        linalg.svd(ct.full((2, 2), math.nan))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: linalg.inv(ct.ones(2, 3)), r"inv: a must hold square matrices.*\(2, 3\)"),
        (lambda: linalg.solve(ct.ones(3, 3), ct.ones(2, 1)), r"solve: a has 3 rows, b has 2"),
        (lambda: linalg.svd(ct.ones(3)), r"svd: a must be a matrix"),
        (
            lambda: linalg.multi_dot([ct.ones(2, 3), ct.ones(2, 3)]),
            r"multi_dot: tensor 0 has 3 columns, tensor 1 has 2",
        ),
        (lambda: linalg.cross(ct.ones(2), ct.ones(2)), r"cross: a must have size 3"),
        (lambda: linalg.matrix_norm(ct.ones(2)), r"matrix_norm: there is no dimension -2"),
        (lambda: ct.trace(ct.ones(2)), r"trace: needs a matrix"),
        (lambda: linalg.lstsq(ct.ones(3, 2), ct.ones(2)), r"lstsq: A .* do not fit"),
        (lambda: linalg.tensorinv(ct.ones(2, 3), 1), r"tensorinv: the first 1 dimensions"),
        (lambda: linalg.householder_product(ct.ones(2, 3), ct.ones(1)), r"householder_product: needs input"),
    ],
)
def test_wrong_shapes_are_refused_in_a_sentence(call: Any, words: str) -> None:
    with pytest.raises(ct.TrainerError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: linalg.matrix_norm(ct.ones(2, 2), 7), "ord is one of"),
        (lambda: linalg.qr(ct.ones(2, 2), "odd"), "mode is 'reduced'"),
        (lambda: linalg.eigh(ct.ones(2, 2), "X"), "UPLO"),
        (lambda: linalg.lstsq(ct.ones(2, 2), ct.ones(2), driver="x"), "driver"),
        (lambda: linalg.multi_dot([ct.ones(2, 2)]), "at least two"),
        (lambda: linalg.vander(ct.ones(2), N=0), "N must be"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_norms_of_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="floating-point"):
        linalg.vector_norm(ct.tensor([1, 2]))


def test_what_has_no_gradient_says_so() -> None:
    a = _leaf(_draw(3, 2))
    with pytest.raises(ct.GraphError, match="complete"):
        linalg.qr(a, "complete").Q.sum().backward()
    with pytest.raises(ct.GraphError, match="mode='r'"):
        linalg.qr(a, "r")
    with pytest.raises(ct.GraphError, match="full_matrices"):
        linalg.svd(a).U.sum().backward()


# -- complex numbers ---------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_complex_tensor_points_uphill() -> None:
    z = ct.tensor([3 + 4j], dtype=ct.complex128, requires_grad=True)
    z.abs().sum().backward()
    assert z.grad is not None
    _close(z.grad, [0.6 + 0.8j])


def test_backward_of_a_complex_number_needs_a_gradient() -> None:
    z = ct.tensor(1 + 2j, dtype=ct.complex128, requires_grad=True)
    with pytest.raises(ct.GraphError, match="real tensor"):
        (z * z).backward()
    (z * z).backward(ct.tensor(1 + 0j, dtype=ct.complex128))
    assert z.grad is not None
    _close(z.grad, 2 - 4j)


def test_a_real_tensor_that_meets_complex_ones_has_a_real_gradient() -> None:
    x = ct.tensor([1.0, 2.0], requires_grad=True)
    y = x * 1j + x
    assert y.dtype == ct.complex64
    (y * y.conj()).real.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == ct.float32
    _close(x.grad, [4.0, 8.0])


def test_complex_lists_have_the_default_precision() -> None:
    assert ct.tensor([1 + 2j]).dtype == ct.complex64
    assert ct.tensor(np.array([1 + 2j])).dtype == ct.complex128


def test_parts_and_their_refusals() -> None:
    z = ct.tensor([1 + 2j, 3 - 4j])
    assert z.real.tolist() == [1, 3]
    assert z.imag.tolist() == [2, -4]
    assert z.conj().imag.tolist() == [-2, 4]
    assert z.isreal().tolist() == [False, False]
    x = ct.ones(2)
    assert x.real is x
    assert x.conj() is x
    with pytest.raises(TypeError, match="imaginary"):
        ct.imag(x)
    with pytest.raises(TypeError, match="complex"):
        ct.view_as_real(x)
    with pytest.raises(ct.ShapeError, match="size 2"):
        ct.view_as_complex(ct.ones(3))
    with pytest.raises(TypeError, match="same floating dtype"):
        ct.complex(x, x.double())


# -- short-time transforms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"hop_length": 3}, {"normalized": True}, {"onesided": False}])
def test_istft_undoes_stft(options: dict[str, Any]) -> None:
    x = ct.tensor(_draw(2, 50))
    window = ct.hann_window(8, dtype=ct.float64)
    seen = ct.stft(x, 8, window=window, return_complex=True, **options)
    _close(ct.istft(seen, 8, window=window, length=50, **options)[:, :48], to_numpy(x.data)[:, :48])


def test_windows_that_leave_a_sample_out_are_refused() -> None:
    seen = ct.stft(ct.randn(40), 8, center=False, window=ct.hann_window(8), return_complex=True)
    with pytest.raises(ValueError, match="add up to zero"):
        ct.istft(seen, 8, center=False, window=ct.hann_window(8))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: ct.stft(x, 8), "return_complex"),
        (lambda x: ct.stft(x, 99, return_complex=True), "longer than"),
        (lambda x: ct.stft(x, 99, center=False, return_complex=True), "n_fft"),
        (lambda x: ct.stft(x, 8, window=ct.ones(7), return_complex=True), "window must have shape"),
        (lambda x: ct.stft(x, 8, pad_mode="x", return_complex=True), "pad_mode"),
        (lambda x: ct.stft(x, 8, hop_length=0, return_complex=True), "hop_length"),
        (lambda x: ct.istft(ct.fft.fft(x), 8), "transforms are"),
        (lambda x: ct.istft(ct.fft.fft(x)[:, None], 8), "frequencies"),
        (lambda x: ct.fft.fft(x, 0), "at least 1"),
        (lambda x: ct.fft.fft(x, norm="x"), "norm is"),
        (ct.fft.fft2, "no dimension -2"),
        (lambda x: ct.fft.fftn(x, dim=(0, 0)), "twice"),
        (lambda x: ct.fft.irfft(ct.ones(1)), "at least 1"),
    ],
)
def test_transforms_refuse_in_a_sentence(call: Any, words: str) -> None:
    with pytest.raises((ValueError, ct.TrainerError), match=words):
        call(ct.randn(20))


def test_transforms_keep_single_precision_and_refuse_half() -> None:
    x = ct.randn(8)
    assert ct.fft.fft(x).dtype == ct.complex64
    assert ct.fft.irfft(ct.fft.rfft(x)).dtype == ct.float32
    assert ct.fft.fft(ct.arange(4)).dtype == ct.complex64
    with pytest.raises(TypeError, match="float16"):
        ct.fft.fft(x.half())
    with pytest.raises(TypeError, match="real tensor"):
        ct.fft.rfft(ct.fft.fft(x))
