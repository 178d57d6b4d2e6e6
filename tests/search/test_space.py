"""What a search may vary: every point it suggests can be built, and it starts from points of its own space."""

from __future__ import annotations

from math import comb
from typing import Any, get_args

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import PartialFixedSampler, RandomSampler

from sombrero.errors import UsageError
from sombrero.records import DirectionSet, RuleName
from sombrero.search import SearchSpace, make_space
from sombrero.search.space import BETAS, STRENGTHS

RULES: tuple[Any, ...] = get_args(RuleName)
optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def directions(n_layers: int, n_hit: list[int], m: int = 5) -> dict[str, DirectionSet]:
    """Direction sets whose map has ``n_hit`` units with hits per state index."""
    hits = torch.tensor([[1] * k + [0] * (m - k) for k in n_hit])
    auroc = torch.full((n_layers + 1, 1), 0.5)
    zeros = torch.zeros(n_layers + 1, m, 2)
    flat, first, mean = torch.zeros(n_layers + 1, m), hits[:, :1], zeros[:, 0]
    return {
        "som": DirectionSet("som", zeros, torch.zeros_like(hits), hits, flat, flat, flat, flat, mean),
        "single": DirectionSet("single", zeros[:, :1], first, first, auroc, auroc, auroc, auroc, mean),
    }


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    n_layers = draw(st.integers(1, 40))
    n_hit = [1, *draw(st.lists(st.integers(1, 5), min_size=n_layers, max_size=n_layers))]
    rules = tuple(draw(st.lists(st.sampled_from(RULES), min_size=1, unique=True)))
    best = draw(st.integers(1, n_layers))
    return make_space(n_layers, rules, directions(n_layers, n_hit), draw(st.integers(1, 5)), best)


def ask(space: SearchSpace, seed: int = 0, fixed: dict[str, Any] | None = None) -> tuple[optuna.Trial, Any]:
    sampler = RandomSampler(seed=seed)
    study = optuna.create_study(sampler=PartialFixedSampler(fixed, sampler) if fixed else sampler)
    trial = study.ask()
    return trial, space.suggest(trial)


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 2**31))
def test_every_suggestion_lies_in_the_space(space: SearchSpace, seed: int) -> None:
    _, parameters = ask(space, seed)
    assert parameters.rule in space.rules
    units = "+".join(map(str, parameters.units))
    assert (parameters.directions == "single" and units == "0") or units in space.unit_sets
    assert parameters.map_layer in (None, space.best_state)
    assert BETAS[0] <= parameters.beta <= BETAS[1]
    assert set(parameters.profiles) == set(STRENGTHS)
    for kind, profile in parameters.profiles.items():
        low, high = STRENGTHS[kind]
        assert low <= profile.strength <= high
        assert 0 <= profile.first <= space.middle <= profile.last <= space.n_layers - 1


def test_a_rule_edits_the_kinds_of_writers_that_can_hold_it() -> None:
    """Where attention alone has biases, ``affine`` is searched for there, and the others everywhere."""
    kinds = {"affine": frozenset({"attention"}), "project": frozenset(STRENGTHS)}
    space = make_space(3, ("affine", "project"), directions(3, [1, 5, 5, 5]), 3, 2, kinds)  # type: ignore[arg-type]
    for seed in range(20):
        _, parameters = ask(space, seed)
        assert set(parameters.profiles) == kinds[parameters.rule]


@settings(max_examples=40, deadline=None)
@given(spaces())
def test_the_first_points_are_points_of_the_space(space: SearchSpace) -> None:
    """Each is suggested exactly as it stands, no value of it is left to chance, and they differ."""
    points = space.warm_starts()
    assert {point["rule"] for point in points} == set(space.rules)
    assert {point.get("units", point.get("composed_units")) for point in points} <= set(space.unit_sets)
    for point in points:
        trial, _ = ask(space, fixed=point)
        assert trial.params == point
        for name, distribution in trial.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(point[name])), name
    assert len({str(sorted(point.items())) for point in points}) == len(points)


@pytest.mark.parametrize("best", [0, 4])
def test_the_best_state_is_one_that_a_layer_writes(best: int) -> None:
    """State index 0 is the embeddings: every prompt ends in the same token there."""
    with pytest.raises(UsageError, match=rf"best state {best} is not one of 1..3"):
        make_space(3, RULES, directions(3, [1, 5, 5, 5]), 3, best)


@pytest.mark.parametrize(("max_units", "hit"), [(1, 5), (3, 5), (5, 3), (4, 1)])
def test_unit_sets_are_all_subsets_of_the_most_salient_units_with_hits(max_units: int, hit: int) -> None:
    space = make_space(3, RULES, directions(3, [1, 5, hit, 5]), max_units, 2)
    n = min(max_units, hit)
    assert space.unit_sets[0] == "single"
    assert len(space.unit_sets) - 1 == len(set(space.unit_sets[1:])) == sum(comb(n, k) for k in range(1, n + 1))
    for subset in space.unit_sets[1:]:
        ranks = [int(rank) for rank in subset.split("+")]
        assert ranks == sorted(set(ranks)) and set(ranks) <= set(range(n))
    assert space.unit_sets[-1] == "+".join(map(str, range(n)))
    assert space.best_state == 2


def test_the_embeddings_of_the_last_token_do_not_narrow_the_search() -> None:
    """All prompts end in the same token, so at state index 0 one unit takes every hit."""
    space = make_space(2, RULES, directions(2, [1, 4, 4]), max_units=3, best_state=1)
    assert space.unit_sets == ("single", "0", "1", "2", "0+1", "0+2", "1+2", "0+1+2")
