"""Salience: intervals that cover, log-odds that belong to a unit's own prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sombrero.directions import mean_log_odds, projection_auroc, separation
from sombrero.directions.salience import _rank, _resampled
from tests.directions.samples import gaussian_states


def test_a_resample_is_the_auroc_of_the_prompts_that_it_drew() -> None:
    harmful, harmless = (s.hidden.round() for s in gaussian_states(7, 9, 2, 4, shift=1.0))  # rounded: ties
    vectors = torch.eye(4)[:3].expand(2, 3, 4)
    ranks = type(_rank(harmful, harmless, vectors))(*(p.flatten(0, 1) for p in _rank(harmful, harmless, vectors)))
    random = np.random.RandomState(0)
    drawn = [(random.randint(7, size=7), random.randint(9, size=9)) for _ in range(5)]
    weights = [
        torch.tensor(np.array([np.bincount(pair[i], minlength=n) for pair in drawn])).float()
        for i, n in ((0, 7), (1, 9))
    ]
    found = _resampled(ranks, *weights).unflatten(0, (2, 3))
    for resample, (rows_h, rows_g) in enumerate(drawn):
        expected = projection_auroc(harmful[rows_h], harmless[rows_g], vectors)
        assert torch.allclose(found[..., resample], expected, atol=1e-6)


def test_the_interval_holds_the_auroc_and_narrows_with_more_prompts() -> None:
    widths = []
    for n in (20, 200):
        harmful, harmless = gaussian_states(n, n, 2, 8, shift=1.0, seed=n)
        found = separation(harmful.hidden, harmless.hidden, torch.randn(2, 5, 8), seed=1)
        assert ((found.low <= found.auroc) & (found.auroc <= found.high)).all()
        assert found.low.shape == (2, 5) and found.low.dtype == torch.float32
        widths.append(float((found.high - found.low).mean()))
    assert widths[1] < widths[0] / 2


def test_nineteen_of_twenty_intervals_cover_the_true_auroc() -> None:
    """Along the axis of the shift, AUROC is Phi(shift / sqrt 2). 300 directions that are independent draws."""
    generator = torch.Generator().manual_seed(5)
    harmful = torch.randn(50, 300, 1, generator=generator) + 1.0
    harmless = torch.randn(60, 300, 1, generator=generator)
    found = separation(harmful, harmless, torch.ones(300, 1, 1), seed=2)
    truth = 0.5 * (1 + math.erf(1.0 / 2))
    covered = ((found.low <= truth) & (truth <= found.high)).float().mean()
    assert 0.90 <= float(covered) <= 0.98


def test_the_interval_follows_from_the_seed_alone() -> None:
    harmful, harmless = gaussian_states(30, 30, shift=0.5)
    vectors = torch.randn(3, 4, 24)
    first, second, other = (separation(harmful.hidden, harmless.hidden, vectors, seed=s) for s in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.low, other.low)
    alone = separation(harmful.hidden, harmless.hidden, vectors[:, 2:3], seed=3)
    assert torch.allclose(alone.low[:, 0], first.low[:, 2], atol=1e-6)


def test_what_separates_perfectly_has_an_interval_of_one_point() -> None:
    found = separation(torch.ones(4, 1, 2), -torch.ones(5, 1, 2), torch.ones(1, 1, 2))
    assert (found.auroc.item(), found.low.item(), found.high.item()) == (1.0, 1.0, 1.0)


def test_auroc_is_scikit_learns_with_a_layer_of_equal_states() -> None:
    harmful, harmless = torch.ones(3, 1, 2), torch.ones(4, 1, 2)
    found = separation(harmful, harmless, torch.ones(1, 1, 2))
    assert found.auroc.item() == roc_auc_score([1, 1, 1, 0, 0, 0, 0], [2.0] * 7)


def test_log_odds_are_means_over_a_units_own_prompts() -> None:
    best = torch.tensor([[0, 0, 2, 2], [1, 1, 1, 1]])
    odds = {"a": 1.0, "b": 3.0, "c": -2.0, "d": -4.0}
    found = mean_log_odds(best, 3, ("a", "b", "c", "d"), odds)
    assert found[0, 0] == 2.0 and found[0, 2] == -3.0 and found[1, 1] == -0.5
    assert found.isnan().tolist() == [[False, True, False], [True, False, True]]


def test_a_unit_with_a_prompt_that_was_not_measured_has_none() -> None:
    found = mean_log_odds(torch.tensor([[0, 0, 1]]), 2, ("a", "b", "c"), {"a": 1.0, "c": 5.0})
    assert found[0, 0].isnan() and found[0, 1] == pytest.approx(5.0)
