"""Linear algebra, as in `torch.linalg`: factorisations, solves, determinants, spectra, norms, all with gradients."""

from cordee.trainer.errors import LinAlgError
from cordee.trainer.ops.linalg.determinants import SlogdetResult, det, slogdet
from cordee.trainer.ops.linalg.elimination import (
    LUFactorExResult,
    LUFactorResult,
    LUResult,
    lu,
    lu_factor,
    lu_factor_ex,
    lu_solve,
)
from cordee.trainer.ops.linalg.factorisations import (
    CholeskyResult,
    QRResult,
    cholesky,
    cholesky_ex,
    householder_product,
    qr,
)
from cordee.trainer.ops.linalg.norms import matrix_norm, norm, vector_norm
from cordee.trainer.ops.linalg.products import cross, diagonal, matrix_exp, matrix_power, multi_dot, vander, vecdot
from cordee.trainer.ops.linalg.pseudo import LstsqResult, cond, lstsq, matrix_rank, pinv
from cordee.trainer.ops.linalg.solves import (
    InvResult,
    SolveResult,
    inv,
    inv_ex,
    solve,
    solve_ex,
    solve_triangular,
    tensorinv,
    tensorsolve,
)
from cordee.trainer.ops.linalg.spectral import (
    EighResult,
    EigResult,
    SVDResult,
    eig,
    eigh,
    eigvals,
    eigvalsh,
    matrix_sqrth,
    svd,
    svdvals,
)
from cordee.trainer.ops.products import matmul

__all__ = [
    "CholeskyResult", "EigResult", "EighResult", "InvResult", "LUFactorExResult", "LUFactorResult", "LUResult",
    "LinAlgError", "LstsqResult", "QRResult", "SVDResult", "SlogdetResult", "SolveResult", "cholesky",
    "cholesky_ex", "cond", "cross", "det", "diagonal", "eig", "eigh", "eigvals", "eigvalsh", "householder_product",
    "inv", "inv_ex", "lstsq", "lu", "lu_factor", "lu_factor_ex", "lu_solve", "matmul", "matrix_exp", "matrix_norm",
    "matrix_power", "matrix_rank", "matrix_sqrth", "multi_dot", "norm", "pinv", "qr", "slogdet", "solve",
    "solve_ex", "solve_triangular", "svd", "svdvals", "tensorinv", "tensorsolve", "vander", "vecdot", "vector_norm",
]  # fmt: skip
