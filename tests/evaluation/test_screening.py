"""Which first tokens open refusals, and the odds of them."""

from __future__ import annotations

import math

import pytest
import torch

from sombrero.errors import RunError, UsageError
from sombrero.evaluation import refusal_log_odds, refusal_tokens


def test_tokens_that_open_refusals_more_often_than_answers() -> None:
    refusals = [1] * 60 + [2] * 30 + [3] * 10
    answers = [2] * 14 + [3] * 6 + [4] * 80
    assert refusal_tokens(refusals, answers).tolist() == [1, 2]


def test_a_token_that_opens_no_answer_counts_always() -> None:
    assert refusal_tokens([9, 5, 5], []).tolist() == [5, 9]


@pytest.mark.parametrize(("refusals", "answers"), [([], [1, 2]), ([1, 2], [1, 2])])
def test_no_such_token_is_an_error(refusals: list[int], answers: list[int]) -> None:
    with pytest.raises(RunError, match="first token"):
        refusal_tokens(refusals, answers)


def test_log_odds_are_those_of_the_summed_probabilities() -> None:
    probabilities = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7], [1.0, 0.0, 0.0, 0.0]])
    found = refusal_log_odds(probabilities.log(), torch.tensor([0, 2]))
    assert found[:2].tolist() == pytest.approx([math.log(0.7 / 0.3), math.log(0.2 / 0.8)], rel=1e-5)
    assert found[2].item() == math.inf


@pytest.mark.parametrize("tokens", [[], [0, 1, 2]])
def test_odds_need_both_sides(tokens: list[int]) -> None:
    with pytest.raises(UsageError):
        refusal_log_odds(torch.zeros(2, 3), torch.tensor(tokens, dtype=torch.int64))
