"""Linear algebra, Fourier transforms and complex numbers, read the same in PyTorch and here: see `calls.py`.

Inputs and results are real: complex numbers go in and out as pairs. What a sign or phase leaves open (eigenvectors,
singular vectors) is made of it in a way that does not depend on it.
"""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np

from cordee.trainer.autograd.record import Sampler

BASE = runpy.run_path(str(Path(__file__).parent / "calls.py"))
Call: Any = BASE["Call"]

__all__ = ["CALLS", "run"]


def _regular(s: Sampler) -> list[Any]:
    return [s.normal(2, 3, 3) * 0.5 + 2.0 * np.eye(3)]


def _complex_regular(s: Sampler) -> list[Any]:
    return [s.normal(3, 3, 2) * 0.5 + 2.0 * np.eye(3)[..., None]]


def _definite(s: Sampler) -> list[Any]:
    a = s.normal(2, 3, 3)
    return [a @ a.swapaxes(-1, -2) + 0.5 * np.eye(3)]


def _complex_definite(s: Sampler) -> list[Any]:
    a = s.normal(3, 3) + 1j * s.normal(3, 3)
    b = a @ a.conj().T + 0.5 * np.eye(3)
    return [np.stack((b.real, b.imag), -1)]


def _symmetric(s: Sampler) -> list[Any]:
    a = s.normal(2, 3, 3)
    return [a + a.swapaxes(-1, -2) + np.diag([0.0, 3.0, 6.0])]


def _tall(s: Sampler) -> list[Any]:
    return [s.normal(2, 4, 3)]


def _wide(s: Sampler) -> list[Any]:
    return [s.normal(2, 3, 4)]


def _complex_tall(s: Sampler) -> list[Any]:
    return [s.normal(4, 3, 2)]


def _system(s: Sampler) -> list[Any]:
    return [s.normal(2, 3, 3) * 0.5 + 2.0 * np.eye(3), s.normal(3, 2)]


def _pairs(s: Sampler) -> list[Any]:
    return [s.normal(3, 4, 2)]


def _two_pairs(s: Sampler) -> list[Any]:
    return [s.normal(3, 4, 2), s.normal(4, 2) + 0.2]


def _signal(s: Sampler) -> list[Any]:
    return [s.normal(3, 6)]


def _c(L: Any, a: Any) -> Any:
    return L.view_as_complex(a)


def _r(L: Any, z: Any) -> Any:
    return L.view_as_real(L.resolve_conj(z))


def _adjoint(z: Any) -> Any:
    return z.transpose(-1, -2).conj()


def _flat(L: Any, *parts: Any) -> Any:
    return L.cat([part.reshape(-1) for part in parts])


def _product(L: Any, a: Any) -> Any:
    """A definite matrix: of its gradient, PyTorch keeps a part that no Hermitian change of it meets."""
    return _c(L, a) @ _adjoint(_c(L, a))


_NAMED = ("bartlett", "blackman", "cosine", "exponential", "gaussian", "hamming", "hann", "kaiser", "nuttall")


def _windows(L: Any) -> list[Any]:
    return [L.hann_window, L.hamming_window, L.blackman_window, L.bartlett_window, L.kaiser_window]


def _svd_parts(L: Any, a: Any) -> Any:
    """Of singular vectors, what does not depend on their phase: each pair's contribution."""
    U, S, Vh = L.linalg.svd(a, full_matrices=False)
    return U @ (S[..., None] ** 2 * Vh), S


def _eigh_parts(L: Any, a: Any, **more: Any) -> Any:
    w, v = L.linalg.eigh(a, **more)
    return (v * L.exp(w * 0.1)[..., None, :]) @ _adjoint(v), w


def _qr_parts(L: Any, a: Any, mode: str = "reduced") -> Any:
    Q, R = L.linalg.qr(a, mode=mode)
    return Q[..., :, :1] @ _adjoint(Q[..., :, :1]), R.abs() ** 2


def _eig_parts(L: Any, z: Any) -> Any:
    """Sums over all eigenvalues: their order is not fixed."""
    w, v = L.linalg.eig(z)
    weights = L.exp(w * 0.2)
    return (v * weights[..., None, :]) @ _adjoint(v), (w * w * w).sum(-1)


