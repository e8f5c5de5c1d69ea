"""Small real data sets that come with the package: nothing is downloaded.

`digits` is the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49, licence CC BY 4.0), as scikit-learn's `load_digits` has it: 1,797
images of 8 × 8 pixels, grey values from 0 to 16. `tests/golden/make_digits.py` makes the file.
"""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray

__all__ = ["digits"]


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Handwritten digits: images of shape `(1797, 8, 8)`, grey values from 0 to 16, and labels of shape `(1797,)`.

    The samples are ordered by writer, so the last part of them tests on people that the first part does not know.
    """
    with (
        resources.files("cordee.trainer.data").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return arrays["images"].astype(np.float32), arrays["labels"].astype(np.int64)
