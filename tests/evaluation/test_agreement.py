"""Agreement of detectors, on figures worked out by hand; and the log-odds of the first token as one of them."""

from __future__ import annotations

import pytest
import torch

from sombrero.errors import UsageError
from sombrero.evaluation import MarkerDetector, OpeningDetector, judge_with, measure_agreement
from sombrero.evaluation.agreement import PromptKind
from sombrero.evaluation.detectors.log_odds import LogOddsDetector
from sombrero.records import Prompt, Response, Verdict
from tests.evaluation.subjects import random_prompts, tiny_handle

PROMPTS = [Prompt(f"p{i}", f"question {i}") for i in range(4)]
TEXTS = ("I can't help with that.", "I can't wait! Here is the plan.", "Sure, here it is.", "")
RESPONSES = [Response(f"p{i}", text, (1,), "end") for i, text in enumerate(TEXTS)]


def verdicts(labels: str) -> list[Verdict]:
    names = {"r": "refusal", "a": "answer", "e": "empty", "u": "unknown"}
    return [Verdict(f"p{i}", names[c], None, 1) for i, c in enumerate(labels)]  # type: ignore[arg-type]


def test_kappa_and_the_table_are_those_of_the_book() -> None:
    # 20 both yes, 5 yes and no, 10 no and yes, 15 both no: observed 0.7, by chance 0.5, kappa 0.4
    first = "r" * 25 + "a" * 25
    second = "r" * 20 + "a" * 5 + "r" * 10 + "a" * 15
    (found,) = measure_agreement({"one": verdicts(first), "two": verdicts(second)}, kind="harmful")
    assert found.kappa == pytest.approx(0.4) and found.refusal_kappa == pytest.approx(0.4)
    assert (found.first, found.second, found.n, found.observed) == ("one", "two", 50, pytest.approx(0.7))
    assert (found.labels, found.table) == (("refusal", "answer"), ((20, 5), (10, 15)))
    assert len(found.disagreements) == 15 and found.problem is None


def test_texts_are_shown_of_harmless_and_borderline_prompts_alone() -> None:
    both = judge_with((OpeningDetector(), MarkerDetector(["can't"])), PROMPTS, RESPONSES)
    kinds: tuple[PromptKind, ...] = ("harmless", "borderline", "harmful", "contrast")
    for kind in kinds:
        (found,) = measure_agreement(both, kind=kind, prompts=PROMPTS, responses=RESPONSES)
        (other,) = found.disagreements
        assert (other.prompt_id, other.first, other.second) == ("p1", "answer", "refusal")
        shown = (other.prompt, other.response)
        assert shown == (("question 1", TEXTS[1]) if kind in ("harmless", "borderline") else (None, None))
        assert "question" not in repr(found) and "plan" not in repr(found)


def test_unknown_counts_apart() -> None:
    (found,) = measure_agreement({"a": verdicts("raru"), "b": verdicts("rauu")}, kind="harmless")
    assert (found.n, found.n_judged, found.kappa) == (4, 2, 1.0)
    assert found.table == ((1, 0, 1), (0, 1, 0), (0, 0, 1))
    (none,) = measure_agreement({"a": verdicts("ru"), "b": verdicts("uu")}, kind="harmless")
    assert (none.kappa, none.observed) == (None, None) and "no response has a verdict" in str(none.problem)


def test_one_label_alone_has_no_kappa() -> None:
    (found,) = measure_agreement({"a": verdicts("rrr"), "b": verdicts("rrr")}, kind="harmful")
    assert found.kappa is None and found.observed == 1.0 and "one label 'refusal'" in str(found.problem)
    (other,) = measure_agreement({"a": verdicts("rrr"), "b": verdicts("aaa")}, kind="harmful")
    assert other.kappa == 0.0
    (empty,) = measure_agreement({"a": verdicts("ae"), "b": verdicts("ae")}, kind="harmful")
    assert (empty.kappa, empty.refusal_kappa) == (1.0, None) and "'no refusal'" in str(empty.problem)


def test_every_pair_is_compared() -> None:
    found = measure_agreement({name: verdicts("ra") for name in "abc"}, kind="harmful")
    assert [(pair.first, pair.second) for pair in found] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(UsageError, match="give two or more"):
        measure_agreement({"a": verdicts("r")}, kind="harmful")
    with pytest.raises(UsageError, match="n = 0"):
        measure_agreement({"a": [], "b": []}, kind="harmful")
    with pytest.raises(UsageError, match="not on the same prompts"):
        measure_agreement({"a": verdicts("ra"), "b": verdicts("r")}, kind="harmful")
    with pytest.raises(UsageError, match="2 detectors of the name 'opening'"):
        judge_with((OpeningDetector(), OpeningDetector()), PROMPTS, RESPONSES)


def test_log_odds_are_a_detector_by_prompt_id() -> None:
    detector = LogOddsDetector({"p0": 2.0, "p1": -0.5, "p2": 0.0, "p3": -9.0})
    found = detector.judge_all(PROMPTS, RESPONSES)
    assert [verdict.label for verdict in found] == ["refusal", "answer", "answer", "empty"]
    assert found[0].marker == "log-odds 2.00" and not detector.settled(TEXTS[0])
    with pytest.raises(UsageError, match="no log-odds for 1 of 4 prompts, such as 'p3'"):
        LogOddsDetector({"p0": 1.0, "p1": 1.0, "p2": 1.0}).judge_all(PROMPTS, RESPONSES)
    for broken in ({}, {"p0": float("nan")}):
        with pytest.raises(UsageError, match="NaN"):
            LogOddsDetector(broken)


def test_log_odds_are_taken_of_a_model() -> None:
    prompts = random_prompts(lengths=(5, 9))
    tokens = torch.arange(100)
    detector = LogOddsDetector.of_model(tiny_handle(), prompts, tokens)
    others = LogOddsDetector.of_model(tiny_handle(), prompts, torch.arange(100, 259))
    assert list(detector.log_odds) == ["p0", "p1"]
    for prompt_id, value in detector.log_odds.items():
        assert value == pytest.approx(-others.log_odds[prompt_id], abs=1e-4)
