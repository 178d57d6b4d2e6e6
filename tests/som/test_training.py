"""The two rules: the paper's equations, MiniSom's trajectory, and what the batch rule promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from sombrero.som import Lattice, SelfOrganizingMap, fit_layers
from sombrero.som.batch import batch
from sombrero.som.neighbourhoods import cluster_weights
from sombrero.som.online import online_in_features, online_in_rows, online_schedule
from sombrero.som.quality import hit_counts
from sombrero.som.relocation import arrange
from sombrero.som.spaces import FeatureSpace, GramSpace, gram_matrix
from sombrero.som.training import Training
from tests.som.samples import clustered, isotropic

LATTICES = ["hexagonal", "rectangular"]


def chosen(index: NDArray[np.int64], n: int) -> torch.Tensor:
    """Weights of units that are samples, for one layer ``(1, m, n)``."""
    return torch.eye(n, dtype=torch.float64)[index][None]


def written_out(samples: NDArray[np.float64], units: NDArray[np.float64], order: list[int], training: Training):  # type: ignore[no-untyped-def]
    """The online rule of DESIGN section 2, one line per equation."""
    units, place, steps = units.copy(), training.lattice.coordinates, training.n_steps
    for t, i in enumerate(order):
        b = np.linalg.norm(samples[i] - units, axis=1).argmin()
        a = training.learning_rate / (1 + 2 * t / steps)
        sigma = training.sigma / (1 + 2 * t / steps)
        g = np.exp(-((place - place[b]) ** 2).sum(axis=1) / (2 * sigma**2))
        units += a * g[:, None] * (samples[i] - units)
    return units


@pytest.mark.parametrize("lattice", LATTICES)
@pytest.mark.parametrize(("sigma", "rate"), [(0.3, 0.01), (1.5, 0.5)])
def test_online_follows_the_equations_in_features_and_in_rows(lattice: str, sigma: float, rate: float) -> None:
    training = Training(Lattice(3, 4, lattice), "online", sigma, rate, n_steps=800)
    samples = isotropic(40, 60, seed=3).astype(np.float64)
    samples -= samples.mean(axis=0)
    random = np.random.RandomState(0)
    start, order = random.permutation(40)[:12], random.randint(40, size=800)
    expected = written_out(samples, samples[start], order.tolist(), training)
    schedule, layer = online_schedule(training, np.arange(800)), torch.from_numpy(samples)
    features = online_in_features(layer[None], layer[None, start], order, schedule, training)[0]
    weights = online_in_rows(gram_matrix(layer)[None], chosen(start, len(samples)), order, schedule, training)[0]
    np.testing.assert_allclose(features, expected, atol=1e-10)
    np.testing.assert_allclose(weights @ layer, expected, atol=1e-10)


@pytest.mark.parametrize("lattice", LATTICES)
def test_online_follows_minisom(lattice: str) -> None:
    minisom = pytest.importorskip("minisom")
    samples, steps = clustered(120, 200, seed=1)[0], 3_000
    theirs = minisom.MiniSom(4, 3, 200, sigma=0.3, learning_rate=0.01, topology=lattice, random_seed=5)
    start = np.random.RandomState(5).permutation(120)[:12]  # distinct: MiniSom breaks ties column by column
    units = samples[start].astype(np.float64)
    theirs._weights = units.reshape(3, 4, 200).transpose(1, 0, 2).copy()  # MiniSom counts columns first
    order = np.random.RandomState(2).permutation(np.arange(steps) % 120)
    training = Training(Lattice(3, 4, lattice), "online", n_steps=steps)
    schedule = online_schedule(training, np.arange(steps))
    layer = torch.from_numpy(samples)
    features = online_in_features(layer[None], torch.from_numpy(units)[None], order, schedule, training)[0]
    weights = online_in_rows(gram_matrix(layer)[None], chosen(start, len(samples)), order, schedule, training)[0]
    for t, i in enumerate(order):
        theirs.update(samples[i], theirs.winner(samples[i]), t, steps)
    expected = theirs.get_weights().transpose(1, 0, 2).reshape(12, 200)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    np.testing.assert_allclose(weights.float() @ layer, expected, atol=1e-5)


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
    start = chosen(np.arange(9), 60)
    in_rows = batch(GramSpace(gram_matrix(samples[0])[None]), start, training)
    in_features = batch(FeatureSpace(samples), start, training)
    assert torch.equal(in_rows[1], in_features[1])
    torch.testing.assert_close(in_rows[0], in_features[0])


@pytest.mark.parametrize("shape", [(160, 576), (300, 8), (1500, 40)])
@pytest.mark.parametrize("seed", range(3))
def test_planted_clusters_are_found(shape: tuple[int, int], seed: int) -> None:
    samples, label = clustered(*shape, seed=seed, noise=0.05)
    found = SelfOrganizingMap(random_state=seed).fit_predict(samples)
    assert adjusted_rand_score(label, found) == 1.0


@pytest.mark.parametrize("kind", ["isotropic", "clustered"])
@pytest.mark.parametrize("seed", range(2))
def test_no_worse_than_minisom(kind: str, seed: int) -> None:
    minisom = pytest.importorskip("minisom")
    samples = isotropic(160, 576, seed) if kind == "isotropic" else clustered(160, 576, seed)[0]
    theirs = minisom.MiniSom(4, 4, 576, sigma=0.3, learning_rate=0.01, topology="hexagonal", random_seed=seed)
    theirs.random_weights_init(samples)
    theirs.train_random(samples, 10_000)
    ours = SelfOrganizingMap(random_state=seed).fit(samples)
    assert ours.quantization_error_ <= theirs.quantization_error(samples)
    assert ours.topographic_error_ <= theirs.topographic_error(samples)


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
