"""What a search may vary: every point it suggests can be built, and it starts from points of its own space."""

from __future__ import annotations

from math import comb
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import PartialFixedSampler, RandomSampler

from sombrero.records import DirectionSet
from sombrero.search import SearchSpace, make_space
from sombrero.search.space import BETAS, STRENGTHS

RULES: tuple[Any, ...] = ("guarded", "project", "compose")
optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def directions(n_layers: int, n_hit: list[int], best: int, m: int = 5) -> dict[str, DirectionSet]:
    """Direction sets whose map has ``n_hit`` units with hits per state index; the single direction is best at one."""
    hits = torch.tensor([[1] * k + [0] * (m - k) for k in n_hit])
    auroc = torch.full((n_layers + 1, 1), 0.5)
    auroc[best] = 0.9
    zeros = torch.zeros(n_layers + 1, m, 2)
    som = DirectionSet("som", zeros, torch.zeros_like(hits), hits, *[torch.zeros(n_layers + 1, m)] * 4, zeros[:, 0])
    return {
        "som": som,
        "single": DirectionSet("single", zeros[:, :1], hits[:, :1], hits[:, :1], *[auroc] * 4, zeros[:, 0]),
    }


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    n_layers = draw(st.integers(1, 40))
    n_hit = [1, *draw(st.lists(st.integers(1, 5), min_size=n_layers, max_size=n_layers))]
    rules = tuple(draw(st.lists(st.sampled_from(RULES), min_size=1, unique=True)))
    found = directions(n_layers, n_hit, draw(st.integers(0, n_layers)))
    return make_space(n_layers, rules, found, draw(st.integers(1, 5)))


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
    assert parameters.beta in BETAS
    assert set(parameters.profiles) == set(STRENGTHS)
    for kind, profile in parameters.profiles.items():
        low, high = STRENGTHS[kind]
        assert low <= profile.strength <= high
        assert 0 <= profile.first <= space.middle <= profile.last <= space.n_layers - 1


@settings(max_examples=40, deadline=None)
@given(spaces())
def test_the_first_points_are_points_of_the_space(space: SearchSpace) -> None:
    """Each is suggested exactly as it stands, no value of it is left to chance, and they differ."""
    points = space.warm_starts()
    assert {point["rule"] for point in points} == set(space.rules)
    assert {point["units"] for point in points} <= set(space.unit_sets)
    for point in points:
        trial, _ = ask(space, fixed=point)
        assert trial.params == point
        for name, distribution in trial.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(point[name])), name
    assert len({str(sorted(point.items())) for point in points}) == len(points)


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_the_best_state_is_one_that_a_layer_writes(space: SearchSpace) -> None:
    """State index 0 is the embeddings: every prompt ends in the same token there."""
    assert 1 <= space.best_state <= space.n_layers


@pytest.mark.parametrize(("max_units", "hit"), [(1, 5), (3, 5), (5, 3), (4, 1)])
def test_unit_sets_are_all_subsets_of_the_most_salient_units_with_hits(max_units: int, hit: int) -> None:
    space = make_space(3, RULES, directions(3, [1, 5, hit, 5], best=2), max_units)
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
    space = make_space(2, RULES, directions(2, [1, 4, 4], best=1), max_units=3)
    assert space.unit_sets == ("single", "0", "1", "2", "0+1", "0+2", "1+2", "0+1+2")
