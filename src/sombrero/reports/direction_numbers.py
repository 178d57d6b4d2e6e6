"""What figures tell of direction sets: which directions they show, how these lie to each other, how they separate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sombrero.reports.run_files import CONTROLS, RunFiles
from sombrero.reports.wording import finite

if TYPE_CHECKING:
    import torch

    from sombrero.records import DirectionSet

MOST_UNITS, MOST_CONTROLS = 12, 3
"""Directions of the map, and of each control, in a matrix whose numbers are still readable; the most salient ones."""

METHODS = ("som", "single", *CONTROLS)
NULL = "shuffled"
METHOD_NAMES = {
    "som": "map",
    "single": "single direction",
    "k-means": "k-means",
    "pca": "mean and components",
    "random": "random samples",
    NULL: "shuffled labels (null)",
}


@dataclass(frozen=True)
class Separation:
    """AUROC of one direction with its 95% interval, None where not measured; ``hits`` are its training samples."""

    unit: int
    hits: int
    auroc: float | None
    low: float | None
    high: float | None


def direction_sets(run: RunFiles) -> dict[str, DirectionSet]:
    """Every set that the run has, by method, in the order of figures."""
    sets = {"som": run.som, "single": run.single, **run.controls}
    return {name: found for name in METHODS if (found := sets.get(name)) is not None}


def separations(found: DirectionSet, index: int) -> list[Separation]:
    """Every direction that was hit at a state index, most salient first; the first one even without a hit."""
    columns = (found.units, found.hit_counts, found.auroc, found.auroc_low, found.auroc_high)
    rows = list(zip(*(column[index].tolist() for column in columns), strict=True))
    return [
        Separation(unit, hits, finite(auroc), finite(low), finite(high))
        for rank, (unit, hits, auroc, low, high) in enumerate(rows)
        if hits > 0 or rank == 0
    ]


def cosines(run: RunFiles, index: int) -> tuple[list[str], list[list[float | None]]]:
    """Names of the most salient directions of all sets at a state index, and their cosines with each other."""
    import torch

    names: list[str] = []
    vectors: list[torch.Tensor] = []
    for method, found in direction_sets(run).items():
        hit = max(1, int((found.hit_counts[index] > 0).sum()))
        shown = min(hit, MOST_UNITS if method == "som" else MOST_CONTROLS, found.vectors.shape[1])
        vectors.append(found.vectors[index, :shown].to(torch.float64))
        for rank in range(shown):
            unit = int(found.units[index, rank])
            names.append(_direction_name(method, unit, rank))
    unit_vectors = torch.nn.functional.normalize(torch.cat(vectors), dim=-1)
    matrix = (unit_vectors @ unit_vectors.mT).clamp(-1, 1)
    return names, [[finite(value, 3) for value in row] for row in matrix.tolist()]


def _direction_name(method: str, unit: int, rank: int) -> str:
    if method == "single":
        return "single"
    return f"unit {unit}" if method == "som" else f"{method} {rank + 1}"
