"""Section: what the edit did, in one sentence and one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sombrero.records import Divergence, Measurement, Proportion, VerdictLabel
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import NOTHING, count, number, percent, state_name

SHARES: tuple[tuple[str, str], ...] = (
    ("refusals", "Refusals on harmful prompts"),
    ("false_refusals", "False refusals on borderline-safe prompts"),
    ("harmless_refusals", "Refusals on plain harmless prompts"),
    ("contrast_refusals", "Refusals on short harmful contrasts"),
    ("reasoning_refusals", "Reasoning that refuses, on harmful prompts"),
)
LABELS: tuple[tuple[VerdictLabel, str], ...] = (
    ("partial", "Harmful prompts deflected (a lecture, a question back)"),
    ("unfinished", "Harmful prompts: cut off inside the reasoning"),
    ("empty", "Harmful prompts: empty answers"),
    ("degenerate", "Harmful prompts: degenerate answers"),
)
LIMITS = {
    "max_refusals": "{value:.1%} not answered (refused, deflected or broken; at most {limit:.1%} was asked for)",
    "max_kl": "first-token KL {value:.3f} nats (at most {limit:g} was asked for)",
    "keep_true_refusals": "{value:.1%} of the true refusals kept (at least {limit:.1%} was asked for)",
}
"""How a limit that was missed is told, by its name in the summary."""
_Reader = Callable[[Measurement], float | None]
DIVERGENCES: tuple[tuple[str, _Reader], ...] = (
    ("KL from the base, first token (nats)", lambda m: m.kl.first_token),
    ("KL from the base, per token of an answer (nats)", lambda m: m.kl.sequence),
)
COHERENCE: tuple[tuple[str, _Reader], ...] = (
    ("Perplexity of harmless answers, under the base", lambda m: m.coherence.perplexity),
    ("Repeated 4-grams in harmless answers (mean share)", lambda m: m.coherence.repetition),
    ("Distinct bigrams over all tokens of them (distinct-2)", lambda m: m.coherence.distinct_2),
    ("Their mean length (tokens)", lambda m: m.coherence.mean_tokens),
    ("Empty harmless answers", lambda m: m.coherence.empty),
    ("Degenerate harmless answers", lambda m: m.coherence.degenerate),
)


def verdict(run: RunFiles) -> dict[str, Any] | None:
    """The sentence and, once the reporting prompts were asked, the figures of base, edited and baked."""
    if run.effect is None:
        if run.baseline is None:
            return None
        said, measured, models = _first_sentence(run.baseline.refusals), None, {}
    else:
        models = measured_models(run)
        said, measured = sentence(models), figures_table(models)
    notes = [note for note in (_directions(run), _missed(run)) if note is not None]
    return {"sentence": said, "measured": measured, "tiles": _tiles(models, run), "notes": notes}


def measured_models(run: RunFiles) -> dict[str, Measurement]:
    """The models that were measured on the reporting prompts, by the name of their column."""
    models: dict[str, Measurement] = {}
    if run.effect is not None and run.chosen is not None:
        models = {"Base": run.effect.base, "Edited, live": run.chosen.measurement}
    if run.verification is not None:
        models["Baked"] = run.verification.measurement
    return models


def sentence(models: dict[str, Measurement]) -> str:
    """Base against the best proven model: the baked one, else the live edit."""
    name, edited = list(models.items())[-1]
    subject = "the edited and baked model" if name == "Baked" else "the edited model (live, not baked yet)"
    return (
        f"{_calibrated(models['Base'], edited, subject)}"
        f"The base model refuses {count(models['Base'].refusals)} of the harmful reporting prompts; {subject} refuses "
        f"{count(edited.refusals)}, at a first-token KL of {number(edited.kl.first_token)} nats"
        f"{_spread(edited.kl, ' (95% interval {})')} on harmless prompts."
    )


def _spread(kl: Divergence, form: str) -> str:
    """The interval of the mean first-token KL in ``form``; empty in a record that has none."""
    spread = kl.first_token_spread
    if spread is None or spread.low is None or spread.high is None:
        return ""
    return form.format(f"{number(spread.low)}–{number(spread.high)}")


def _directions(run: RunFiles) -> str | None:
    """How many directions the map supports, beside its control, and what the number does not say."""
    if run.quality is None or run.shown_state is None:
        return None
    found, state = run.quality, run.shown_state
    chosen, control = int(found.chosen[state]), int(found.control[state])
    interval = f"{int(found.chosen_low[state])}–{int(found.chosen_high[state])}"
    said = (
        f"How many directions? At {state_name(state)}, the harmful prompts support {'one' if chosen == 1 else chosen} "
        f"(95% interval {interval}); as many harmless prompts, the control, {'one' if control == 1 else control}. "
    )
    if chosen == 1:
        return said + "One direction, or parts too faint to be told apart by so few prompts."
    if control >= chosen:
        return said + "Harmless prompts have as many parts, so this is no structure of refusal."
    return said + "Only what goes beyond the control can be refusal."


def _missed(run: RunFiles) -> str | None:
    """Which limit of the settings the picked edit does not keep to; None where it keeps to all."""
    limits = (run.summary or {}).get("constraints", {})
    missed = [
        form.format(value=limits[name]["value"], limit=limits[name]["limit"])
        for name, form in LIMITS.items()
        if name in limits and not limits[name]["met"]
    ]
    if not missed:
        return None
    picked = "No trial of the search kept to every limit; the picked one comes closest."
    return f"{picked} On the search prompts: {', '.join(missed)}."


def _tiles(models: dict[str, Measurement], run: RunFiles) -> list[dict[str, str]]:
    """The figures that a reader looks for first: what changed, what it cost, how many directions there are."""
    tiles: list[dict[str, str]] = []
    if models:
        base, edited = models["Base"], list(models.values())[-1]
        for title, key in (("Refusals, harmful prompts", "refusals"), ("False refusals, borderline", "false_refusals")):
            before, after = share_cell(getattr(base, key)), share_cell(getattr(edited, key))
            about = f"95% interval {after['interval']}, before {before['interval']}"
            tiles.append({"title": title, "before": before["percent"], "after": after["percent"], "about": about})
        cost = {"title": "Cost: KL, first token", "before": "", "after": number(edited.kl.first_token)}
        about = f"{_spread(edited.kl, '95% interval {} ')}nats, harmless prompts (0: no change); "
        tiles.append(cost | {"about": about + f"{number(edited.kl.sequence)} per token of an answer"})
    if run.quality is not None and run.shown_state is not None:
        found, state = run.quality, run.shown_state
        about = f"95% interval {int(found.chosen_low[state])}–{int(found.chosen_high[state])}, state {state}; "
        about += f"harmless prompts, the control: {int(found.control[state])}"
        tiles.append(
            {"title": "Directions supported", "before": "", "after": str(int(found.chosen[state])), "about": about}
        )
    return tiles


def _calibrated(base: Measurement, edited: Measurement, subject: str) -> str:
    """What the goal ``calibrate`` is about, before everything else; empty by ``suppress``."""
    if base.contrast_refusals is None or edited.contrast_refusals is None:
        return ""
    return (
        f"The base model refuses {count(base.false_refusals)} of the borderline-safe reporting prompts; {subject} "
        f"refuses {count(edited.false_refusals)}. Of their harmful twins the base model refuses "
        f"{count(base.contrast_refusals)}, and {subject} {count(edited.contrast_refusals)}. "
    )


def figures_table(models: dict[str, Measurement]) -> dict[str, Any]:
    """Rows of shares with their intervals, rows of plain numbers, and rows that only a close reader wants."""
    shares = [
        (label, [share_cell(getattr(m, key)) for m in models.values()])
        for key, label in SHARES
        if all(getattr(m, key) is not None for m in models.values())
    ]
    numbers = [
        # the base does not diverge from itself: a zero there would read like a measurement
        (label, [NOTHING if name == "Base" else number(read(m)) for name, m in models.items()])
        for label, read in DIVERGENCES
    ]
    further = [
        # runs older than a label did not count it
        (title, [number(m.labels[label]) for m in models.values()])
        for label, title in LABELS
        if all(label in m.labels for m in models.values())
    ]
    further += [(label, [number(read(m)) for m in models.values()]) for label, read in COHERENCE]
    unknown = [m.labels.get("unknown", 0) for m in models.values()]
    if any(unknown):
        numbers.append(("Harmful prompts without a verdict (in no share above)", [number(n) for n in unknown]))
    return {"columns": list(models), "shares": shares, "numbers": numbers, "further": further}


def share_cell(value: Proportion) -> dict[str, Any]:
    """A proportion in words, and in percent for the bar that shows its interval."""
    if value.n == 0:
        return {"count": "0/0", "percent": "none asked", "interval": "", "low": 0, "high": 0, "rate": 0}
    return {
        "count": f"{value.count}/{value.n}",
        "percent": percent(value.rate),
        "interval": f"{100 * value.low:.1f}–{100 * value.high:.1f}%",
        "low": round(100 * value.low, 2),
        "high": round(100 * value.high, 2),
        "rate": round(100 * value.rate, 2),
    }


def _first_sentence(refusals: Proportion) -> str:
    return (
        f"The base model refuses {count(refusals)} of the harmful search prompts. "
        "No edit has been measured on the reporting prompts yet."
    )
