"""The rule from intervals to a verdict, branch by branch, and the sentence that follows from the numbers."""

from __future__ import annotations

import pytest

from sombrero.records import Difference, Interval, MatchedFigures, MethodName, Outcome
from sombrero.stages.comparison_verdict import decide, give_verdict, outcome

LEVEL = 0.1
CONTROL_KL = 0.1


@pytest.mark.parametrize(
    ("low", "value", "high", "expected"),
    [
        (-0.08, -0.05, -0.01, "map better"),
        (-0.08, -0.05, -0.03, "map better"),
        (-0.019, -0.01, -0.001, "equal"),  # below 0, but within a fifth of the control's KL
        (-0.01, 0.0, 0.019, "equal"),
        (-0.01, 0.03, 0.05, "no better"),
        (0.01, 0.03, 0.05, "control better"),
        (0.001, 0.01, 0.019, "equal"),
        (-0.05, -0.01, 0.03, "undecided"),
        (-0.05, -0.03, 0.001, "undecided"),
        (None, -0.03, 0.01, "undecided"),
        (None, None, None, "not reached"),
        (-0.05, None, 0.01, "not reached"),
        (None, None, -0.01, "map better"),  # the control does not get there, and the resamples agree
        (0.01, None, None, "control better"),
        (-0.01, 0.02, None, "no better"),
    ],
)
def test_outcomes(low: float | None, value: float | None, high: float | None, expected: Outcome) -> None:
    assert outcome(Interval(value, low, high), 0.2 * CONTROL_KL) == expected


def test_without_a_margin_only_the_sign_counts() -> None:
    assert outcome(Interval(None, None, -0.001), None) == "map better"
    assert outcome(Interval(None, 0.001, None), None) == "control better"
    assert outcome(Interval(None, -0.001, None), None) == "not reached"


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ({"single": "map better", "random": "map better"}, "map_better"),
        ({"single": "map better", "random": "undecided"}, "several_directions"),
        ({"single": "map better", "random": "control better"}, "several_directions"),
        ({"single": "map better", "random": "not reached"}, "several_directions"),
        ({"single": "equal", "random": "map better"}, "one_direction"),
        ({"single": "no better", "random": "undecided"}, "one_direction"),
        ({"single": "control better", "random": "undecided"}, "control_better"),
        ({"single": "undecided", "random": "control better"}, "undecided"),
        ({"single": "undecided"}, "undecided"),
        ({"single": "not reached", "random": "map better"}, "not_reached"),
        ({"random": "map better", "pca": "map better"}, "map_better"),
        ({"random": "map better", "pca": "control better"}, "control_better"),
        ({"random": "map better", "pca": "not reached"}, "not_reached"),
        ({"random": "equal", "pca": "no better"}, "no_better"),
        ({"random": "map better", "pca": "equal"}, "undecided"),
    ],
)
def test_verdicts(outcomes: dict[MethodName, Outcome], expected: str) -> None:
    assert decide(outcomes) == expected


def figures(method: MethodName, kl: float | None, seeds: int = 3) -> MatchedFigures:
    by_seed = (kl,) * seeds
    return MatchedFigures(method, LEVEL, 0 if kl is None else seeds, seeds, kl, kl and kl / 10, 1.4, 0.1, by_seed)


def difference(control: MethodName, low: float | None, value: float | None, high: float | None) -> Difference:
    found = Interval(value, low, high)
    margin = 0.2 * CONTROL_KL
    result = outcome(found, margin)
    return Difference(control, LEVEL, found, found, margin, result, result, (value,))


@pytest.mark.parametrize(
    ("ends", "code", "says"),
    [
        ((-0.08, -0.05, -0.03), "map_better", "cost less than those of every control"),
        ((-0.01, 0.0, 0.01), "one_direction", "one direction is enough here"),
        ((0.02, 0.05, 0.08), "control_better", "the single direction is better than the map"),
        ((-0.05, -0.01, 0.03), "undecided", "cannot be told apart at this n"),
        ((None, None, None), "not_reached", "the level is not reached by both sides"),
    ],
)
def test_the_sentence_follows_from_the_numbers(
    ends: tuple[float | None, float | None, float | None], code: str, says: str
) -> None:
    value = ends[1]
    kl = None if value is None else CONTROL_KL + value
    matched = [figures("som", kl), figures("single", CONTROL_KL)]
    found = give_verdict(LEVEL, [difference("single", *ends)], matched, 60, 50)
    assert found.code == code and says in found.sentence
    assert (
        found.sentence.startswith("At 10% refusals ")
        and "60 harmful and 50 harmless prompts, 3 seeds" in found.sentence
    )
    if value is None:
        assert "With 0 of 3 seeds the map reaches it, with 3 of 3 seeds the single direction does" in found.sentence
    else:
        assert f"{kl:.3f} against 0.100 of the single direction" in found.sentence
        assert f"{value:+.3f}".replace("-", "−") in found.sentence


def test_every_control_is_named_beside_the_first_and_one_seed_says_so() -> None:
    matched = [figures("som", 0.05, 1), figures("single", 0.1, 1), figures("random", 0.05, 1), figures("pca", None, 1)]
    differences = [
        difference("random", -0.03, 0.0, 0.03),
        difference("single", -0.08, -0.05, -0.03),
        difference("pca", None, None, None),
    ]
    found = give_verdict(LEVEL, differences, matched, 60, 50)
    assert found.code == "several_directions"
    assert "takes no map to find them" in found.sentence and "random samples or mean and components" in found.sentence
    assert "not told apart from random samples (+0.000 (95% interval −0.030 to +0.030))" in found.sentence
    assert "not comparable with mean and components (it reaches the level with 0 of 1 seeds)" in found.sentence
    assert "one seed, which says nothing of others" in found.sentence


def test_a_sequence_kl_that_disagrees_is_told() -> None:
    one = difference("single", -0.08, -0.05, -0.03)
    other = Interval(0.0, -0.03, 0.03)
    told = Difference("single", LEVEL, one.first_token, other, 0.02, "map better", "undecided", (None,))
    found = give_verdict(LEVEL, [told], [figures("som", 0.05), figures("single", 0.1)], 60, 50)
    assert found.code == "map_better"
    assert "By the sequence KL: not told apart from the single direction." in found.sentence
