"""The online rule: its equations, and MiniSom's trajectory, for every neighbourhood, in features and in rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sombrero.som import Lattice, SelfOrganizingMap, fit_layers
from sombrero.som.online import online_in_features, online_in_rows, online_schedule
from sombrero.som.spaces import gram_matrix
from sombrero.som.training import Training
from tests.som.samples import clustered, isotropic, one_hot

LATTICES = ["hexagonal", "rectangular"]


def written_out(
    samples: NDArray[np.float64], units: NDArray[np.float64], order: list[int], training: Training
) -> NDArray[np.float64]:
    """The online rule of DESIGN section 2, one line per equation."""
    units, lattice, steps = units.copy(), training.lattice, training.n_steps
    for t, i in enumerate(order):
        b = np.linalg.norm(samples[i] - units, axis=1).argmin()
        a = training.learning_rate / (1 + 2 * t / steps)
        sigma = training.sigma / (1 + 2 * t / steps)
        p = lattice.squared_distances[b]
        g = {
            "gaussian": np.exp(-p / (2 * sigma**2)),
            "mexican_hat": (1 - p / sigma**2) * np.exp(-p / (2 * sigma**2)),
            "bubble": 1.0 * (lattice.steps[b] < sigma),
        }[training.neighbourhood]
        units += a * g[:, None] * (samples[i] - units)
    return units


@pytest.mark.parametrize("toroidal", [False, True])
@pytest.mark.parametrize("lattice", LATTICES)
@pytest.mark.parametrize(
    ("neighbourhood", "sigma", "rate"),
    [("gaussian", 0.3, 0.01), ("gaussian", 1.5, 0.5), ("bubble", 2.0, 0.3), ("mexican_hat", 0.9, 0.05)],
)
def test_the_equations_are_followed(
    neighbourhood: str, sigma: float, rate: float, lattice: str, toroidal: bool
) -> None:
    training = Training(Lattice(4, 3, lattice, toroidal), "online", sigma, rate, 600, neighbourhood)
    samples = isotropic(40, 60, seed=3).astype(np.float64)
    samples -= samples.mean(axis=0)
    random = np.random.RandomState(0)
    start, order = random.permutation(40)[:12], random.randint(40, size=600)
    expected = written_out(samples, samples[start], order.tolist(), training)
    schedule, layer = online_schedule(training, np.arange(600)), torch.from_numpy(samples)
    features = online_in_features(layer[None], layer[None, start], order, schedule, training)[0]
    weights = online_in_rows(gram_matrix(layer).double()[None], one_hot(start, 40), order, schedule, training)[0]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(features / scale, expected / scale, atol=1e-10)
    np.testing.assert_allclose(weights @ layer / scale, expected / scale, atol=1e-10)


@pytest.mark.parametrize(
    ("neighbourhood", "sigma", "rate", "lattice"),
    [
        ("gaussian", 0.3, 0.01, "hexagonal"),
        ("gaussian", 0.3, 0.01, "rectangular"),
        ("gaussian", 1.5, 0.5, "hexagonal"),
        ("mexican_hat", 0.3, 0.01, "hexagonal"),
        ("mexican_hat", 0.3, 0.01, "rectangular"),
        ("mexican_hat", 1.2, 0.02, "hexagonal"),
        ("bubble", 3.0, 0.1, "rectangular"),
        ("bubble", 1.0, 0.1, "rectangular"),
        ("bubble", 1.0, 0.1, "hexagonal"),  # beyond sigma 1 MiniSom's is a square of units on this lattice too
    ],
)
def test_the_trajectory_is_that_of_minisom(neighbourhood: str, sigma: float, rate: float, lattice: str) -> None:
    minisom = pytest.importorskip("minisom")
    samples, steps = clustered(120, 200, seed=1)[0], 2_000
    theirs = minisom.MiniSom(
        4, 3, 200, sigma=sigma, learning_rate=rate, topology=lattice, neighborhood_function=neighbourhood
    )
    start = np.random.RandomState(5).permutation(120)[:12]  # distinct: MiniSom breaks ties column by column
    units = samples[start].astype(np.float64)
    theirs._weights = units.reshape(3, 4, 200).transpose(1, 0, 2).copy()  # MiniSom counts columns first
    order = np.random.RandomState(2).permutation(np.arange(steps) % 120)
    training = Training(Lattice(3, 4, lattice), "online", sigma, rate, steps, neighbourhood)
    schedule = online_schedule(training, np.arange(steps))
    layer = torch.from_numpy(samples)
    features = online_in_features(layer[None], torch.from_numpy(units)[None], order, schedule, training)[0]
    weights = online_in_rows(gram_matrix(layer).double()[None], one_hot(start, 120), order, schedule, training)[0]
    for t, i in enumerate(order):
        theirs.update(samples[i], theirs.winner(samples[i]), t, steps)
    expected = theirs.get_weights().transpose(1, 0, 2).reshape(12, 200)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(features / scale, expected / scale, atol=1e-5)
    np.testing.assert_allclose(weights @ layer.double() / scale, expected / scale, atol=1e-5)


@pytest.mark.parametrize("neighbourhood", ["gaussian", "bubble", "mexican_hat"])
def test_the_estimator_follows_minisom_sample_by_sample(neighbourhood: str) -> None:
    minisom = pytest.importorskip("minisom")
    samples = clustered(400, 30, seed=2)[0].astype(np.float64)
    theirs = minisom.MiniSom(
        4, 4, 30, sigma=1.0, learning_rate=0.05, topology="rectangular", neighborhood_function=neighbourhood
    )
    ours = SelfOrganizingMap(
        4, 4, lattice="rectangular", rule="online", neighbourhood=neighbourhood, sigma=1.0, learning_rate=0.05,
        n_steps=400, random_state=0,
    )  # fmt: skip
    ours.partial_fit(samples[:50])
    theirs._weights = ours.codebook_.reshape(4, 4, 30).transpose(1, 0, 2).copy()
    ours.partial_fit(samples[50:])
    for t, sample in enumerate(samples[50:], start=50):
        theirs.update(sample, theirs.winner(sample), t, 400)
    np.testing.assert_allclose(ours.codebook_, theirs.get_weights().transpose(1, 0, 2).reshape(16, 30), atol=1e-5)


def test_rows_and_features_are_chosen_by_cost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.from_numpy(clustered(60, 100, seed=0)[0])[:, None]
    in_rows = fit_layers(hidden, rule="online", n_steps=500)
    monkeypatch.setattr("sombrero.som.training.LARGEST_SUBSET", 20)  # more samples than that are mapped in features
    in_features = fit_layers(hidden, rule="online", n_steps=500)
    assert in_features.codebook.shape == in_rows.codebook.shape
    assert float(in_features.quantization_error[0]) == pytest.approx(float(in_rows.quantization_error[0]), rel=0.15)
