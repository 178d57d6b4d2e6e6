"""Quality figures against plain NumPy and MiniSom."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sombrero.som import Lattice, quality
from tests.som.samples import isotropic


def pair(m: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(isotropic(50, 7, 0))[None], torch.from_numpy(isotropic(m, 7, 1))[None]


def test_best_two_units_and_error_are_those_of_all_distances() -> None:
    samples, codebook = pair()
    distance = np.linalg.norm(samples[0].numpy()[:, None] - codebook[0].numpy()[None], axis=-1)
    best, second = quality.best_two_units(samples, codebook)
    assert (torch.stack([best[0], second[0]], dim=1).numpy() == distance.argsort(axis=1)[:, :2]).all()
    assert torch.equal(best, quality.best_units(samples + 1000.0, codebook + 1000.0))
    error = quality.quantization_error(samples, codebook, best)
    np.testing.assert_allclose(error, [distance.min(axis=1).mean()], rtol=1e-6)
    assert quality.hit_counts(best, 12).tolist() == [np.bincount(distance.argmin(axis=1), minlength=12).tolist()]


def test_a_sample_on_its_unit_has_no_distance() -> None:
    samples, _ = pair()
    codebook = samples[:, :5]
    best = quality.best_units(samples[:, :5], codebook)
    assert quality.distances_to_best(samples[:, :5], codebook, best).tolist() == [[0.0] * 5]


@pytest.mark.parametrize("name", ["hexagonal", "rectangular"])
def test_errors_are_those_of_minisom(name: str) -> None:
    minisom = pytest.importorskip("minisom")
    samples, codebook = pair()
    theirs = minisom.MiniSom(4, 3, 7, topology=name, sigma=0.3)
    theirs._weights = codebook[0].numpy().reshape(3, 4, 7).transpose(1, 0, 2).astype(np.float64)
    best, second = quality.best_two_units(samples, codebook)
    lattice = Lattice(3, 4, name)
    assert float(quality.topographic_error(best, second, lattice)) == pytest.approx(
        theirs.topographic_error(samples[0].numpy())
    )
    error = float(quality.quantization_error(samples, codebook, best))
    assert error == pytest.approx(theirs.quantization_error(samples[0].numpy()), rel=1e-5)
    if name == "rectangular":
        ours = quality.u_matrix(codebook, lattice)[0].reshape(3, 4).numpy()
        np.testing.assert_allclose(ours / ours.max(), theirs.distance_map(scaling="mean").T, rtol=1e-5)


def test_u_matrix_is_the_mean_distance_to_touching_units() -> None:
    lattice = Lattice(3, 4)
    _, codebook = pair()
    apart = np.linalg.norm(codebook[0].numpy()[:, None] - codebook[0].numpy()[None], axis=-1)
    expected = [apart[unit, lattice.adjacency[unit]].mean() for unit in range(12)]
    np.testing.assert_allclose(quality.u_matrix(codebook, lattice)[0], expected, rtol=1e-5)


def test_a_map_of_one_unit_has_no_topology() -> None:
    samples, codebook = pair(1)
    best, second = quality.best_two_units(samples, codebook)
    assert quality.topographic_error(best, second, Lattice(1, 1)).tolist() == [0.0]
    assert quality.u_matrix(codebook, Lattice(1, 1)).tolist() == [[0.0]]
