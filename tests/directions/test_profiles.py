"""Who lives in a unit: every training prompt, once, with its category and its log-odds."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from sombrero.directions import Codebook, unit_profiles
from sombrero.errors import UsageError
from sombrero.records import Prompt

PROMPTS = tuple(Prompt(f"p{i}", f"text {i}", "ab"[i % 2] * 3) for i in range(9))
IDS = tuple(prompt.id for prompt in PROMPTS[:8])
BEST = torch.tensor([[0] * 8, [0, 1, 3, 3, 0, 1, 3, 3]])
CODEBOOK = Codebook("som", torch.zeros(2, 4, 3), BEST, torch.zeros(2, 3), IDS)
ODDS = {name: float(i) for i, name in enumerate(IDS)}


@pytest.mark.parametrize("state", [0, 1])
def test_profiles_partition_the_training_prompts(state: int) -> None:
    profiles = unit_profiles(CODEBOOK, PROMPTS, state, ODDS)
    assert [profile.unit for profile in profiles] == [0, 1, 2, 3]
    assert sorted(name for profile in profiles for name in profile.prompt_ids) == sorted(IDS)
    category = {prompt.id: prompt.category for prompt in PROMPTS}
    for profile in profiles:
        assert profile.state == state
        assert profile.categories == Counter(category[name] for name in profile.prompt_ids)
        assert len(profile.prompt_ids) == CODEBOOK.hit_counts[state, profile.unit]
        if profile.prompt_ids:
            assert profile.log_odds == pytest.approx(sum(ODDS[n] for n in profile.prompt_ids) / len(profile.prompt_ids))
        else:
            assert profile.log_odds is None
        counts = list(profile.categories.values())
        assert counts == sorted(counts, reverse=True)


def test_without_log_odds_there_are_none() -> None:
    assert all(profile.log_odds is None for profile in unit_profiles(CODEBOOK, PROMPTS, 1))


def test_a_state_that_is_not_there_and_a_prompt_that_is_missing_are_named() -> None:
    with pytest.raises(UsageError, match=r"no state index 2 in a map of 2; give one of 0\.\.1"):
        unit_profiles(CODEBOOK, PROMPTS, 2)
    with pytest.raises(UsageError, match=r"1 prompts .* such as 'p0'"):
        unit_profiles(CODEBOOK, PROMPTS[1:], 1)
