"""Halves against each other: every figure as plain NumPy, SciPy and scikit-learn compute it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from sombrero.som import fit_layers, grid_shape, quality
from sombrero.som.held_out import adjusted_rand, held_out, prediction_strength, ward_clusters
from tests.som.samples import clustered, isotropic


def halves(k: int = 4, n: int = 80, d: int = 100) -> tuple[np.ndarray, np.ndarray]:
    samples = clustered(n, d, seed=3, k=k, noise=0.5)[0].astype(np.float64)
    samples -= samples.mean(axis=0)
    return samples[: n // 2], samples[n // 2 :]


def gram_of(*parts: np.ndarray) -> torch.Tensor:
    together = torch.from_numpy(np.concatenate(parts))
    return (together @ together.T)[None]


def test_clusters_are_those_of_scipy() -> None:
    samples = [isotropic(30, 50, seed).astype(np.float64) for seed in range(3)]
    found = ward_clusters(torch.cat([gram_of(part) for part in samples]), [1, 2, 5, 30])
    for problem, part in enumerate(samples):
        tree = linkage(part, "ward")
        for index, k in enumerate([1, 2, 5, 30]):
            labels = found[index, problem].numpy()
            assert sorted(set(labels)) == list(range(k))
            assert adjusted_rand_score(labels, fcluster(tree, k, "maxclust")) == 1.0


def test_tables_give_the_strength_of_all_pairs_and_the_rand_index_of_scikit_learn() -> None:
    random = np.random.RandomState(0)
    for _ in range(5):
        own, assigned = random.randint(4, size=40), random.randint(4, size=40)
        assigned = np.where(random.rand(40) < 0.7, own, assigned)
        shared = torch.zeros(1, 4, 4, dtype=torch.float64)
        shared.index_put_(
            (torch.tensor(0), *torch.from_numpy(np.stack([own, assigned]))), torch.ones(40).double(), True
        )
        together = assigned[:, None] == assigned
        np.fill_diagonal(together, False)
        shares = [
            together[np.ix_(own == a, own == a)].sum() / ((own == a).sum() * ((own == a).sum() - 1)) for a in range(4)
        ]
        assert float(prediction_strength(shared)) == pytest.approx(min(shares))
        assert float(adjusted_rand(shared)) == pytest.approx(adjusted_rand_score(own, assigned))


def test_one_sample_is_no_evidence_of_a_cluster() -> None:
    shared = torch.tensor([[[30.0, 0.0], [0.0, 1.0]], [[31.0, 0.0], [0.0, 0.0]]]).double()
    assert prediction_strength(shared).tolist() == [0.0, 1.0]


def test_one_unit_is_the_mean_of_the_other_half() -> None:
    first, second = halves()
    figures = held_out(gram_of(first, second), [1])
    there = np.linalg.norm(second - first.mean(axis=0), axis=1).mean()
    back = np.linalg.norm(first - second.mean(axis=0), axis=1).mean()
    assert float(figures.error) == pytest.approx((there + back) / 2)
    assert float(figures.strength) == float(figures.rand) == 1.0


def test_of_clear_lobes_the_error_is_that_of_k_means() -> None:
    first, second = halves()
    figures = held_out(gram_of(first, second), [4])
    expected = []
    for trained, tested in ((first, second), (second, first)):
        means = KMeans(4, n_init=10, random_state=0).fit(trained).cluster_centers_
        expected.append(np.linalg.norm(tested[:, None] - means[None], axis=2).min(axis=1).mean())
    assert float(figures.error) == pytest.approx(np.mean(expected), rel=1e-6)
    assert float(figures.strength) == float(figures.rand) == pytest.approx(1.0)


@pytest.mark.parametrize("k", [2, 4, 6])
def test_candidates_are_judged_as_the_map_would_be(k: int) -> None:
    """The map's own training, at its final sigma, is as far from held-out samples, within 3%."""
    for first, second in (halves(), (isotropic(60, 100, 0).astype(float), isotropic(60, 100, 1).astype(float))):
        ours = float(held_out(gram_of(first, second), [k]).error)
        errors = []
        for trained, tested in ((first, second), (second, first)):
            n_rows, n_columns = grid_shape(k)
            maps = fit_layers(torch.from_numpy(trained)[:, None], n_rows=n_rows, n_columns=n_columns)
            sample = torch.from_numpy(tested)[None].float()
            best = quality.best_units(sample, maps.codebook)
            errors.append(float(quality.quantization_error(sample, maps.codebook, best)))
        assert ours == pytest.approx(np.mean(errors), rel=0.03)


def test_problems_do_not_mix() -> None:
    grams = [gram_of(*halves(k)) for k in (2, 5)]
    together = held_out(torch.cat(grams), [1, 3, 8])
    for problem, gram in enumerate(grams):
        alone = held_out(gram, [1, 3, 8])
        torch.testing.assert_close(together.error[[problem]], alone.error)
        torch.testing.assert_close(together.strength[[problem]], alone.strength)


def test_the_same_sample_throughout_leaves_no_error() -> None:
    figures = held_out(torch.zeros(1, 20, 20, dtype=torch.float64), [1, 2, 5])
    assert figures.error.tolist() == [[0.0, 0.0, 0.0]]
    assert torch.isfinite(figures.strength).all() and torch.isfinite(figures.rand).all()
