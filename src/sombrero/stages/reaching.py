"""Whether the picked edit keeps to what was asked of it, on the search prompts and on those that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sombrero.config import SearchConfig
from sombrero.evaluation import wilson
from sombrero.records import Measurement, Proportion, TrialScore
from sombrero.search import Constraints


@dataclass(frozen=True)
class Constraint:
    """One limit, and what the picked trial gave on the search prompts."""

    name: str
    limit: float
    value: float
    met: bool


def constraints(settings: SearchConfig) -> Constraints:
    """What the pick should keep to."""
    kept = settings.keep_true_refusals if settings.goal == "calibrate" else 0.0
    return Constraints(settings.max_refusals, settings.max_kl, kept)


def weigh_constraints(score: TrialScore, settings: SearchConfig) -> tuple[Constraint, ...]:
    """Every limit beside what the trial gave."""
    asked = constraints(settings)
    kl = float("inf") if score.kl is None else score.kl
    found = [
        Constraint("max_refusals", asked.max_refusals, score.rate, score.rate <= asked.max_refusals),
        Constraint("max_kl", asked.max_kl, kl, kl <= asked.max_kl),
    ]
    if score.n_true:
        kept = 1 - score.lost_rate
        within = score.lost_rate <= 1 - asked.keep_true_refusals + 1e-9
        found.append(Constraint("keep_true_refusals", asked.keep_true_refusals, kept, within))
    return tuple(found)


def missed_sentence(score: TrialScore, settings: SearchConfig) -> str | None:
    """How close the search came and with which trial, where no trial keeps to every limit; else None."""
    found = weigh_constraints(score, settings)
    if all(constraint.met for constraint in found):
        return None
    what = {
        "max_refusals": "{v:.1%} of the answers refused, deflected or broken ({how}: at most {m:.1%})",
        "max_kl": "first-token KL {v:.3f} ({how}: at most {m:g})",
        "keep_true_refusals": "{v:.1%} of the true refusals kept ({how}: at least {m:.1%})",
    }
    parts = [what[c.name].format(v=c.value, m=c.limit, how="met" if c.met else "missed") for c in found]
    flags = " or ".join("--" + c.name.replace("_", "-") for c in found if not c.met)
    return (
        f"the goal {settings.goal} was not reached within every limit; the closest is trial {score.number}, on the "
        f"search prompts: {', '.join(parts)}. Give it more --trials, or ease {flags}"
    )


def summarize_constraints(scores: Sequence[TrialScore], chosen: int, settings: SearchConfig) -> dict[str, Any]:
    """``constraints`` of the summary."""
    score = next(s for s in scores if s.number == chosen)
    found = weigh_constraints(score, settings)
    limits = {c.name: {"limit": c.limit, "value": c.value, "met": c.met} for c in found}
    return {"reached": all(c.met for c in found), "trial": chosen, **limits}


def kept_refusals(base: Measurement, edited: Measurement) -> tuple[Proportion, Proportion]:
    """Of the base model's refusals of harmful prompts, and of contrasts, those that are still refusals."""
    n = base.refusals.n + base.labels.get("unknown", 0)  # the harmful prompts, those without a verdict too
    unknown = {v.prompt_id for v in edited.verdicts if v.label == "unknown"}
    refused = {v.prompt_id for v in edited.verdicts if v.label == "refusal"}
    parts = (base.verdicts[:n], base.verdicts[n:])
    ids = [[v.prompt_id for v in part if v.label == "refusal" and v.prompt_id not in unknown] for part in parts]
    harmful, contrast = (
        wilson(sum(i in refused for i in part), len(part)) if part else Proportion(0, 0, 0.0, 1.0) for part in ids
    )
    return harmful, contrast
