"""The estimator keeps scikit-learn's contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from sombrero.som import SelfOrganizingMap
from tests.som.samples import clustered, isotropic


@parametrize_with_checks(
    [SelfOrganizingMap(2, 2), SelfOrganizingMap(2, 2, rule="online", n_steps=20, lattice="rectangular")]
)
def test_sklearn_contract(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    """No failure is expected of four units. The default 16 are more than some checks have samples or blobs."""
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_rows": 0},
        {"n_columns": 2.5},
        {"lattice": "cube"},
        {"rule": "annealed"},
        {"sigma": 0.0},
        {"learning_rate": -0.1},
        {"n_steps": 0},
    ],
)
def test_settings_out_of_range_are_refused_by_fit_alone(wrong: dict[str, object]) -> None:
    som = SelfOrganizingMap(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        som.fit(isotropic(40, 3, seed=0))


def test_too_few_samples_and_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="n_samples=15 is fewer than the 16 units"):
        SelfOrganizingMap().fit(isotropic(15, 3, seed=0))
    samples = isotropic(40, 3, seed=0)
    samples[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        SelfOrganizingMap().fit(samples)
