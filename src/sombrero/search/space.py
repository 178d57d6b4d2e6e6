"""The search space: a few numbers per trial, and the points that every search starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, cast

import optuna

from sombrero.errors import UsageError
from sombrero.records import DirectionSet, EditParameters, Goal, LayerProfile, RuleName, WriterKind

ALPHAS: Mapping[Goal, float] = {"suppress": 0.01, "calibrate": 0.001}
"""The ridge. Telling false from true refusals takes a smaller one than telling harmful from harmless keys."""
BETAS = (0.25, 8.0)
"""Weight of the guards, on a logarithmic scale."""
STRENGTHS: Mapping[WriterKind, tuple[float, float]] = {"attention": (0.0, 3.5), "mlp": (0.0, 1.5)}
BALANCED_STRENGTHS: Mapping[WriterKind, tuple[float, float]] = {"attention": (0.0, 3.0), "mlp": (0.0, 2.5)}
GAMMAS = (0.5, 32.0)
"""Weight of the guards on true refusals, on a logarithmic scale; with the strengths above, for ``calibrate``."""
GENTLE_STRENGTHS = (1.3, 1.0, 1.7)
"""Of attention writers alone, along the single direction: what costs least where it is enough (notes/LOG.md)."""
SINGLE = "single"


@dataclass(frozen=True)
class SearchSpace:
    """What a search may vary.

    ``best_state`` is the state index of the chosen layer. ``unit_sets`` are the choices of directions: ``single`` or
    salience ranks of the map joined by ``+``. ``kinds`` names the kinds of writers that a rule can be baked into, where
    it is not all of them. ``first`` are points to try before all others: those of an earlier run.
    """

    n_layers: int
    rules: tuple[RuleName, ...]
    unit_sets: tuple[str, ...]
    best_state: int
    kinds: Mapping[RuleName, frozenset[WriterKind]] = field(default_factory=dict)
    goal: Goal = "suppress"
    first: tuple[dict[str, Any], ...] = ()

    @property
    def strengths(self) -> Mapping[WriterKind, tuple[float, float]]:
        """Strengths that a search asks for, by kind of writer."""
        return STRENGTHS if self.goal == "suppress" else BALANCED_STRENGTHS

    def weights(self, parameters: EditParameters) -> tuple[tuple[str, float, tuple[float, float]], ...]:
        """Weights of the guards that the rule is searched with: name, value of these parameters, range."""
        if parameters.rule != "guarded":
            return ()
        beta = ("beta", parameters.beta, BETAS)
        return (beta,) if self.goal == "suppress" else (beta, ("gamma", parameters.gamma, GAMMAS))

    @property
    def middle(self) -> int:
        """The layer that every window holds: windows start at or before it and end at or after it."""
        return (2 * self.n_layers) // 3

    @property
    def composed_sets(self) -> tuple[str, ...]:
        """Choices of directions for ``compose``: of a single one, the composed projections are the projection."""
        return tuple(units for units in self.unit_sets if "+" in units) or self.unit_sets

    def suggest(self, trial: optuna.Trial) -> EditParameters:
        """Ask the sampler for one point."""
        rule = cast(RuleName, trial.suggest_categorical("rule", self.rules))
        if rule == "compose":
            units = trial.suggest_categorical("composed_units", self.composed_sets)
        else:
            units = trial.suggest_categorical("units", self.unit_sets)
        own = trial.suggest_categorical("map_layer", ("own", "best")) == "own"
        first = trial.suggest_int("first_layer", 0, self.middle)
        last = trial.suggest_int("last_layer", self.middle, self.n_layers - 1)
        profiles: dict[WriterKind, LayerProfile] = {
            kind: LayerProfile(first, last, trial.suggest_float(f"strength_{kind}", low, high))
            for kind, (low, high) in self.strengths.items()
        }
        kinds = self.kinds.get(rule, frozenset(profiles))
        beta = trial.suggest_float("beta", *BETAS, log=True) if rule == "guarded" else 1.0
        gamma = trial.suggest_float("gamma", *GAMMAS, log=True) if self.goal == "calibrate" else 1.0
        return EditParameters(
            rule=rule,
            directions=SINGLE if units == SINGLE else "som",
            map_layer=None if own else self.best_state,
            units=(0,) if units == SINGLE else tuple(int(rank) for rank in units.split("+")),
            profiles={kind: profile for kind, profile in profiles.items() if kind in kinds},
            alpha=ALPHAS[self.goal],
            beta=beta,
            gamma=gamma,
        )

    def warm_starts(self) -> tuple[dict[str, Any], ...]:
        """Points to try first: those of an earlier run, then those that every search starts from."""
        return (*self.first, *self._own_starts())

    def _own_starts(self) -> tuple[dict[str, Any], ...]:
        """Points to try first: attention alone; later layers along all directions; one map for all; other rules."""
        if self.goal == "calibrate":
            return self._balanced_starts()
        last = self.n_layers - 1
        windows = (
            (7 * self.n_layers // 15, max(last - 2, self.middle)),
            (self.n_layers // 3, last),
            (3 * self.n_layers // 5, last),
        )
        half, wide, late = ({"map_layer": "own", "first_layer": first, "last_layer": end} for first, end in windows)
        firm = {"strength_attention": 3.0, "strength_mlp": 1.0}
        strong = {"strength_attention": 3.0, "strength_mlp": 0.75}
        attention = {"strength_attention": 2.0, "strength_mlp": 0.0}
        gentle = {**wide, "strength_mlp": 0.0, "rule": "guarded", "units": self.unit_sets[0], "beta": 3.0}
        alone = (units for units in self.unit_sets if "+" not in units)
        points: tuple[dict[str, Any], ...] = (
            *({**gentle, "strength_attention": strength} for strength in GENTLE_STRENGTHS),
            *({**half, **firm, "rule": "guarded", "units": units, "beta": 2.0} for units in alone),
            *(
                {**half, **firm, "rule": "guarded", "units": units, "beta": 4.0}
                for units in self.unit_sets[-1:]
                if "+" in units
            ),
            {**late, **strong, "rule": "guarded", "units": self.unit_sets[0], "beta": 4.0},
            # where every point before has the same choice, the sampler hardly ever makes the other
            {**gentle, "strength_attention": GENTLE_STRENGTHS[-1], "map_layer": "best"},
            {**wide, **attention, "rule": "project", "units": self.unit_sets[0]},
            {**wide, **attention, "rule": "compose", "composed_units": self.composed_sets[-1]},
            {**wide, **attention, "rule": "norm", "units": self.unit_sets[0]},
            {**wide, **attention, "rule": "affine", "units": self.unit_sets[0]},
        )
        return tuple(point for point in points if point["rule"] in self.rules)

    def _balanced_starts(self) -> tuple[dict[str, Any], ...]:
        """Points to try first by ``calibrate``: one edit along the single direction, then others, then units."""
        wide = {
            "rule": "guarded",
            "map_layer": "own",
            "first_layer": self.n_layers // 3,
            "last_layer": self.n_layers - 1,
        }
        ratio = 0.7  # of the strength of MLP writers to that of attention writers
        firm, strong, weak = (
            {"strength_attention": strength, "strength_mlp": ratio * strength, "beta": 8.0, "gamma": 32.0}
            for strength in (1.3, 1.7, 1.0)
        )
        loose = {"strength_attention": 1.1, "strength_mlp": ratio * 1.1, "beta": 4.0, "gamma": 16.0}
        alone = (units for units in self.unit_sets[1:] if "+" not in units)
        return (
            *({**wide, **point, "units": self.unit_sets[0]} for point in (firm, strong, weak, loose)),
            *({**wide, **firm, "units": units} for units in alone),
            *({**wide, **firm, "units": units} for units in self.unit_sets[-1:] if "+" in units),
        )


def make_space(
    n_layers: int,
    rules: tuple[RuleName, ...],
    directions: Mapping[str, DirectionSet],
    max_units: int,
    best_state: int,
    kinds: Mapping[RuleName, frozenset[WriterKind]] | None = None,
    goal: Goal = "suppress",
) -> SearchSpace:
    """The space for a model: ``single`` and every subset of the map's ``max_units`` most salient units with hits.

    Raises UsageError when ``best_state`` is not a state index that a layer writes.
    """
    if best_state not in range(1, n_layers + 1):
        raise UsageError(f"the best state {best_state} is not one of 1..{n_layers}, which the model's layers write")
    som = directions["som"]
    # state index 0 is left out: the template ends every prompt with the same token, so its embeddings hit one unit
    hit = int((som.hit_counts[1:] > 0).sum(dim=1).min())
    ranks = range(min(max_units, hit))
    subsets = ["+".join(map(str, c)) for size in range(1, len(ranks) + 1) for c in combinations(ranks, size)]
    return SearchSpace(n_layers, rules, (SINGLE, *subsets), best_state, kinds or {}, goal)
