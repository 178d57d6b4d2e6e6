"""What the estimator refuses, and what it takes although it is degenerate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from sombrero.errors import NumericalError, UsageError
from sombrero.som import SelfOrganizingMap, fit_layers
from sombrero.som.training import INITIALIZATIONS
from tests.som.samples import isotropic

WRONG_SETTINGS = [
    {"n_rows": 0},
    {"n_rows": -2},
    {"n_columns": 2.5},
    {"lattice": "cube"},
    {"rule": "annealed"},
    {"neighbourhood": "sombrero"},
    {"initialization": "zeros"},
    {"sigma": 0.0},
    {"sigma": float("nan")},
    {"sigma": float("inf")},
    {"learning_rate": -0.1},
    {"learning_rate": 1.5},
    {"n_steps": 0},
    {"device": "abacus"},
    {"n_rows": 3, "toroidal": True},
    {"neighbourhood": "mexican_hat", "rule": "batch"},
]


@pytest.mark.parametrize("wrong", WRONG_SETTINGS, ids=str)
def test_settings_out_of_range_are_refused_by_fit_alone(wrong: dict[str, object]) -> None:
    som = SelfOrganizingMap(**wrong)  # type: ignore[arg-type]
    for fit in (som.fit, som.partial_fit):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            fit(isotropic(40, 3, seed=0))
    assert not hasattr(som, "codebook_")


def test_why_the_mexican_hat_needs_the_online_rule() -> None:
    with pytest.raises(UsageError, match=r"negative weights .* rule='online'"):
        fit_layers(torch.zeros(20, 1, 3), neighbourhood="mexican_hat")


@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_predict"])
def test_fewer_samples_than_units_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match="n_samples=15 is fewer than the 16 units"):
        getattr(SelfOrganizingMap(), method)(isotropic(15, 3, seed=0))
    assert SelfOrganizingMap().fit(isotropic(16, 3, seed=0)).quantization_error_ < 1e-5


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "transform", "score"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(bad: float, method: str, as_tensor: bool) -> None:
    samples = isotropic(40, 3, seed=0)
    som = SelfOrganizingMap(random_state=0).fit(samples)
    before = som.codebook_.copy()
    samples[7, 1] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        getattr(som, method)(torch.from_numpy(samples) if as_tensor else samples)
    assert np.array_equal(som.codebook_, before)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("method", ["partial_fit", "predict", "transform", "score"])
def test_another_number_of_features_is_refused(method: str, as_tensor: bool) -> None:
    som = SelfOrganizingMap(2, 2).fit(isotropic(40, 3, seed=0))
    other = isotropic(40, 4, seed=0)
    with pytest.raises(ValueError, match="4 features, but SelfOrganizingMap is expecting 3 features"):
        getattr(som, method)(torch.from_numpy(other) if as_tensor else other)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("method", ["predict", "transform", "score"])
def test_an_unfitted_map_cannot_be_used(method: str, as_tensor: bool) -> None:
    samples = isotropic(40, 3, seed=0)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(SelfOrganizingMap(), method)(torch.from_numpy(samples) if as_tensor else samples)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(40), torch.zeros(4, 5, 6), torch.zeros(0, 3), torch.zeros(40, 0), torch.zeros(40, 3).cfloat()]
)
def test_tensors_that_hold_no_samples_are_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"Expected 2D|Found 0|Complex data not supported"):
        SelfOrganizingMap(2, 2).fit(wrong)


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
@pytest.mark.parametrize(
    ("rule", "neighbourhood"),
    [
        ("batch", "gaussian"),
        ("batch", "bubble"),
        ("online", "gaussian"),
        ("online", "bubble"),
        ("online", "mexican_hat"),
    ],
)
@pytest.mark.parametrize("shape", [(40, 90), (90, 5), (700, 70)])
def test_constant_and_duplicate_samples_are_mapped(
    shape: tuple[int, int], rule: str, neighbourhood: str, initialization: str
) -> None:
    som = SelfOrganizingMap(
        3, 3, rule=rule, neighbourhood=neighbourhood, initialization=initialization, n_steps=200, random_state=0
    )
    constant = np.full(shape, 7.25, dtype=np.float32)
    som.fit(constant)
    np.testing.assert_allclose(som.codebook_, 7.25, rtol=1e-5)
    assert som.hit_counts_.sum() == shape[0] and som.score(constant) == pytest.approx(0.0, abs=1e-3)
    few = isotropic(3, shape[1], seed=1)
    som.fit(few[np.arange(shape[0]) % 3])
    assert np.isfinite(som.codebook_).all() and som.hit_counts_.sum() == shape[0]
    if rule == "batch":
        assert som.quantization_error_ < 1e-3  # three values, nine units


def test_overflow_is_an_error_and_not_a_map() -> None:
    huge = isotropic(40, 30, seed=0) * np.float32(1e30)
    with pytest.raises(ValueError, match="overflow"):
        SelfOrganizingMap(2, 2).fit(huge)
    assert np.isfinite(SelfOrganizingMap(2, 2).fit(huge.astype(np.float64)).codebook_).all()
    with pytest.raises(NumericalError, match=r"layer 1 holds NaN or infinity, or overflows"):
        fit_layers(torch.from_numpy(np.stack([huge * 1e-30, huge], axis=1)), n_rows=2, n_columns=2)


def test_a_mexican_hat_that_pushes_units_away_for_ever_is_an_error() -> None:
    samples = isotropic(60, 5, seed=0)
    settings = {"rule": "online", "neighbourhood": "mexican_hat", "sigma": 2.0, "learning_rate": 1.0}
    with pytest.raises(ValueError, match="lower sigma, learning_rate or n_steps"):
        SelfOrganizingMap(6, 6, n_steps=30_000, random_state=0, **settings).fit(samples)  # type: ignore[arg-type]
