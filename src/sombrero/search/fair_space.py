"""The search space of a comparison: one direction source, and for all of them the same settings and starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, cycle
from typing import Any

import optuna

from sombrero.records import EditParameters
from sombrero.search.space import SINGLE, SearchSpace

STARTS = 5
"""Warm starts of every direction source."""


@dataclass(frozen=True)
class FairSpace(SearchSpace):
    """A :class:`SearchSpace` over the directions of one ``method`` alone, without the single direction as a way out.

    The starts are the same settings for every method; only the units differ, and ``single`` has one.
    """

    method: str = SINGLE

    def suggest(self, trial: optuna.Trial) -> EditParameters:
        """Ask the sampler for one point."""
        return replace(super().suggest(trial), directions=self.method)

    def warm_starts(self) -> tuple[dict[str, Any], ...]:
        """``STARTS`` points: the most salient unit, all units together, then each other unit, from the top again."""
        last = self.n_layers - 1
        half = (7 * self.n_layers // 15, max(last - 2, self.middle))
        late, wide = (3 * self.n_layers // 5, last), (self.n_layers // 3, last)
        settings = (
            (half, 3.0, 1.0, 2.0),
            (half, 3.0, 1.0, 4.0),
            (late, 3.0, 0.75, 4.0),
            (half, 2.0, 0.5, 2.0),
            (wide, 2.0, 0.25, 1.0),
        )
        alone = [units for units in self.unit_sets if "+" not in units]
        together = [units for units in self.unit_sets[-1:] if "+" in units]
        order = cycle(dict.fromkeys([*alone[:1], *together, *alone[1:]]))
        return tuple(
            self._start(window, {"strength_attention": attention, "strength_mlp": mlp}, beta, units)
            for (window, attention, mlp, beta), units in zip(settings[:STARTS], order, strict=False)
        )

    def _start(self, window: tuple[int, int], strengths: dict[str, float], beta: float, units: str) -> dict[str, Any]:
        rule = "guarded" if "guarded" in self.rules else self.rules[0]
        chosen = {"composed_units": units if units in self.composed_sets else self.composed_sets[-1]}
        return {
            "rule": rule,
            "map_layer": "own",
            "first_layer": window[0],
            "last_layer": window[1],
            **strengths,
            **(chosen if rule == "compose" else {"units": units}),
            **({"beta": beta} if rule == "guarded" else {}),
        }


def unit_sets(method: str, n_units: int) -> tuple[str, ...]:
    """Every subset of a method's ``n_units`` most salient directions; of ``single`` its one direction."""
    if method == SINGLE:
        return (SINGLE,)
    ranks = range(n_units)
    return tuple("+".join(map(str, c)) for size in range(1, n_units + 1) for c in combinations(ranks, size))
