"""The search space of a comparison: the codebook is all that differs between methods."""

from __future__ import annotations

import optuna
import pytest

from sombrero.records import RuleName
from sombrero.search import FairSpace, unit_sets

METHODS = ("som", "single", "k-means", "pca", "random")
RULES: tuple[tuple[RuleName, ...], ...] = (("guarded",), ("compose", "project"), ("norm",))


def space(method: str, rules: tuple[RuleName, ...] = ("guarded",), n_units: int = 3) -> FairSpace:
    return FairSpace(12, rules, unit_sets(method, n_units), 8, {}, method=method)


@pytest.mark.parametrize("rules", RULES)
def test_every_method_starts_from_the_same_settings(rules: tuple[RuleName, ...]) -> None:
    starts = {method: space(method, rules).warm_starts() for method in METHODS}
    without = {
        method: [{name: v for name, v in point.items() if not name.endswith("units")} for point in points]
        for method, points in starts.items()
    }
    assert len(starts["som"]) == 5
    assert all(points == without["som"] for points in without.values())
    assert starts["som"] == starts["random"] == starts["k-means"] == starts["pca"]


def test_the_starts_try_each_unit_and_all_together() -> None:
    assert [point["units"] for point in space("som").warm_starts()] == ["0", "0+1+2", "1", "2", "0"]
    assert {point["units"] for point in space("single").warm_starts()} == {"single"}
    assert {point["units"] for point in space("som", n_units=1).warm_starts()} == {"0"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rules", RULES)
def test_a_method_edits_along_its_own_directions_alone(method: str, rules: tuple[RuleName, ...]) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    found = space(method, rules)
    for start in found.warm_starts():
        study.enqueue_trial(start)
    seen = set()
    for _ in range(40):
        parameters = found.suggest(study.ask())
        assert parameters.directions == method
        seen.add(parameters.units)
    subsets = {(0,)} if method == "single" else {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)}
    assert seen <= subsets and len(seen) >= min(4, len(subsets))
