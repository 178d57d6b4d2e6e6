"""A response that the detector could not judge is on no side of any figure."""

from __future__ import annotations

import pytest

from sombrero.errors import RunError
from sombrero.evaluation import refusal_share
from sombrero.records import Baseline, Coherence, Divergence, Measurement, Verdict
from sombrero.reports.verdict import figures_table
from sombrero.stages.baking import refusal_flips
from sombrero.stages.comparison_results import Searched, figures_of, measured_front, unanswered_rate
from sombrero.stages.reaching import kept_refusals

NAMES = {"r": "refusal", "a": "answer", "e": "empty", "u": "unknown"}


def verdicts(letters: str, kind: str = "harmful") -> tuple[Verdict, ...]:
    return tuple(Verdict(f"{kind}{i}", NAMES[c], None, 1) for i, c in enumerate(letters))  # type: ignore[arg-type]


def measured(harmful: str, contrast: str = "") -> Measurement:
    share = refusal_share(verdicts(harmful))
    return Measurement(
        refusals=share,
        false_refusals=share,
        harmless_refusals=share,
        labels={name: harmful.count(letter) for letter, name in NAMES.items()},
        kl=Divergence(0.0, 0.0, (0.0,), (0.0,)),
        coherence=Coherence(1.0, 0.0, 0, 0, 1),
        verdicts=(*verdicts(harmful), *verdicts(contrast, "contrast")),
        contrast_refusals=refusal_share(verdicts(contrast)) if contrast else None,
    )


def test_a_flip_takes_two_verdicts() -> None:
    assert refusal_flips(verdicts("rrua"), verdicts("aurr")) == ("harmful0", "harmful3")


def test_kept_refusals_are_those_judged_both_times() -> None:
    harmful, contrast = kept_refusals(measured("rrura", "rr"), measured("raruu", "ra"))
    assert (harmful.count, harmful.n) == (1, 2)
    assert (contrast.count, contrast.n) == (1, 2)


def test_what_is_unanswered_is_so_by_a_verdict() -> None:
    assert figures_of(measured("raeuu")).unanswered.rate == pytest.approx(2 / 3)
    baseline = Baseline(refusal_share(verdicts("raeuu")), verdicts("raeuu"), (), ())
    assert unanswered_rate(baseline) == pytest.approx(2 / 3)


def test_a_comparison_in_pairs_needs_every_verdict() -> None:
    assert measured_front(measured("ra"), Searched("som", 0, (), ())).unanswered.tolist() == [[1.0, 0.0]]
    with pytest.raises(RunError, match=r"1 reporting prompts have no verdict .*'harmful1'"):
        measured_front(measured("ru"), Searched("som", 0, (), ()))


def test_the_report_counts_them_where_there_are_any() -> None:
    label = "Harmful prompts without a verdict (in no share above)"
    assert (label, ["1", "0"]) in figures_table({"Base": measured("ru"), "Baked": measured("ra")})["numbers"]
    assert label not in dict(figures_table({"Base": measured("ra"), "Baked": measured("ra")})["numbers"])
