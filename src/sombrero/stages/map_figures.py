"""The figures of a map at its chosen layer, as the verb ``map`` returns and prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sombrero.directions import LayerChoice
from sombrero.records import Baseline, DirectionSet, LayerAccounting, MapQuality, RefusalMap, UnitProfile
from sombrero.stages.controls import Controls


def map_figures(
    baseline: Baseline,
    refusal_map: RefusalMap,
    som: DirectionSet,
    choice: LayerChoice,
    controls: Controls,
    quality: MapQuality,
    units: Sequence[UnitProfile],
    accounting: Sequence[LayerAccounting],
) -> dict[str, Any]:
    """JSON-able, without prompts or their ids. The lists ``hit_counts`` and ``units`` are in the order of the map's
    units, ``auroc_units`` by salience. None stands for what was not measured."""
    best = choice.state
    support = (quality.chosen, quality.chosen_low, quality.chosen_high, quality.control)
    return {
        "base_refusals": {"count": baseline.refusals.count, "n": baseline.refusals.n},
        "best_state_index": best,
        "layer_rule": choice.rule,
        "layer_within_bound": choice.within_bound,
        "auroc_single": controls.sets["single"].auroc,
        "auroc_units": som.auroc[best].tolist(),
        "hit_counts": refusal_map.hit_counts[best].tolist(),
        "quantization_error": float(refusal_map.quantization_error[best]),
        "topographic_error": float(refusal_map.topographic_error[best]),
        "trustworthiness": float(quality.trustworthiness[best]),
        "continuity": float(quality.continuity[best]),
        "stability": {"rand": float(quality.rand[best]), "cosine": float(quality.cosine[best])},
        "supported_units": {
            name: int(values[best]) for name, values in zip(("chosen", "low", "high", "control"), support, strict=True)
        },
        "max_accounting_error": max(entry.relative_error for entry in accounting),
        "controls": {name: asdict(figures) for name, figures in controls.sets.items()},
        "permutations": len(controls.null_best_unit),
        "statements": [asdict(statement) for statement in controls.statements],
        "units": [
            {"unit": p.unit, "prompts": len(p.prompt_ids), "categories": dict(p.categories), "log_odds": p.log_odds}
            for p in units
        ],
    }
