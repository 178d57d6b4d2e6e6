"""What a comparison says: a stated rule (docs/compare.md) from intervals to outcomes, a verdict and its sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from sombrero.records import (
    ComparisonVerdict,
    Difference,
    Interval,
    MatchedFigures,
    MethodName,
    Outcome,
    VerdictCode,
)

NAMES: Mapping[MethodName, str] = {
    "som": "the map",
    "single": "the single direction",
    "k-means": "k-means",
    "pca": "mean and components",
    "random": "random samples",
}


def outcome(difference: Interval, margin: float | None) -> Outcome:
    """What the interval of map − control says, with a margin in nats within which a difference does not matter."""
    low = -inf if difference.low is None else difference.low
    high = inf if difference.high is None else difference.high
    slack = 0.0 if margin is None else margin
    if -slack < low and high < slack:
        return "equal"
    if high < 0:
        return "map better"
    if low > 0:
        return "control better"
    if low > -slack:
        return "no better"
    return "not reached" if difference.value is None else "undecided"


def decide(outcomes: Mapping[MethodName, Outcome]) -> VerdictCode:
    """The verdict from the outcome against each control; the single direction, where it is one, is asked first."""
    found = set(outcomes.values())
    single = outcomes.get("single")
    if found == {"map better"}:
        return "map_better"
    if single == "map better":
        return "several_directions"
    if single in ("equal", "no better"):
        return "one_direction"
    if single == "control better" or (single is None and "control better" in found):
        return "control_better"
    if single == "not reached" or (single is None and "not reached" in found):
        return "not_reached"
    return "no_better" if single is None and found <= {"equal", "no better"} else "undecided"


def give_verdict(
    level: float, differences: Sequence[Difference], matched: Sequence[MatchedFigures], n_harmful: int, n_harmless: int
) -> ComparisonVerdict:
    """The verdict at one level, as a sentence with its numbers."""
    here = {d.control: d for d in differences if d.level == level}
    figures = {m.method: m for m in matched if m.level == level}
    code = decide({control: d.outcome for control, d in here.items()})
    first = here.get("single") or next(iter(here.values()))
    lead = _lead(code, first.control, [control for control, d in here.items() if d.outcome != "map better"])
    parts = [f"At {100 * level:g}% refusals {lead}.", _numbers(first, figures)]
    others = [d for d in here.values() if d is not first]
    if others:
        parts.append("Beside other controls: " + "; ".join(_other(d, figures) for d in others) + ".")
    if first.outcome_sequence != first.outcome:
        parts.append(f"By the sequence KL: {_words(first.outcome_sequence, first.control)}.")
    seeds = figures["som"].seeds
    many = f"{seeds} seeds" if seeds > 1 else "one seed, which says nothing of others"
    parts.append(f"(n: {n_harmful} harmful and {n_harmless} harmless prompts, {many}.)")
    return ComparisonVerdict(code, level, " ".join(parts))


def _lead(code: VerdictCode, first: MethodName, unbeaten: Sequence[MethodName]) -> str:
    names = _listed([NAMES[control] for control in unbeaten])
    return {
        "map_better": "the map's directions cost less than those of every control",
        "several_directions": "several directions cost less than one, but it takes no map to find them: the map is not "
        f"shown to be better than {names}",
        "one_direction": "one direction is enough here: the map saves nothing that matters",
        "no_better": "the map saves nothing that matters beside its controls",
        "control_better": f"{NAMES[first]} is better than the map"
        if first == "single"
        else "the map is worse than a control",
        "undecided": "the map and its controls cannot be told apart at this n"
        if first != "single"
        else "the map and the single direction cannot be told apart at this n",
        "not_reached": "nothing can be said: the level is not reached by both sides with every seed",
    }[code]


def _numbers(difference: Difference, figures: Mapping[MethodName, MatchedFigures]) -> str:
    som, control = figures["som"], figures[difference.control]
    name = NAMES[difference.control]
    if difference.first_token.value is None:
        return f"With {_reach(som)} the map reaches it, with {_reach(control)} {name} does."
    return (
        f"First-token KL {som.first_token:.3f} against {control.first_token:.3f} of {name}, difference "
        f"{_interval(difference.first_token)}; sequence KL {som.sequence:.4f} against {control.sequence:.4f}, "
        f"difference {_interval(difference.sequence, 4)} nats."
    )


def _other(difference: Difference, figures: Mapping[MethodName, MatchedFigures]) -> str:
    if difference.first_token.value is None:
        reach = f" (it reaches the level with {_reach(figures[difference.control])})"
    else:
        reach = f" ({_interval(difference.first_token)})"
    return _words(difference.outcome, difference.control) + reach


def _words(found: Outcome, control: MethodName) -> str:
    name = NAMES[control]
    return {
        "map better": f"the map is better than {name}",
        "control better": f"{name} better than the map",
        "equal": f"no difference that matters to {name}",
        "no better": f"the map no better than {name}",
        "undecided": f"not told apart from {name}",
        "not reached": f"not comparable with {name}",
    }[found]


def _reach(figures: MatchedFigures) -> str:
    return f"{figures.reached} of {figures.seeds} seeds"


def _interval(found: Interval, digits: int = 3) -> str:
    low = "−∞" if found.low is None else _signed(found.low, digits)
    high = "∞" if found.high is None else _signed(found.high, digits)
    value = "?" if found.value is None else _signed(found.value, digits)
    return f"{value} (95% interval {low} to {high})"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _listed(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
