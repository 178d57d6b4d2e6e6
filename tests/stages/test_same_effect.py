"""A bake is not done when the checkpoint does something else than the edit that was chosen."""

from __future__ import annotations

import pytest

from sombrero.errors import CheckpointError
from sombrero.records import Coherence, Divergence, Measurement, Proportion, Verification
from sombrero.stages.baking import require_same_effect


def measured(kl: float, n: int = 100) -> Measurement:
    share = Proportion(5, n, 0.0, 0.1)
    return Measurement(share, share, share, {}, Divergence(kl, kl, (), ()), Coherence(5.0, 0.1, 0, 1, 50), ())


def baked(kl: float, n_flips: int = 0, n: int = 100) -> Verification:
    return Verification(measured(kl, n), tuple(f"p{i}" for i in range(n_flips)), 0.0, 0.0, 0.0, 0.0, 1, 1)


@pytest.mark.parametrize(("live", "stored"), [(0.1, 0.1), (0.1, 0.1149), (0.1, 0.0851), (0.001, 0.0109), (0.0, 0.0099)])
def test_a_divergence_within_the_bounds_is_the_same_effect(live: float, stored: float) -> None:
    require_same_effect(measured(live), baked(stored))


@pytest.mark.parametrize(("live", "stored"), [(0.1, 0.116), (0.1, 0.084), (0.001, 0.012), (0.0, 0.011)])
def test_another_divergence_is_an_error(live: float, stored: float) -> None:
    with pytest.raises(CheckpointError, match=rf"baked checkpoint has first-token KL {stored:.4f}, the live edit"):
        require_same_effect(measured(live), baked(stored))


@pytest.mark.parametrize(("n", "allowed"), [(20, 1), (100, 2), (200, 4)])
def test_verdicts_may_differ_on_few_prompts_alone(n: int, allowed: int) -> None:
    require_same_effect(measured(0.1, n), baked(0.1, allowed, n))
    with pytest.raises(CheckpointError, match=rf"decides {allowed + 1} of {n} reporting .*allowed {allowed}\): p0, p1"):
        require_same_effect(measured(0.1, n), baked(0.1, allowed + 1, n))
