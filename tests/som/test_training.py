"""The batch rule: what it promises; and what both rules share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from sombrero.som import Lattice, SelfOrganizingMap, fit_layers
from sombrero.som.batch import batch
from sombrero.som.neighbourhoods import cluster_weights
from sombrero.som.quality import hit_counts
from sombrero.som.relocation import arrange
from sombrero.som.spaces import FeatureSpace, GramSpace, gram_matrix
from sombrero.som.training import Training
from tests.som.samples import clustered, isotropic, one_hot


@pytest.mark.parametrize("rule", ["batch", "online"])
@pytest.mark.parametrize("shape", [(50, 300), (2000, 20)])
def test_one_unit_is_the_mean(rule: str, shape: tuple[int, int]) -> None:
    hidden = 3.0 + 100.0 * torch.randn(shape[0], 2, shape[1], generator=torch.Generator().manual_seed(0))
    maps = fit_layers(hidden, n_rows=1, n_columns=1, rule=rule)
    expected = hidden.double().mean(dim=0)
    torch.testing.assert_close(maps.codebook[:, 0].double(), expected, rtol=1e-6, atol=1e-5)
    assert maps.topographic_error.tolist() == [0.0, 0.0]


def test_batch_weights_are_the_neighbourhood_average() -> None:
    training = Training(Lattice(2, 3), sigma=0.8)
    squared = torch.from_numpy(training.lattice.squared_distances)
    best = torch.tensor([[0, 0, 1, 3, 5, 5, 5]])
    g = torch.exp(-squared / (2 * 0.8**2))[:, best[0]]
    members = cluster_weights("gaussian", hit_counts(best, 6), squared, 0.8)
    torch.testing.assert_close(members[0][:, best[0]], g / g.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("name", ["gaussian", "bubble"])
def test_an_empty_unit_is_an_average_at_any_width(name: str) -> None:
    squared = torch.from_numpy(Lattice(1, 4, "rectangular").squared_distances)
    members = cluster_weights(name, torch.tensor([[2, 0, 0, 2]]), squared, 1e-3)
    assert torch.isfinite(members).all()
    torch.testing.assert_close(members[0] @ torch.tensor([2.0, 0, 0, 2.0]).double(), torch.ones(4).double())
    assert members[0, 1].tolist() == [0.5, 0.0, 0.0, 0.0]


def test_rows_and_features_train_the_same_map() -> None:
    samples = torch.from_numpy(clustered(60, 90, seed=4)[0]).double()[None]
    samples -= samples.mean(dim=1, keepdim=True)
    training = Training(Lattice(3, 3))
    start = one_hot(np.arange(9), 60)
    rows, features = GramSpace(gram_matrix(samples[0])[None]), FeatureSpace(samples)
    in_rows = batch(rows, rows.to_weighted(start), training)
    in_features = batch(features, features.to_weighted(start), training)
    assert torch.equal(in_rows[1], in_features[1])
    torch.testing.assert_close(in_rows[0], in_features[0])


@pytest.mark.parametrize("shape", [(160, 576), (300, 8), (1500, 40)])
@pytest.mark.parametrize("seed", range(3))
def test_planted_clusters_are_found(shape: tuple[int, int], seed: int) -> None:
    samples, label = clustered(*shape, seed=seed, noise=0.05)
    found = SelfOrganizingMap(random_state=seed).fit_predict(samples)
    assert adjusted_rand_score(label, found) == 1.0


@pytest.mark.parametrize("n", [160, 800])
@pytest.mark.parametrize("kind", ["isotropic", "clustered"])
def test_no_worse_than_minisom(kind: str, n: int) -> None:
    """In quantization error for every seed; in topographic error, which is luck where nothing is to be ordered, on
    average."""
    minisom = pytest.importorskip("minisom")
    topographic = []
    for seed in range(3):
        samples = isotropic(n, 576, seed) if kind == "isotropic" else clustered(n, 576, seed)[0]
        theirs = minisom.MiniSom(4, 4, 576, sigma=0.3, learning_rate=0.01, topology="hexagonal", random_seed=seed)
        theirs.random_weights_init(samples)
        theirs.train_random(samples, 10_000)
        ours = SelfOrganizingMap(random_state=seed).fit(samples)
        assert ours.quantization_error_ <= theirs.quantization_error(samples)
        topographic.append((ours.topographic_error_, theirs.topographic_error(samples)))
    assert np.mean(topographic, axis=0)[0] <= np.mean(topographic, axis=0)[1]


def test_arranging_permutes_units_and_brings_neighbours_together() -> None:
    lattice = Lattice(1, 8, "rectangular")
    along = torch.linspace(0, 7, 64).double()
    shuffled = torch.tensor([3, 0, 6, 1, 7, 4, 2, 5]).double()
    distances = (shuffled[:, None] - along[None])[None] ** 2
    arranged = arrange(distances, lattice)
    assert torch.equal(distances.sort(dim=1).values, arranged.sort(dim=1).values)
    best, second = arranged[0].topk(2, dim=0, largest=False).indices
    before, after = distances[0].topk(2, dim=0, largest=False).indices, (best - second).abs().double().mean()
    assert after < (before[0] - before[1]).abs().double().mean()


@pytest.mark.parametrize(
    "wrong", [{"sigma": 0.0}, {"sigma": float("nan")}, {"learning_rate": 1.5}, {"n_steps": 0}, {"rule": "annealed"}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        Training(Lattice(2, 2), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["isotropic", "clustered"])
def test_of_many_samples_the_better_beginning_is_kept(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is mapped better from a subset, structure in few directions: both are as good as the better one alone."""
    samples = isotropic(1500, 300, 0) if kind == "isotropic" else clustered(1500, 300, 0, k=12, noise=1.0)[0]
    hidden = torch.from_numpy(samples)[:, None]
    error = float(fit_layers(hidden).quantization_error)
    for no_structure, clear_structure in ((2.0, 3.0), (-2.0, -1.0)):  # the subset alone, and the directions alone
        monkeypatch.setattr("sombrero.som.codebooks.NO_STRUCTURE", no_structure)
        monkeypatch.setattr("sombrero.som.codebooks.CLEAR_STRUCTURE", clear_structure)
        assert error <= float(fit_layers(hidden).quantization_error) * 1.0005
