"""The null and the statements: nothing is found where there is nothing, and what is planted is found."""

from __future__ import annotations

import torch

from sombrero.config import MapConfig
from sombrero.directions import Codebook, derive_directions
from sombrero.records import HiddenStates, RefusalMap
from sombrero.stages.controls import DIRECTION_SETS, Controls, find_directions, load_directions, save_directions, weigh
from sombrero.stages.mapping import Folds, fit_map
from tests.directions.samples import gaussian_states

SETTINGS = MapConfig(n_rows=2, n_columns=2, permutations=60, holdout=0.4)


def mapped(harmful: HiddenStates, harmless: HiddenStates, settings: MapConfig = SETTINGS) -> RefusalMap:
    folds = Folds.cut(harmful, harmless, settings.holdout, 0)
    maps = fit_map(folds.harmful.hidden, settings, 0)
    return RefusalMap(
        2, 2, "hexagonal", "batch", maps.codebook, maps.hit_counts, maps.best_units, maps.quantization_error,
        maps.topographic_error, maps.u_matrix, folds.harmless.hidden.mean(0), folds.harmful.hidden.mean(0),
        folds.harmful.prompt_ids,
    )  # fmt: skip


def weighed(shift: float, settings: MapConfig = SETTINGS, state: int = 1) -> Controls:
    harmful, harmless = gaussian_states(100, 100, 3, 16, shift=shift)
    found = find_directions(settings, 0, mapped(harmful, harmless), harmful, harmless, {})
    return weigh(settings, 0, found, state, harmful, harmless)


def test_every_set_is_there_with_log_odds_where_prompts_have_some(tmp_path) -> None:  # type: ignore[no-untyped-def]
    harmful, harmless = gaussian_states(40, 40, 3, 16, shift=3.0)
    odds = {name: float(i) for i, name in enumerate(harmful.prompt_ids)}
    refusal_map = mapped(harmful, harmless)
    found = find_directions(SETTINGS, 0, refusal_map, harmful, harmless, odds)
    assert tuple(found) == DIRECTION_SETS
    for name, directions in found.items():
        assert directions.method == name
        assert directions.vectors.shape == (3, 1 if name == "single" else 4, 16)
        used = directions.hit_counts > 0
        assert directions.log_odds.isnan().equal(torch.ones_like(used) if name == "shuffled" else ~used)
        assert ((directions.auroc_low <= directions.auroc) & (directions.auroc <= directions.auroc_high)).all()
    mean = sum(odds[name] for name in refusal_map.train_ids) / len(refusal_map.train_ids)
    assert torch.allclose(found["single"].log_odds, torch.tensor(mean), rtol=1e-5)
    save_directions(found, tmp_path)
    for name, directions in load_directions(tmp_path, DIRECTION_SETS).items():
        assert torch.equal(directions.vectors, found[name].vectors)
        assert torch.equal(directions.log_odds.nan_to_num(7.5), found[name].log_odds.nan_to_num(7.5))


def test_shuffled_labels_separate_nothing() -> None:
    """However strong the refusal: the null is 0.5 for a direction, and the best of four is hardly better."""
    for shift in (0.0, 20.0):
        found = weighed(shift)
        single = torch.tensor(found.null_single)
        assert len(single) == SETTINGS.permutations
        assert abs(float(single.mean()) - 0.5) < 0.03
        assert 0.5 < float(torch.tensor(found.null_best_unit).mean()) < 0.65


def test_nothing_is_said_of_states_without_refusal() -> None:
    found = weighed(0.0)
    assert [statement.holds for statement in found.statements[:3]] == [False, False, False]
    assert all(statement.p is not None and statement.p > 0.05 for statement in found.statements[:2])


def test_planted_refusal_stands_beside_its_null_but_a_map_is_not_needed_for_it() -> None:
    """One direction for all harmful prompts: single, k-means and samples find it as well as the map does."""
    found = weighed(6.0)
    separates, best, better, _ = found.statements
    assert separates.holds and best.holds and not better.holds
    assert best.p == 1 / (1 + SETTINGS.permutations)
    assert max(better.controls.values()) > 0.95


def test_spans_are_compared_with_the_maps_own() -> None:
    """The mean of what the map was trained on lies in the span of its units, or nearly; labels by chance span other."""
    sets = weighed(6.0).sets
    assert 0.0 <= sets["som"].angle_least <= sets["som"].angle_most < 1e-6
    assert sets["single"].angle_least == sets["single"].angle_most < 20.0
    assert sets["single"].angle_most < sets["shuffled"].angle_least <= sets["shuffled"].angle_most <= 90.0


def test_the_shuffled_set_is_the_first_permutation_of_the_null() -> None:
    found = weighed(2.0)
    assert abs(found.sets["shuffled"].auroc - found.null_best_unit[0]) < 1e-6
    assert abs(found.sets["shuffled"].effective_rank - found.null_effective_rank[0]) < 1e-3


def test_permutations_side_by_side_are_those_one_by_one(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    together = weighed(1.0)
    monkeypatch.setattr("sombrero.stages.controls.BYTES_AT_ONCE", 1)
    one_by_one = weighed(1.0)
    assert together.null_best_unit == one_by_one.null_best_unit


def test_the_set_of_the_map_is_derived_as_any_other() -> None:
    harmful, harmless = gaussian_states(60, 60, 2, 16, shift=1.0)
    refusal_map = mapped(harmful, harmless)
    folds = Folds.cut(harmful, harmless, SETTINGS.holdout, 0)
    som = find_directions(SETTINGS, 0, refusal_map, harmful, harmless, {})["som"]
    alone = derive_directions(Codebook.of_map(refusal_map), folds.harmful_held, folds.harmless_held)
    assert torch.equal(som.vectors, alone.vectors) and torch.equal(som.auroc_low, alone.auroc_low)
    assert torch.equal(refusal_map.hit_counts, Codebook.of_map(refusal_map).hit_counts)
