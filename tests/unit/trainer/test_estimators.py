"""The estimators pass scikit-learn's own checks, and do what they are for in its pipelines and searches."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from cordee.trainer import data, nn
from cordee.trainer.estimators import Classifier, Regressor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_scikit_learns_own_checks_pass(kind: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks provoke some of scikit-learn's
        results = check_estimator(kind(epochs=12, hidden=(32,)), on_fail=None)
    failed = [(result["check_name"], result["exception"]) for result in results if result["status"] == "failed"]
    assert not failed
    assert sum(result["status"] == "passed" for result in results) >= 50


def test_a_classifier_in_a_pipeline_learns_the_digits() -> None:
    images, labels = data.datasets.digits()
    x = images.reshape(len(images), -1)
    scores = cross_val_score(make_pipeline(StandardScaler(), Classifier(epochs=10)), x, labels, cv=3)
    assert scores.mean() > 0.9


def test_a_grid_search_tries_parameters() -> None:
    images, labels = data.datasets.digits()
    x = images.reshape(len(images), -1)[:300] / 16
    search = GridSearchCV(Classifier(epochs=5), {"hidden": [(8,), (32, 16)], "lr": [1e-3, 1e-2]}, cv=2)
    search.fit(x, labels[:300])
    assert search.best_params_["lr"] == 1e-2


def test_labels_of_any_kind_and_probabilities_that_add_up() -> None:
    x = np.repeat([[0.0, 1.0], [1.0, 0.0]], 20, 0)
    model = Classifier(nn.Linear, epochs=30).fit(x, np.repeat(["yes", "no"], 20))
    assert model.predict([[0.0, 1.0]]) == ["yes"]
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1.0)
    assert model.n_iter_ == len(model.loss_curve_) == 30


def test_a_regressor_with_early_stopping() -> None:
    x, y = load_diabetes(return_X_y=True)
    model = Regressor(hidden=(16,), epochs=200, early_stopping=True, patience=5).fit(x, y)
    assert model.n_iter_ < 200
    assert model.score(x, y) > 0.4
    both = Regressor(epochs=2).fit(x, np.stack([y, -y], 1))
    assert both.predict(x).shape == (len(x), 2)


def test_the_same_random_state_gives_the_same_model_and_leaves_the_global_one_alone() -> None:
    from cordee.trainer import random

    x, y = load_diabetes(return_X_y=True)
    before = random.get_state()
    first, second = (Regressor(epochs=2, random_state=7).fit(x, y).predict(x) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert random.get_state() == before
