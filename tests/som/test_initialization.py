"""The first units: where each beginning puts them, in the space of rows and of features alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import kmeans_plusplus
from sklearn.decomposition import PCA

from sombrero.som import Lattice, SelfOrganizingMap, fit_layers
from sombrero.som.initialization import flattened, initial_distances, initial_weights
from sombrero.som.spaces import FeatureSpace, GramSpace, Space, gram_matrix
from sombrero.som.training import INITIALIZATIONS, Draws, Training, draw
from tests.som.samples import clustered, isotropic


def beginning(samples: torch.Tensor, name: str, lattice: Lattice, features: bool, seed: int = 0) -> torch.Tensor:
    """The first units ``(m, d)`` of centred samples ``(n, d)`` float64; checks the distances that a map begins with."""
    training = Training(lattice, initialization=name)
    draws: Draws = draw(len(samples), training, np.random.RandomState(seed))
    space: Space = FeatureSpace(samples[None]) if features else GramSpace(gram_matrix(samples)[None])
    units = initial_weights(space, draws.start, draws.uniform, training, space.norms)[0] @ samples
    begun = initial_distances(space, draws.start, draws.uniform, training)[0]
    torch.testing.assert_close(begun.sqrt(), torch.cdist(units, samples), atol=1e-6, rtol=1e-6)
    return units


def centred(samples: np.ndarray) -> torch.Tensor:
    """Less about the mean: nothing may depend on what exactly is subtracted."""
    wide = torch.from_numpy(samples).double()
    return wide - wide.mean(dim=0) + 0.3


@pytest.mark.parametrize("name", INITIALIZATIONS)
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (90, 1)])
def test_rows_and_features_begin_alike(name: str, shape: tuple[int, int]) -> None:
    samples = centred(clustered(*shape, seed=4)[0])
    in_rows = beginning(samples, name, Lattice(3, 4), features=False)
    torch.testing.assert_close(in_rows, beginning(samples, name, Lattice(3, 4), features=True), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["random", "k-means++"])
def test_units_are_distinct_samples(name: str) -> None:
    samples = centred(isotropic(40, 12, seed=0))
    units = beginning(samples, name, Lattice(4, 5), features=False)
    nearest = torch.cdist(units, samples).min(dim=1)
    assert nearest.values.max() < 1e-6 and len(nearest.indices.unique()) == 20


def test_pca_lays_the_lattice_flat_from_minus_to_plus_one_deviation() -> None:
    samples = centred(clustered(200, 15, seed=1)[0])
    units = beginning(samples, "pca", Lattice(3, 5, "rectangular"), features=True)
    pca = PCA(2).fit(samples.numpy())
    along = pca.transform(units.numpy())
    deviation = pca.transform(samples.numpy()).std(axis=0)
    np.testing.assert_allclose(np.abs(along).max(axis=0), deviation, rtol=1e-6)
    np.testing.assert_allclose(pca.inverse_transform(along), units.numpy(), atol=1e-8)  # in the plane, nowhere else
    first = along[:, 0].reshape(3, 5)
    assert np.ptp(first, axis=0).max() < 1e-6  # the wider component runs along the longer side
    steps = np.diff(first[0])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_a_side_of_one_unit_lies_in_the_middle() -> None:
    np.testing.assert_allclose(flattened(Lattice(1, 3)), [[-1, 0], [0, 0], [1, 0]])
    np.testing.assert_allclose(flattened(Lattice(1, 1)), [[0, 0]])


def test_k_means_plus_plus_spreads_as_scikit_learns_does() -> None:
    samples = centred(clustered(300, 20, seed=3, noise=0.1)[0])

    def spread(units: torch.Tensor) -> float:
        return float(torch.cdist(samples, units).min(dim=1).values.square().sum())

    ours = [spread(beginning(samples, "k-means++", Lattice(4, 4), False, seed)) for seed in range(8)]
    theirs = [spread(torch.from_numpy(kmeans_plusplus(samples.numpy(), 16, random_state=s)[0])) for s in range(8)]
    uniform = [spread(beginning(samples, "random", Lattice(4, 4), False, seed)) for seed in range(8)]
    assert np.mean(ours) < 1.3 * np.mean(theirs) < 0.7 * np.mean(uniform)


def test_k_means_plus_plus_takes_each_distinct_value_before_a_second_copy() -> None:
    values = centred(isotropic(6, 10, seed=0))
    units = beginning(values.repeat(10, 1), "k-means++", Lattice(2, 3), features=False)
    assert torch.cdist(values, units).min(dim=1).values.max() < 1e-6


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
@pytest.mark.parametrize("rule", ["batch", "online"])
@pytest.mark.parametrize("shape", [(60, 90), (90, 20), (700, 40)])
def test_every_beginning_maps_layers_as_it_maps_one(initialization: str, rule: str, shape: tuple[int, int]) -> None:
    hidden = torch.from_numpy(np.stack([clustered(*shape, seed=seed)[0] for seed in range(3)], axis=1))
    maps = fit_layers(hidden, n_rows=3, n_columns=3, rule=rule, initialization=initialization, n_steps=400, seed=2)
    for layer in range(3):
        one = SelfOrganizingMap(3, 3, rule=rule, initialization=initialization, n_steps=400, random_state=2)
        one.fit(hidden[:, layer].numpy())
        np.testing.assert_allclose(one.codebook_, maps.codebook[layer], rtol=1e-4, atol=1e-4)


def test_pca_and_k_means_order_a_map_no_worse() -> None:
    samples = isotropic(300, 2, seed=0)
    errors = {
        name: np.mean([SelfOrganizingMap(5, 5, initialization=name, random_state=s).fit(samples).quantization_error_
                       for s in range(3)])
        for name in INITIALIZATIONS
    }  # fmt: skip
    assert max(errors.values()) < 1.1 * min(errors.values())
