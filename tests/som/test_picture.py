"""The map as a picture: against scikit-learn, and against the definition with ties broken by chance many times."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from sombrero.errors import UsageError
from sombrero.som import Lattice, component_planes, continuity, fit_layers, quality, trustworthiness, unit_distances
from tests.som.samples import clustered, isotropic


def mapped(n: int = 60, d: int = 12) -> tuple[torch.Tensor, torch.Tensor, Lattice]:
    """Samples ``(2, n, d)`` of two layers, clusters and noise, and their best units on 3 x 4 maps."""
    samples = torch.from_numpy(np.stack([clustered(n, d, 0)[0], isotropic(n, d, 1)]))
    maps = fit_layers(samples.transpose(0, 1), n_rows=3, n_columns=4)
    return samples, maps.best_units, Lattice(3, 4)


def written_out(apart: NDArray[np.float64], shown: NDArray[np.float64], k: int) -> float:
    """Venna & Kaski 2001, eq. 1, of distances ``(n, n)`` between samples and on the picture."""
    n = len(apart)
    ranks = apart.argsort(axis=1).argsort(axis=1)  # 0 is the sample itself
    near = shown.argsort(axis=1)[:, 1 : k + 1]
    beyond = np.maximum(0, np.take_along_axis(ranks, near, axis=1) - k)
    return float(1 - 2 / (n * k * (2 * n - 3 * k - 1)) * beyond.sum())


@pytest.mark.parametrize("n_neighbors", [1, 5, 20])
def test_both_are_expected_values_over_all_orders_of_ties(n_neighbors: int) -> None:
    """Ties are broken by chance many times, each pair by itself: moving samples instead would order them in clumps."""
    samples, best, lattice = mapped()
    random = np.random.RandomState(0)
    trust, continuous = (figure(samples, best, lattice, n_neighbors) for figure in (trustworthiness, continuity))
    for layer in range(2):
        apart = np.linalg.norm(samples[layer, :, None].double() - samples[layer, None].double(), axis=2)
        places = lattice.coordinates[best[layer]]
        shown = np.linalg.norm(places[:, None] - places[None], axis=2)
        np.fill_diagonal(shown, -1.0)
        found = []
        for _ in range(100):
            broken = shown + 1e-6 * random.uniform(size=shown.shape)
            found.append((written_out(apart, broken, n_neighbors), written_out(broken, apart, n_neighbors)))
        chance = 4.0 * np.std(found, axis=0) / 100**0.5 + 1e-6
        assert chance.max() < 0.02
        assert (np.abs(np.stack([trust[layer], continuous[layer]]) - np.mean(found, axis=0)) < chance).all()


def test_without_ties_both_are_exactly_those_of_scikit_learn() -> None:
    """From the end of a strip of one sample a unit, all distances differ; the ends alone are at places of their own."""
    samples = torch.from_numpy(isotropic(2, 3, 0))[None].repeat_interleave(5, dim=1) * torch.arange(1, 11)[:, None]
    lattice = Lattice(1, 1000)
    best = torch.tensor([[0, 1, 3, 7, 15, 31, 63, 127, 255, 511]])  # every difference occurs once
    places = lattice.coordinates[best[0]]
    assert float(trustworthiness(samples, best, lattice, 3)) == pytest.approx(
        sklearn_trustworthiness(samples[0], places, n_neighbors=3)
    )
    assert float(continuity(samples, best, lattice, 3)) == pytest.approx(
        sklearn_trustworthiness(places, samples[0], n_neighbors=3)
    )


def test_a_trained_map_is_a_better_picture_than_a_shuffled_one() -> None:
    samples, best, lattice = mapped(n=200)
    shuffled = best[:, torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    for figure in (trustworthiness, continuity):
        assert (figure(samples, best, lattice) > figure(samples, shuffled, lattice) + 0.05).all()
    assert figure(samples, torch.zeros_like(best), lattice).sub(0.5).abs().max() < 0.02  # all in one place: chance


def test_many_samples_are_ranked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, best, lattice = mapped()
    whole = trustworthiness(samples, best, lattice)
    monkeypatch.setattr("sombrero.som.picture._ROWS", 7)
    torch.testing.assert_close(whole, trustworthiness(samples, best, lattice))


def test_component_planes_of_features_and_of_directions_agree() -> None:
    codebook = torch.from_numpy(isotropic(24, 5, 0)).view(2, 12, 5)
    origin = torch.from_numpy(isotropic(2, 5, 1))
    features = torch.tensor([3, 0])
    planes = component_planes(codebook, features=features)
    assert torch.equal(planes, codebook[:, :, [3, 0]])
    axes = 7.0 * torch.eye(5)[features]
    torch.testing.assert_close(component_planes(codebook, directions=axes), planes)
    torch.testing.assert_close(
        component_planes(codebook, directions=axes.expand(2, 2, 5), origin=origin), planes - origin[:, None, features]
    )


def test_component_planes_refuse_what_does_not_fit() -> None:
    codebook = torch.zeros(2, 12, 5)
    with pytest.raises(UsageError, match="exactly one"):
        component_planes(codebook)
    with pytest.raises(UsageError, match=r"features \[5\]"):
        component_planes(codebook, features=torch.tensor([5]))
    with pytest.raises(UsageError, match=r"shape \(3, 4\)"):
        component_planes(codebook, directions=torch.zeros(3, 4))


@pytest.mark.parametrize("name", ["hexagonal", "rectangular"])
def test_the_u_matrix_is_the_mean_of_the_distances_between_units(name: str) -> None:
    lattice = Lattice(3, 4, name)
    codebook = torch.from_numpy(isotropic(24, 5, 0)).view(2, 12, 5)
    pairs, lengths = unit_distances(codebook, lattice)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(pairs) == lattice.adjacency.sum() / 2
    sums = torch.zeros(2, 12).index_add(1, pairs[:, 0], lengths).index_add(1, pairs[:, 1], lengths)
    degree = torch.from_numpy(lattice.adjacency).sum(dim=1)
    torch.testing.assert_close(sums / degree, quality.u_matrix(codebook, lattice))


def test_impossible_neighbourhoods_are_refused() -> None:
    samples, best, lattice = mapped()
    with pytest.raises(UsageError, match="n_neighbors is 30 of 60"):
        trustworthiness(samples, best, lattice, 30)
    with pytest.raises(UsageError, match="do not belong"):
        continuity(samples[:, :50], best, lattice)
