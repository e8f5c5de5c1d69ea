"""Makes the bundled copy of scikit-learn's handwritten digits: `python tests/golden/make_digits.py`.

Pixels are whole numbers from 0 to 16 and labels from 0 to 9, so bytes hold them exactly. The zip entries carry a fixed
date, so that the file is the same whenever it is made.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

TARGET = Path(__file__).parents[2] / "trainer" / "cordee" / "trainer" / "data" / "digits.npz"


def main() -> None:
    bunch = load_digits()
    arrays = {"images": bunch.images.astype(np.uint8), "labels": bunch.target.astype(np.uint8)}
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, array, allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), stream.getvalue(), zipfile.ZIP_DEFLATED, 9
            )
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
