"""``summary.json``: the stable, machine-readable result of a run (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sombrero.records import (
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
        "edited": figures(chosen.measurement),
        "baked": figures(verification.measurement),
        **({"kept": kept} if kept else {}),
        "constraints": summarize_constraints(scores, effect.chosen, settings),
        "edit": describe_edit(chosen.parameters, edit) | {"trial": chosen.number},
        "finalists": [
            {"trial": f.number, "parameters": asdict(f.parameters)} | figures(f.measurement) for f in effect.finalists
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


def figures(measurement: Measurement) -> dict[str, Any]:
    """One model's figures, as they stand in ``base``, ``edited`` and ``baked``."""
    kl, contrast = measurement.kl, measurement.contrast_refusals
    return {
        "refusals": proportion(measurement.refusals),
        "false_refusals": proportion(measurement.false_refusals),
        "harmless_refusals": proportion(measurement.harmless_refusals),
        **({} if contrast is None else {"contrast_refusals": proportion(contrast)}),
        "labels": dict(measurement.labels),
        "kl": {"first_token": kl.first_token, "sequence": kl.sequence} if kl else None,
        "coherence": asdict(measurement.coherence),
    }


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
