"""``summary.json``: the stable, machine-readable result of a run (docs/formats.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sombrero.evaluation import paired_refusals
from sombrero.records import (
    Divergence,
    EditParameters,
    Effect,
    LayerAccounting,
    LayerLeak,
    Measurement,
    ModelEdit,
    Proportion,
    TrialScore,
    Verification,
)
from sombrero.search import screening_agreement
from sombrero.session import Session
from sombrero.stages.leak import summarize_leak
from sombrero.stages.reaching import kept_refusals, summarize_constraints
from sombrero.stages.searching import left_out_rules

FORMAT = 1


def summarize(
    session: Session,
    effect: Effect,
    edit: ModelEdit,
    scores: tuple[TrialScore, ...],
    accounting: list[LayerAccounting],
    leaks: list[LayerLeak],
    verification: Verification,
) -> dict[str, Any]:
    """The summary without timings."""
    chosen, handle, settings = effect.finalists[0], session.handle, session.config.search
    kept = {
        name: dict(zip(("harmful", "contrast"), map(proportion, kept_refusals(effect.base, measured)), strict=True))
        for name, measured in (("edited", chosen.measurement), ("baked", verification.measurement))
        if settings.goal == "calibrate"
    }
    return {
        "format": FORMAT,
        "model": {"source": handle.source, "revision": handle.revision, "class": type(handle.model).__name__},
        "goal": settings.goal,
        "base": figures(effect.base),
        "edited": figures(chosen.measurement, effect.base),
        "baked": figures(verification.measurement, effect.base),
        "paired": {
            "edited": paired(effect.base, chosen.measurement),
            "baked": paired(effect.base, verification.measurement),
        },
        **({"kept": kept} if kept else {}),
        "constraints": summarize_constraints(scores, effect.chosen, settings),
        "edit": describe_edit(chosen.parameters, edit) | {"trial": chosen.number},
        "finalists": [
            {"trial": f.number, "parameters": asdict(f.parameters)} | figures(f.measurement, effect.base)
            for f in effect.finalists
        ],
        "trials": {
            state: sum(score.state == state for score in scores) for state in ("generated", "screened", "failed")
        },
        "screening": asdict(screening_agreement(scores)),
        "rules_left_out": left_out_rules(session),
        "live_equals_baked": {
            "flips": list(verification.flips),
            "max_log_prob_difference": verification.max_log_prob_difference,
            "mean_log_prob_difference": verification.mean_log_prob_difference,
            "max_rounding_difference": verification.max_rounding_difference,
            "mean_rounding_difference": verification.mean_rounding_difference,
        },
        "coverage": {
            "max_relative_error": max(entry.relative_error for entry in accounting),
            "layers": len(accounting),
            "leak": summarize_leak(leaks, settings.max_leak),
        },
        "tensors": {"edited": verification.edited_tensors, "untouched": verification.untouched_tensors},
    }


def figures(measurement: Measurement, base: Measurement | None = None) -> dict[str, Any]:
    """One model's figures, as they stand in ``base``, ``edited`` and ``baked``.

    ``base`` gives what its answers are as long as; without it, ``length_ratio`` is null.
    """
    contrast, reasoning = measurement.contrast_refusals, measurement.reasoning_refusals
    return {
        "refusals": proportion(measurement.refusals),
        "false_refusals": proportion(measurement.false_refusals),
        "harmless_refusals": proportion(measurement.harmless_refusals),
        **({} if contrast is None else {"contrast_refusals": proportion(contrast)}),
        **({} if reasoning is None else {"reasoning_refusals": proportion(reasoning)}),
        "labels": dict(measurement.labels),
        "kl": divergence(measurement.kl) if measurement.kl else None,
        "coherence": coherence(measurement, base),
    }


def divergence(kl: Divergence) -> dict[str, Any]:
    """Means, spreads, agreement and place of the divergence, without the values of single prompts.

    An infinite value is null; ``infinite`` of the spread counts the prompts that have one.
    """
    found = asdict(kl)
    return {name: _finite(value) for name, value in found.items() if not name.endswith("by_prompt")}


def coherence(measurement: Measurement, base: Measurement | None) -> dict[str, Any]:
    """The record, with the share of answers that loop and their mean length over that of the base model's answers."""
    own = measurement.coherence
    loop_rate = None if own.loops is None else own.loops / own.n
    lengths = (own.mean_tokens, base.coherence.mean_tokens) if base else (None, None)
    ratio = lengths[0] / lengths[1] if lengths[0] is not None and lengths[1] else None
    found: dict[str, Any] = _finite(asdict(own))
    return found | {"loop_rate": loop_rate, "length_ratio": ratio}


def paired(base: Measurement, edited: Measurement) -> dict[str, Any]:
    """Refusals of two models prompt by prompt, for every set that both have verdicts of."""
    return {name: asdict(value) for name, value in paired_refusals(base, edited).items()}


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def proportion(value: Proportion) -> dict[str, float]:
    """count, n, and the Wilson interval."""
    return {"count": value.count, "n": value.n, "low": value.low, "high": value.high}


def describe_edit(parameters: EditParameters, edit: ModelEdit) -> dict[str, Any]:
    """What was edited: rule, directions, layers, strengths, rank."""
    profiles: Mapping[Any, Any] = {kind: asdict(profile) for kind, profile in parameters.profiles.items()}
    return {
        "rule": parameters.rule,
        "directions": parameters.directions,
        "map_layer": parameters.map_layer,
        "units": list(parameters.units),
        "layers": profiles,
        "alpha": parameters.alpha,
        "beta": parameters.beta,
        "gamma": parameters.gamma,
        "rank": edit_rank(edit),
        "writers": len(edit),
    }


def edit_rank(edit: ModelEdit) -> int:
    """The largest rank of the edit at any writer."""
    return max((low_rank.V.shape[1] for low_rank in edit.values()), default=0)
