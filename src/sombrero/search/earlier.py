"""First trials from an earlier run's front, checked to be points of this search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sombrero.errors import RunError
from sombrero.records import TrialScore
from sombrero.search.front import pareto_front
from sombrero.search.space import SINGLE, SearchSpace


def earlier_points(scores: Sequence[TrialScore], space: SearchSpace) -> tuple[dict[str, Any], ...]:
    """The front of the earlier trials as points of ``space``, best refusal rate last.

    Strengths, weights and windows outside the space are brought to its edge; a rule or a choice of units that it does
    not have leaves the point out. Raises RunError when nothing is left.
    """
    points = [point for score in pareto_front(scores) if (point := _point(score, space)) is not None]
    unique = {str(sorted(point.items())): point for point in points}
    if not unique:
        raise RunError(
            f"none of the {len(scores)} trials of the earlier run is a point of this search (its rules: "
            f"{', '.join(space.rules)}); leave --warm-from out, or take the earlier run's --rules and --max-units"
        )
    return tuple(unique.values())


def _point(score: TrialScore, space: SearchSpace) -> dict[str, Any] | None:
    found = score.parameters
    units = SINGLE if found.directions == SINGLE else "+".join(map(str, found.units))
    choices = space.composed_sets if found.rule == "compose" else space.unit_sets
    profiles = tuple(found.profiles.values())
    if found.rule not in space.rules or units not in choices or not profiles:
        return None
    first, last = min(p.first for p in profiles), max(p.last for p in profiles)
    point: dict[str, Any] = {
        "rule": found.rule,
        "composed_units" if found.rule == "compose" else "units": units,
        "map_layer": "own" if found.map_layer is None else "best",
        "first_layer": min(max(first, 0), space.middle),
        "last_layer": min(max(last, space.middle), space.n_layers - 1),
    }
    for kind, (low, high) in space.strengths.items():
        profile = found.profiles.get(kind)
        point[f"strength_{kind}"] = min(max(0.0 if profile is None else profile.strength, low), high)
    for name, value, (low, high) in space.weights(found):
        point[name] = min(max(value, low), high)
    return point
