"""The estimator keeps scikit-learn's contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sombrero.som import SelfOrganizingMap
from sombrero.som.training import INITIALIZATIONS
from tests.som.samples import clustered, isotropic

CHECKED = [
    *(SelfOrganizingMap(2, 2, initialization=name) for name in INITIALIZATIONS),
    *(SelfOrganizingMap(2, 2, rule="online", n_steps=20, initialization=name) for name in INITIALIZATIONS),
    SelfOrganizingMap(2, 2, neighbourhood="bubble", lattice="rectangular", toroidal=True, device="cpu"),
    SelfOrganizingMap(2, 2, rule="online", n_steps=20, neighbourhood="bubble", toroidal=True),
    SelfOrganizingMap(2, 2, rule="online", n_steps=20, neighbourhood="mexican_hat", lattice="rectangular"),
    SelfOrganizingMap(1, 1),
    SelfOrganizingMap(),
]


ONE_UNIT = {"check_clustering": "asks for three blobs to be told apart; one unit has one label"}
SIXTEEN_UNITS = {
    "check_clustering": "compares labels with three blobs; sixteen units divide each blob",
    "check_n_features_in_after_fitting": "fits 15 samples; a map needs as many samples as units",
    "check_estimators_nan_inf": "fits 10 samples; a map needs as many samples as units",
    "check_fit2d_1feature": "fits 10 samples; a map needs as many samples as units",
}


def expected_failures(estimator: SelfOrganizingMap) -> dict[str, str]:
    return {1: ONE_UNIT, 4: {}, 16: SIXTEEN_UNITS}[estimator.n_rows * estimator.n_columns]


@parametrize_with_checks(CHECKED, expected_failed_checks=expected_failures)
def test_sklearn_contract(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    """Four units pass every check."""
    check(estimator)


@pytest.mark.parametrize("rule", ["batch", "online"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fitted_attributes_agree(rule: str, dtype: type) -> None:
    samples = clustered(100, 30, seed=0)[0].astype(dtype)
    som = SelfOrganizingMap(3, 4, rule=rule, n_steps=400, random_state=0)
    labels = som.fit_predict(samples)
    assert som.codebook_.shape == (12, 30) and som.codebook_.dtype == dtype
    assert (labels == som.labels_).all() and (labels == som.predict(samples)).all()
    distance = som.transform(samples)
    assert distance.shape == (100, 12) and distance.dtype == dtype
    assert (distance.argmin(axis=1) == labels).all()
    assert som.quantization_error_ == pytest.approx(distance.min(axis=1).mean(), rel=1e-5)
    assert (som.hit_counts_ == np.bincount(labels, minlength=12)).all()
    assert 0.0 <= som.topographic_error_ <= 1.0
    assert len(som.get_feature_names_out()) == 12
    assert som.score(samples) == pytest.approx(-som.quantization_error_, rel=1e-5)


def test_a_better_map_has_a_higher_score() -> None:
    samples = clustered(200, 20, seed=0)[0]
    train, held_out = samples[:100], samples[100:]
    assert SelfOrganizingMap(4, 4, random_state=0).fit(train).score(held_out) > SelfOrganizingMap(1, 1).fit(
        train
    ).score(held_out)


def test_a_pipeline_and_a_search_take_it() -> None:
    samples = clustered(120, 20, seed=0)[0]
    pipeline = make_pipeline(StandardScaler(), SelfOrganizingMap(2, 2, random_state=0)).set_output(transform="pandas")
    frame = pipeline.fit_transform(samples)
    assert list(frame.columns) == [f"selforganizingmap{unit}" for unit in range(4)] and frame.shape == (120, 4)
    search = GridSearchCV(SelfOrganizingMap(random_state=0), {"n_rows": [1, 4]}, cv=2).fit(samples)
    assert search.best_params_ == {"n_rows": 4}


@pytest.mark.parametrize("rule", ["batch", "online"])
def test_an_integer_seed_makes_it_repeatable(rule: str) -> None:
    samples = isotropic(80, 120, seed=0)
    som = SelfOrganizingMap(3, 3, rule=rule, n_steps=300, random_state=4)
    assert np.array_equal(som.fit(samples).codebook_, clone(som).fit(samples).codebook_)


def test_partial_fit_continues_one_schedule() -> None:
    samples = isotropic(90, 10, seed=1)
    at_once = SelfOrganizingMap(2, 2, n_steps=90, random_state=0)
    at_once.partial_fit(samples[:30]).partial_fit(samples[30:60]).partial_fit(samples[60:])
    in_two = SelfOrganizingMap(2, 2, n_steps=90, random_state=0).partial_fit(samples[:30]).partial_fit(samples[30:])
    np.testing.assert_allclose(at_once.codebook_, in_two.codebook_, rtol=1e-6)
    assert at_once.n_steps_seen_ == in_two.n_steps_seen_ == 90


@pytest.mark.parametrize("fitted_first", [False, True])
def test_partial_fit_of_one_unit_is_the_mean_of_all_samples_seen(fitted_first: bool) -> None:
    samples = isotropic(90, 10, seed=1).astype(np.float64)
    som = SelfOrganizingMap(1, 1)
    som = som.fit(samples[:40]) if fitted_first else som.partial_fit(samples[:40])
    np.testing.assert_allclose(som.partial_fit(samples[40:]).codebook_[0], samples.mean(axis=0), atol=1e-12)


def test_partial_fit_lowers_the_error_of_new_samples() -> None:
    old, new = clustered(200, 20, seed=0)[0], 5 + clustered(200, 20, seed=1)[0]
    som = SelfOrganizingMap(random_state=0, learning_rate=0.3).fit(old)
    before = som.transform(new).min(axis=1).mean()
    for _ in range(5):
        som.partial_fit(new)
    assert som.quantization_error_ < before
