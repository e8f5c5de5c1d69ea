"""The bundled digits are scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from cordee.trainer.data import datasets


def test_digits_are_scikit_learns() -> None:
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    images, labels = datasets.digits()
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    assert np.array_equal(images, bunch.images)
    assert np.array_equal(labels, bunch.target)


def test_digits_need_no_scikit_learn() -> None:
    images, labels = datasets.digits()
    assert images.shape == (1797, 8, 8)
    assert (images.min(), images.max()) == (0, 16)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