CALLS: dict[str, Any] = {
    # solves
    "inv": Call(lambda L, F, a: L.linalg.inv(a) + L.inverse(a.mT), _regular),
    "inv, complex": Call(lambda L, F, a: _r(L, L.linalg.inv(_c(L, a))), _complex_regular),
    "inv_ex": Call(lambda L, F, a: L.linalg.inv_ex(a).inverse, _regular),
    "solve": Call(lambda L, F, a, b: L.linalg.solve(a, b), _system),
    "solve, vector": Call(lambda L, F, a: L.linalg.solve(a, a[..., 0]), _regular),
    "solve, right": Call(lambda L, F, a, b: L.linalg.solve(a, b.mT[:1], left=False), _system),
    "solve, complex": Call(
        lambda L, F, a, b: _r(L, L.linalg.solve(_c(L, a), _c(L, b))),
        lambda s: [*_complex_regular(s), s.normal(3, 2, 2)],
    ),
    "solve_ex": Call(lambda L, F, a, b: L.linalg.solve_ex(a, b).result, _system),
    "solve_triangular": Call(
        lambda L, F, a, b: _flat(
            L,
            L.linalg.solve_triangular(a, b, upper=True),
            L.linalg.solve_triangular(a, b, upper=False, unitriangular=True),
            L.linalg.solve_triangular(a, b.mT, upper=False, left=False),
            L.triangular_solve(b, a, transpose=True).solution,
        ),
        _system,
    ),
    "solve_triangular, complex": Call(
        lambda L, F, a, b: _r(L, L.linalg.solve_triangular(_c(L, a), _c(L, b), upper=False)),
        lambda s: [*_complex_regular(s), s.normal(3, 2, 2)],
    ),
    "cholesky_solve": Call(
        lambda L, F, a, b: (
            L.cholesky_solve(b, L.linalg.cholesky(a))
            + L.cholesky_solve(b, L.linalg.cholesky(a, upper=True), upper=True) * 2
            + L.cholesky_inverse(L.linalg.cholesky(a)) @ b
        ),
        lambda s: [*_definite(s), s.normal(2, 3, 2)],
    ),
    "tensorinv, tensorsolve": Call(
        lambda L, F, a, b: _flat(L, L.linalg.tensorinv(a, 2), L.linalg.tensorsolve(a, b)),
        lambda s: [(s.normal(4, 4) * 0.4 + 2 * np.eye(4)).reshape(2, 2, 2, 2), s.normal(2, 2)],
    ),
    "lstsq": Call(
        lambda L, F, a, b: _flat(L, L.linalg.lstsq(a, b).solution, L.linalg.lstsq(a, b[..., 0]).solution),
        lambda s: [s.normal(2, 4, 3), s.normal(2, 4, 2)],
    ),
    "lstsq, wide": Call(
        lambda L, F, a, b: L.linalg.lstsq(a, b).solution, lambda s: [s.normal(2, 3, 4), s.normal(2, 3, 2)]
    ),
    # factorisations
    "cholesky": Call(lambda L, F, a: L.linalg.cholesky(a) + L.linalg.cholesky(a, upper=True).mT * 2, _definite),
    "cholesky, one triangle": Call(lambda L, F, a: L.linalg.cholesky(a + a.triu(1)), _definite),
    "cholesky, complex": Call(lambda L, F, a: _r(L, L.linalg.cholesky(_product(L, a))), _complex_regular),
    "cholesky, complex, upper": Call(
        lambda L, F, a: _r(L, L.linalg.cholesky(_product(L, a), upper=True)), _complex_regular
    ),
    "cholesky_ex": Call(lambda L, F, a: L.linalg.cholesky_ex(a).L, _definite),
    "qr": Call(lambda L, F, a: _flat(L, *_qr_parts(L, a)), _tall),
    "qr, wide": Call(lambda L, F, a: _flat(L, *_qr_parts(L, a)), _wide),
    "qr, complete": Call(lambda L, F, a: _flat(L, *_qr_parts(L, a, "complete")), _regular),
    "qr, complex": Call(
        lambda L, F, a: _flat(L, _r(L, _qr_parts(L, _c(L, a))[0]), _qr_parts(L, _c(L, a))[1]), _complex_tall
    ),
    "lu": Call(lambda L, F, a: _flat(L, *L.linalg.lu(a)[1:]) + L.linalg.lu(a).P.sum(), _regular),
    "lu, tall": Call(lambda L, F, a: _flat(L, *L.linalg.lu(a)[1:]), _tall),
    "lu, wide": Call(lambda L, F, a: _flat(L, *L.linalg.lu(a)[1:]), _wide),
    "lu, complex": Call(lambda L, F, a: _flat(L, *(_r(L, x) for x in L.linalg.lu(_c(L, a))[1:])), _complex_tall),
    "lu_factor, lu_solve": Call(
        lambda L, F, a, b: _flat(
            L,
            L.linalg.lu_solve(*L.linalg.lu_factor(a), b),
            L.linalg.lu_solve(*L.linalg.lu_factor(a), b.mT, left=False),
            L.linalg.lu_solve(*L.linalg.lu_factor(a), b, adjoint=True),
            L.lu_solve(b, *L.linalg.lu_factor(a)),
        ),
        lambda s: [s.normal(2, 3, 3), s.normal(2, 3, 2)],
    ),
    "householder_product": Call(
        lambda L, F, a, t: L.linalg.householder_product(a, t), lambda s: [s.normal(2, 4, 3), s.normal(2, 2)]
    ),
    # spectra
    "eigh": Call(lambda L, F, a: _flat(L, *_eigh_parts(L, a)), _symmetric),
    "eigh, other triangle": Call(lambda L, F, a: _flat(L, *_eigh_parts(L, a + a.tril(-1), UPLO="U")), _symmetric),
    "eigh, complex": Call(lambda L, F, a: _r(L, _eigh_parts(L, _c(L, a))[0]), _complex_definite),
    "eigvalsh": Call(lambda L, F, a: L.linalg.eigvalsh(a), _symmetric),
    "eigvalsh, complex": Call(lambda L, F, a: L.linalg.eigvalsh(_c(L, a)), _complex_definite),
    "svd": Call(lambda L, F, a: _flat(L, *_svd_parts(L, a)), _regular),
    "svd, tall": Call(lambda L, F, a: _flat(L, *_svd_parts(L, a)), _tall),
    "svd, wide": Call(lambda L, F, a: _flat(L, *_svd_parts(L, a)), _wide),
    "svd, complex": Call(lambda L, F, a: _r(L, _svd_parts(L, _c(L, a))[0]), _complex_tall),
    "svd, full": Call(lambda L, F, a: L.linalg.svd(a).S, _tall),
    "svd, top level": Call(lambda L, F, a: L.svd(a).U.abs() + L.svd(a).V.abs() * 2, _regular),
    "svdvals": Call(lambda L, F, a: L.linalg.svdvals(a), _wide),
    "svdvals, complex": Call(lambda L, F, a: L.linalg.svdvals(_c(L, a)), _complex_tall),
    "eig": Call(lambda L, F, a: _flat(L, *(_r(L, x) for x in _eig_parts(L, a))), lambda s: [s.normal(3, 3)]),
    "eig, complex": Call(lambda L, F, a: _flat(L, *(_r(L, x) for x in _eig_parts(L, _c(L, a)))), _complex_regular),
    "eigvals": Call(lambda L, F, a: _r(L, (L.linalg.eigvals(a) ** 3).sum(-1)), lambda s: [s.normal(3, 3)]),
    "pinv": Call(lambda L, F, a: L.linalg.pinv(a), _tall),
    "pinv, wide": Call(lambda L, F, a: L.linalg.pinv(a) + L.pinverse(a), _wide),
    "pinv, complex": Call(lambda L, F, a: _r(L, L.linalg.pinv(_c(L, a))), _complex_tall),
    "pinv, lower rank": Call(
        lambda L, F, a, b: L.linalg.pinv(a @ b, rtol=1e-8), lambda s: [s.normal(4, 2), s.normal(2, 3)]
    ),
    "matrix_rank": Call(
        lambda L, F, a, b: L.linalg.matrix_rank(a @ b).double() * a.sum(), lambda s: [s.normal(4, 2), s.normal(2, 3)]
    ),
    "cond": Call(
        lambda L, F, a: L.stack(
            [L.linalg.cond(a, p) for p in (None, 2, -2, "nuc")]
            + [
                L.linalg.cond(a.detach(), p) for p in (1, -1, math.inf, -math.inf, "fro")
            ]  # PyTorch 2.15 fails backwards
        ),
        _regular,
    ),
    # determinants
    "det": Call(lambda L, F, a: L.linalg.det(a) + L.det(a), lambda s: [s.normal(2, 3, 3)]),
    "det, singular": Call(lambda L, F, a: L.det(a[:, None] * a), lambda s: [np.array([1.0, 2.0])]),
    "det, complex": Call(lambda L, F, a: _r(L, L.linalg.det(_c(L, a))), lambda s: [s.normal(3, 3, 2)]),
    "slogdet": Call(lambda L, F, a: L.stack(list(L.linalg.slogdet(a))), lambda s: [s.normal(2, 3, 3)]),
    "slogdet, complex": Call(
        lambda L, F, a: _r(L, L.slogdet(_c(L, a))[0]) + L.slogdet(_c(L, a))[1], lambda s: [s.normal(3, 3, 2)]
    ),
    "logdet": Call(lambda L, F, a: L.logdet(a), _definite),
    # norms
    **{
        f"vector_norm, {p}": Call(
            lambda L, F, a, p=p: _flat(
                L,
                L.linalg.vector_norm(a, p),
                L.linalg.vector_norm(a, p, dim=(0, -1), keepdim=True),
                L.linalg.norm(a, p, dim=1),
            ),
            lambda s: [s.distinct(2, 3, 2)],
        )
        for p in (2, 1, 3, 1.5, 0.5, 0, -1, math.inf, -math.inf)
    },
    **{
        f"matrix_norm, {p}": Call(
            lambda L, F, a, p=p: _flat(
                L,
                L.linalg.matrix_norm(a, p),
                L.linalg.matrix_norm(a, p, dim=(0, 1), keepdim=True),
                L.linalg.norm(a[0], p),
            ),
            lambda s: [s.distinct(3, 2, 4)],
        )
        for p in ("fro", "nuc", 2, -2, 1, -1, math.inf, -math.inf)
    },
    "norm": Call(lambda L, F, a: L.linalg.norm(a) + L.linalg.norm(a, dim=0).sum(), lambda s: [s.distinct(2, 3, 2)]),
    "norms at 0": Call(
        lambda L, F, a: L.stack([L.linalg.vector_norm(a * 0.0, p) for p in (2, 1, 3, math.inf)]),
        lambda s: [s.normal(3)],
    ),
    "norm of equals": Call(lambda L, F, a: L.linalg.vector_norm(a * 0.0 + 2.0, math.inf), lambda s: [s.normal(3)]),
    "norm, complex": Call(
        lambda L, F, a: L.linalg.vector_norm(_c(L, a), 3) + L.linalg.norm(_c(L, a)) + L.linalg.matrix_norm(_c(L, a), 1),
        _pairs,
    ),
    # powers and products
    "matrix_power": Call(
        lambda L, F, a: _flat(L, *(L.linalg.matrix_power(a, n) for n in (0, 1, 2, 5, -1, -3))), _regular
    ),
    "matrix_exp": Call(
        lambda L, F, a: L.matrix_exp(a) + L.linalg.matrix_exp(a * 5) * 1e-3, lambda s: [s.normal(2, 3, 3)]
    ),
    "matrix_exp, complex": Call(lambda L, F, a: _r(L, L.matrix_exp(_c(L, a))), lambda s: [s.normal(3, 3, 2)]),
    "multi_dot": Call(
        lambda L, F, a, b, c: (
            L.linalg.multi_dot([a, b, c]) + L.chain_matmul(a, b, c) + L.linalg.multi_dot([a[0], b, c])
        ),
        lambda s: [s.normal(2, 3), s.normal(3, 4), s.normal(4, 2)],
    ),
    "cross": Call(
        lambda L, F, a, b: L.linalg.cross(a, b[None]) + L.cross(a.mT, b.expand(2, 3).mT).mT,
        lambda s: [s.normal(2, 3), s.normal(3)],
    ),
    "vander": Call(
        lambda L, F, a: _flat(L, L.linalg.vander(a), L.linalg.vander(a, N=5), L.vander(a[0].detach())),
        lambda s: [s.normal(2, 3)],
    ),
    "vecdot": Call(
        lambda L, F, a, b: _r(L, L.linalg.vecdot(_c(L, a), _c(L, b))), lambda s: [s.normal(3, 4, 2), s.normal(4, 2)]
    ),
    "trace": Call(lambda L, F, a: L.trace(a) * a.sum(), lambda s: [s.normal(3, 4)]),
    # complex numbers
    "complex, parts": Call(
        lambda L, F, a, b: _flat(
            L, (L.complex(a, b) * L.complex(b, a)).imag, L.real(L.complex(a, b) ** 2), L.complex(a, b).conj().imag
        ),
        lambda s: [s.normal(3), s.normal(3)],
    ),
    "polar": Call(lambda L, F, a, b: _r(L, L.polar(a, b)), lambda s: [s.positive(3), s.normal(3)]),
    "angle": Call(lambda L, F, a: L.angle(_c(L, a)) + L.angle(a[..., 0]), _pairs),
    "abs, complex": Call(lambda L, F, a: _c(L, a).abs() + _c(L, a * 0.0).abs(), _pairs),
    "sgn": Call(lambda L, F, a: _r(L, L.sgn(_c(L, a))) + L.sgn(a), _pairs),
    "mul, complex": Call(lambda L, F, a, b: _r(L, _c(L, a) * _c(L, b) * (1 + 2j)), _two_pairs),
    "div, complex": Call(lambda L, F, a, b: _r(L, _c(L, a) / _c(L, b) - 1j / _c(L, b)), _two_pairs),
    "add, sub, neg, complex": Call(lambda L, F, a, b: _r(L, -(_c(L, a) + _c(L, b)) - (2j - _c(L, b))), _two_pairs),
    "real times complex": Call(
        lambda L, F, a, b: _r(L, a * _c(L, b) + a + _c(L, b) / (a + 5.0)), lambda s: [s.normal(3, 4), s.normal(4, 2)]
    ),
    "matmul, complex": Call(
        lambda L, F, a, b: _r(L, _c(L, a) @ _c(L, b)), lambda s: [s.normal(2, 3, 4, 2), s.normal(4, 2, 2)]
    ),
    "matmul, real and complex": Call(
        lambda L, F, a, b: _r(L, a.to(L.complex128) @ _c(L, b)), lambda s: [s.normal(3, 4), s.normal(4, 2, 2)]
    ),
    "shapes, complex": Call(
        lambda L, F, a: _r(L, L.cat([_c(L, a).reshape(4, 3).mT[1:], _c(L, a)[:, 1:3].repeat(1, 2)])), _pairs
    ),
    "sum, mean, complex": Call(lambda L, F, a: _r(L, _c(L, a).sum(0) * _c(L, a).mean()), _pairs),
    "exp, log, complex": Call(
        lambda L, F, a: _r(L, L.exp(_c(L, a) * 0.3) + L.log(_c(L, a)) + L.sqrt(_c(L, a)) + L.sin(_c(L, a))), _pairs
    ),
    "pow, complex": Call(lambda L, F, a: _r(L, _c(L, a) ** 3 + _c(L, a) ** -1), _pairs),
    "casts": Call(lambda L, F, a: _c(L, a).real.to(L.complex128).imag + a.to(L.complex128).real[..., 0], _pairs),
    # Fourier transforms
    **{
        f"fft, {norm}": Call(
            lambda L, F, a, norm=norm: _flat(
                L,
                *(
                    _r(L, z)
                    for z in (
                        L.fft.fft(_c(L, a), norm=norm),
                        L.fft.ifft(_c(L, a), 6, 0, norm),
                        L.fft.fft2(_c(L, a), norm=norm),
                        L.fft.ifft2(_c(L, a), (2, 3), norm=norm),
                        L.fft.fftn(a, norm=norm),
                        L.fft.ifftn(a, (2, 3), norm=norm),
                    )
                ),
            ),
            _pairs,
        )
        for norm in ("backward", "ortho", "forward")
    },
    **{
        f"rfft, {norm}": Call(
            lambda L, F, a, norm=norm: _flat(
                L,
                *(
                    _r(L, z)
                    for z in (
                        L.fft.rfft(a, norm=norm),
                        L.fft.rfft(a, 5, norm=norm),
                        L.fft.rfft(a, 4, 0, norm),
                        L.fft.ihfft(a, norm=norm),
                        L.fft.rfft2(a, norm=norm),
                        L.fft.rfftn(a, (2, 5), norm=norm),
                    )
                ),
            ),
            _signal,
        )
        for norm in ("backward", "ortho", "forward")
    },
    **{
        f"irfft, {norm}": Call(
            lambda L, F, a, norm=norm: _flat(
                L,
                L.fft.irfft(_c(L, a), norm=norm),
                L.fft.irfft(_c(L, a), 5, norm=norm),
                L.fft.irfft(_c(L, a), 9, norm=norm),
                L.fft.irfft(_c(L, a), 3, 0, norm),
                L.fft.hfft(_c(L, a), norm=norm),
                L.fft.irfft2(_c(L, a), norm=norm),
                L.fft.irfftn(_c(L, a), (3, 5), norm=norm),
            ),
            _pairs,
        )
        for norm in ("backward", "ortho", "forward")
    },
    "hfft2": Call(
        lambda L, F, a: _flat(
            L,
            L.fft.hfft2(_c(L, a)),
            L.fft.hfftn(_c(L, a), (2, 5)),
            _r(L, L.fft.ihfft2(a[..., 0])),
            _r(L, L.fft.ihfftn(a[..., 0], norm="ortho")),
        ),
        _pairs,
    ),
    "fft of real": Call(lambda L, F, a: L.fft.fft(a).abs() + L.fft.fft(a).angle(), _signal),
    "fftshift": Call(
        lambda L, F, a: _flat(
            L, L.fft.fftshift(a), L.fft.ifftshift(a), L.fft.fftshift(a[:, :5], 1), L.fft.ifftshift(a[:, :5], (0, 1))
        ),
        _signal,
    ),
    "stft": Call(
        lambda L, F, a: _flat(
            L,
            _r(L, L.stft(a, 8, return_complex=True)),
            L.stft(a[0], 6, 3, 5, L.hann_window(5, dtype=a.dtype), normalized=True, return_complex=False),
            _r(L, L.stft(a, 8, center=False, onesided=False, return_complex=True)),
            _r(L, a.stft(8, 4, pad_mode="constant", window=L.kaiser_window(8, dtype=a.dtype), return_complex=True)),
        ),
        lambda s: [s.normal(2, 20)],
    ),
    "istft": Call(
        lambda L, F, a: _flat(
            L,
            L.istft(_c(L, a), 8, window=L.hamming_window(8, dtype=a.dtype)),
            L.istft(_c(L, a)[0], 8, 4, 6, L.hann_window(6, dtype=a.dtype), normalized=True, length=13),
            L.istft(_c(L, a)[:, :4], 4, 2, center=False, onesided=False),
            _r(L, L.istft(_c(L, a)[:, :4], 4, 2, return_complex=True)) * 1.0,
        ),
        lambda s: [s.normal(2, 5, 6, 2)],
    ),
    "windows": Call(
        lambda L, F, a: (
            _flat(
                L,
                *(w(n, dtype=a.dtype) for w in _windows(L) for n in (0, 1, 5, 6)),
                *(w(n, False, dtype=a.dtype) for w in _windows(L) for n in (1, 5, 6)),
                *(getattr(L.signal.windows, w)(7, sym=y, dtype=a.dtype) for w in _NAMED for y in (True, False)),
            )
            * a.sum()
        ),
        lambda s: [s.normal(2)],
    ),
    "matrix_sqrth": Call(lambda L, F, a: L.linalg.matrix_sqrth(a), _definite),
    "diagonal": Call(lambda L, F, a: L.linalg.diagonal(a, offset=1) * 2.0, _regular),
    "geqrf, ormqr": Call(
        lambda L, F, a, b: _flat(
            L,
            L.ormqr(*L.geqrf(a.detach()), b),
            L.ormqr(a, b[..., 0, :], b.mT, left=False, transpose=True),
            L.orgqr(a, b[..., 0, :2]),
        ),
        lambda s: [s.normal(2, 4, 3), s.normal(2, 4, 3)],
    ),
    "fftfreq": Call(
        lambda L, F, a: _flat(L, L.fft.fftfreq(5, 0.5, dtype=L.float64), L.fft.rfftfreq(6, dtype=L.float64)) * a.sum(),
        _signal,
    ),
}


def run(name: str, library: Any, make: Any, dtype: Any = np.float64) -> tuple[Any, list[Any]]:
    """See `calls.run`."""
    call = CALLS[name]
    inputs = [make(np.asarray(array, dtype), True) for array in call.make(Sampler(3))]
    out = call.call(library, library.nn.functional, *inputs)
    if out.requires_grad:
        out.backward(make(BASE["output_weights"](tuple(out.shape)).astype(dtype), False))
    return out, inputs
