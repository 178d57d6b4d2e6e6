"""A run folder with everything that a report can show: also the leak check, the states after the edit, a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sombrero.records import (
    Comparison,
    ComparisonVerdict,
    Difference,
    EditedPlane,
    FrontBand,
    FrontPoint,
    Interval,
    LayerLeak,
    MatchedFigures,
    MeasuredFigures,
    MeasuredTrial,
    MethodFront,
)
from sombrero.tensor_records import save_record
from tests.reports.map_records import manifold
from tests.reports.run_folders import N_LAYERS, measurement, parameters, refusal_map, write_run

METHODS = ("som", "single", "random")
LEVELS = (0.1, 0.25)
SEEDS = (0, 1)
N_EDITED = 20
"""Prompts of each kind whose states after the edit are known."""


def write_whole_run(path: Path, *, n_layers: int = N_LAYERS, texts: tuple[str, ...] = (), **settings: Any) -> Path:
    """:func:`write_run`, and all that stands beside it."""
    write_run(path, n_layers=n_layers, texts=texts, **settings)
    save_record(edited_plane(n_layers), path / "map/edited-plane.safetensors")
    leaks = [
        LayerLeak(i, (f"{i}.mlp",), 3.0, 0.4 / (1 + i), 0.1 + 0.3 / (1 + i)) for i in range(n_layers // 2, n_layers)
    ]
    (path / "leak.json").write_bytes(TypeAdapter(list[LayerLeak]).dump_json(leaks))
    (path / "compare.json").write_bytes(TypeAdapter(Comparison).dump_json(comparison(*texts[:1])))
    return path


def edited_plane(n_layers: int = N_LAYERS) -> EditedPlane:
    """Harmful prompts half way to the harmless ones; these moved a little."""
    found = manifold(refusal_map(n_layers=n_layers))
    middle = found.harmless[:, :N_EDITED].mean(dim=1, keepdim=True)
    harmful = 0.5 * (found.harmful[:, :N_EDITED] + middle)
    return EditedPlane(harmful.contiguous(), (found.harmless[:, :N_EDITED] + 0.01).contiguous())


def comparison(model: str = "embedded") -> Comparison:
    """Three methods, two levels, two seeds; nobody reaches the lower level with random directions."""
    cost = {"som": 0.1, "single": 0.12, "random": 0.3}
    figures = {method: measured(kl) for method, kl in cost.items()}
    rates = tuple(i / 10 for i in range(10))
    return Comparison(
        format=1,
        model=model,
        methods=METHODS,
        seeds=SEEDS,
        levels=LEVELS,
        trials=40,
        rules=("guarded",),
        units_offered=5,
        best_state=8,
        margin=0.1,
        resamples=200,
        prompts={"harmful": 96, "harmless": 96, "borderline": 60, "harmful_search": 64},
        base=measured(0.0),
        base_search_rate=0.95,
        verdict=ComparisonVerdict("no_better", 0.1, f"At 10% refusals the map costs as much as its controls: {model}"),
        differences=tuple(
            Difference(
                control,
                level,
                Interval(cost["som"] - cost[control], -0.05, 0.02 if control == "single" else None),
                Interval(0.0, -0.01, 0.01),
                0.012,
                "equal",
                "equal",
                (-0.02, -0.03),
            )
            for control in METHODS[1:]
            for level in LEVELS
        ),
        matched=tuple(
            MatchedFigures(method, level, 2, 2, cost[method], cost[method] / 2, 3.4, 0.02, (cost[method], cost[method]))
            for method in METHODS
            for level in LEVELS
        ),
        bands=tuple(
            FrontBand(
                method, rates, (2,) * 10, *(tuple(k * cost[method] * (1 - r) for r in rates) for k in (0.9, 1, 1.1))
            )
            for method in METHODS
        ),
        fronts=tuple(
            MethodFront(
                method,
                seed,
                {"generated": 40, "screened": 0, "failed": 0},
                (FrontPoint(3, 0.1, cost[method]),),
                (MeasuredTrial(3, parameters(3), figures[method]),),
            )
            for method in METHODS
            for seed in SEEDS
        ),
    )


def measured(kl: float) -> MeasuredFigures:
    """Figures of one trial on the reporting prompts."""
    found = measurement(9, 8, kl)
    return MeasuredFigures(found.refusals, found.refusals, found.false_refusals, kl, kl / 2, found.coherence)
