"""Planted states hold what they say, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sombrero.errors import UsageError
from sombrero.states import plant_states


def test_lobe_means_are_the_planted_directions() -> None:
    planted = plant_states(n_harmful=3000, n_harmless=3000, d=20, strengths=(0.0, 4.0), topic=1.0, length=1.0)
    away = planted.harmful.hidden - planted.harmless.hidden.mean(dim=0)
    means = torch.stack([away[planted.lobes == lobe].mean(dim=0) for lobe in range(3)], dim=1)
    assert (means - planted.directions).abs().max() < 0.15
    assert planted.directions[0].abs().max() == 0.0
    directions = planted.directions[1]
    torch.testing.assert_close(torch.cdist(directions, directions)[0, 1:], torch.full((2,), 4.0 * 2**0.5))
    cosines = torch.nn.functional.normalize(directions) @ torch.nn.functional.normalize(directions).T
    torch.testing.assert_close(cosines, 0.5 + 0.5 * torch.eye(3))


def test_nuisance_is_shared_by_harmful_and_harmless() -> None:
    """Without strength the two kinds of prompts have the same mean and spread along every feature."""
    planted = plant_states(
        n_harmful=4000, n_harmless=4000, d=12, strengths=(0.0,), noise=0.5, n_topics=2, topic=4.0, length=3.0
    )
    harmful, harmless = planted.harmful.hidden[:, 0], planted.harmless.hidden[:, 0]
    assert (harmful.mean(dim=0) - harmless.mean(dim=0)).abs().max() < 0.3
    assert (harmful.T.cov() - harmless.T.cov()).abs().max() < 0.6
    for hidden, topics in ((harmful, planted.harmful_topics), (harmless, planted.harmless_topics)):
        apart = hidden[topics == 0].mean(dim=0) - hidden[topics == 1].mean(dim=0)
        assert float(apart.norm()) == pytest.approx(4.0 * 2**0.5, rel=0.1)
        assert float(torch.linalg.eigvalsh(hidden[topics == 0].T.cov())[-1]) == pytest.approx(9.25, rel=0.1)


@pytest.mark.parametrize("n_lobes", [1, 4])
def test_a_ring_is_round_and_a_line_is_straight(n_lobes: int) -> None:
    for manifold in ("ring", "line"):
        planted = plant_states(manifold, n_harmful=400, d=20, n_lobes=n_lobes, strengths=(5.0,), noise=0.0, spread=2.0)  # type: ignore[arg-type]
        hidden = planted.harmful.hidden[:, 0]
        assert torch.equal(planted.lobes, (planted.positions * n_lobes).long())
        centred = hidden - hidden.mean(dim=0)
        assert torch.linalg.matrix_rank(centred, rtol=1e-4) == (2 if manifold == "ring" else 1)
        if manifold == "ring":
            torch.testing.assert_close(hidden.norm(dim=1), torch.full((400,), 5.0 * 5**0.5))
        else:
            assert float(torch.cdist(hidden, hidden).max()) == pytest.approx(20.0, rel=0.02)
        nearest = torch.cdist(hidden, planted.directions[0]).argmin(dim=1)
        assert torch.equal(nearest, planted.lobes)


def test_everything_follows_from_the_seed() -> None:
    first, same, other = plant_states(seed=3), plant_states(seed=3), plant_states(seed=4)
    assert torch.equal(first.harmful.hidden, same.harmful.hidden) and torch.equal(first.lobes, same.lobes)
    assert not torch.equal(first.harmful.hidden, other.harmful.hidden)


def test_they_are_states_like_any_others() -> None:
    planted = plant_states(n_harmful=7, n_harmless=5, d=16, strengths=(0.0, 1.0, 2.0, 3.0))
    assert planted.harmful.hidden.shape == (7, 4, 16) and planted.harmful.hidden.dtype == torch.float32
    assert planted.harmless.hidden.shape == (5, 4, 16) and len(set(planted.harmless.prompt_ids)) == 5
    assert dict(planted.harmful.writer_inputs) == {}
    assert planted.directions.shape == (4, 3, 16)
    assert planted.lobes.bincount().tolist() == [3, 2, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"manifold": "torus"}, "manifold is 'torus'"),
        ({"n_lobes": 0}, "n_lobes is 0"),
        ({"d": 8}, "8 features do not hold 9"),
        ({"noise": -1.0}, "noise is -1"),
        ({"strengths": ()}, "strengths is empty"),
    ],
)
def test_what_cannot_be_planted_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plant_states(**wrong)
