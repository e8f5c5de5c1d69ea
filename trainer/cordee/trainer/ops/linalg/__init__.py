"""Linear algebra: factorisations, solves, determinants, spectra, norms. `cordee.trainer.linalg` is their public place.

What PyTorch also has at its top level (`det`, `inverse`, `cholesky` …) is in `aliases`, with its signatures there.
"""

from cordee.trainer.ops.linalg.aliases import *
from cordee.trainer.ops.linalg.aliases import __all__ as __all__
