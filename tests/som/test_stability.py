"""Stability: 1 for the same map, high for lobes, low for noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sombrero.errors import UsageError
from sombrero.som import map_stability
from sombrero.som.stability import assignment_agreement, matched_cosine
from tests.som.samples import clustered, isotropic


def lobes_and_noise() -> torch.Tensor:
    """Four lobes, noise: ``(120, 2, 200)``."""
    return torch.from_numpy(np.stack([clustered(120, 200, 0, k=4)[0], isotropic(120, 200, 1)], axis=1))


@pytest.mark.parametrize("bootstrap", [False, True])
def test_lobes_come_again_and_noise_does_not(bootstrap: bool) -> None:
    stability = map_stability(lobes_and_noise(), n_rows=2, n_columns=2, seeds=range(4), bootstrap=bootstrap)
    assert stability.rand_pairs.shape == stability.cosine_pairs.shape == (2, 6)
    assert stability.rand[0] > 0.99 and stability.cosine[0] > 0.98
    assert stability.rand[1] < 0.4 and stability.cosine[1] < 0.7


def test_a_far_reference_makes_all_directions_alike() -> None:
    """Cosines of w_j - mu hold what all units share; those of the centred codebook do not."""
    hidden = lobes_and_noise()
    far = hidden.mean(dim=0) + 10.0
    stability = map_stability(hidden, n_rows=2, n_columns=2, seeds=(0, 1), reference=far)
    assert stability.cosine.min() > 0.97


def test_units_in_another_order_are_the_same_map() -> None:
    codebook, order = torch.from_numpy(isotropic(24, 50, 0)).view(2, 12, 50), torch.randperm(12)
    torch.testing.assert_close(matched_cosine(codebook, codebook[:, order]), torch.ones(2))
    best = torch.from_numpy(np.random.RandomState(0).randint(12, size=(2, 90)))
    assert assignment_agreement(best, order[best]).tolist() == [1.0, 1.0]


def test_the_match_is_one_to_one() -> None:
    """Two equal units cannot both be matched with the one that they resemble."""
    first = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    second = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert float(matched_cosine(first, second, torch.zeros(1, 2))) == pytest.approx(0.5)


def test_a_unit_on_the_reference_has_no_direction() -> None:
    assert matched_cosine(torch.ones(1, 3, 4), torch.ones(1, 3, 4), torch.ones(1, 4)).tolist() == [0.0]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UsageError, match="1 seed"):
        map_stability(lobes_and_noise(), seeds=(0,))
    with pytest.raises(UsageError, match="cannot be matched"):
        matched_cosine(torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))
