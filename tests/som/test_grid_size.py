"""The number of units that samples support: what was planted is found, and nothing where nothing was."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from sombrero.errors import NumericalError, UsageError
from sombrero.som import GridSizes, choose_grid_size, fit_layers, grid_shape
from sombrero.som.stability import assignment_agreement, matched_cosine
from sombrero.states import plant_states
from tests.som.samples import clustered, isotropic

CANDIDATES = (1, 2, 3, 4, 5, 6, 8)
FEW = {"candidates": (1, 2, 3, 4), "n_repeats": 8, "n_references": 12}


def layers(*samples: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(samples, axis=1)).float()


def assert_same(one: GridSizes, other: GridSizes) -> None:
    for field in fields(GridSizes):
        torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6])
def test_the_planted_number_of_lobes_is_found(k: int) -> None:
    """Nothing is planted in the first state; lobes 12 and 17 noise deviations apart in the others."""
    planted = plant_states(n_lobes=k, d=200, strengths=(0.0, 8.5, 12.0), length=2.0, seed=k)
    sizes = choose_grid_size(planted.harmful.hidden, candidates=CANDIDATES)
    assert sizes.chosen.tolist() == [1, k, k]
    assert sizes.chosen_low.tolist() == sizes.chosen_high.tolist() == [1, k, k]
    assert sizes.structured.tolist() == [False, k > 1, k > 1]
    assert choose_grid_size(planted.harmless.hidden, candidates=CANDIDATES).chosen.tolist() == [1, 1, 1]


@pytest.mark.parametrize("manifold_seed", [0, 1])
def test_a_map_of_the_chosen_size_recovers_lobes_and_directions(manifold_seed: int) -> None:
    planted = plant_states(n_lobes=4, d=200, strengths=(12.0,), topic=1.0, length=2.0, seed=manifold_seed)
    n_rows, n_columns = grid_shape(int(choose_grid_size(planted.harmful.hidden, candidates=CANDIDATES).chosen[0]))
    assert (n_rows, n_columns) == (2, 2)
    maps = fit_layers(planted.harmful.hidden, n_rows=n_rows, n_columns=n_columns)
    assert float(assignment_agreement(maps.best_units, planted.lobes[None])) == 1.0
    mu = planted.harmless.hidden.mean(dim=0)
    assert float(matched_cosine(maps.codebook, planted.directions + mu[:, None], mu)) > 0.97
    assert float(matched_cosine(maps.codebook, planted.directions + mu[:, None])) > 0.95


def test_elongation_and_noise_are_one() -> None:
    """Also where the prediction strength of two units of a flat Gaussian (the last) would pass for stable."""
    random = np.random.RandomState(0)
    noise = [random.standard_normal((160, 100)) for _ in range(6)]
    noise[1][:, 0] *= 20.0
    noise[2][:, 0] *= 100.0
    noise[3] *= np.arange(1, 101) ** -1.0
    noise[4][:, 2:] = 0.0
    noise[5][:, 1:] = 0.0
    sizes = choose_grid_size(layers(*noise), candidates=CANDIDATES)
    assert sizes.chosen.tolist() == [1] * 6
    assert sizes.excess.max() < 4.0
    assert sizes.strength[5, 1] > 0.8


def test_false_lobes_are_rare() -> None:
    """Of 100 sets of flat Gaussian samples, many of which two units part stably, at most 3 are said to hold lobes."""
    random = np.random.RandomState(1)
    samples = torch.from_numpy(random.standard_normal((60, 100, 2)) * np.array([1.0, 0.1])).float()
    sizes = choose_grid_size(samples, **FEW)
    assert (sizes.strength[:, 1] > 0.8).sum() > 15
    assert (sizes.chosen > 1).sum() <= 3


def test_permuted_harm_labels_find_the_same_in_both_groups() -> None:
    """Drawn from harmful and harmless alike, either group holds the harmless lobe and those of refusal."""
    planted = plant_states(n_lobes=3, d=100, strengths=(12.0,), seed=0)
    everything = torch.cat([planted.harmful.hidden, planted.harmless.hidden])
    order = torch.randperm(320, generator=torch.Generator().manual_seed(0))
    groups = [everything[part] for part in order.split(160)]
    first, second = (choose_grid_size(group, candidates=CANDIDATES).chosen for group in groups)
    assert first.tolist() == second.tolist() == [4]
    apart = (groups[0].mean(dim=0) - groups[1].mean(dim=0)).norm()
    assert apart < 0.25 * planted.directions.mean(dim=1).norm()


def test_topics_are_counted_too_and_the_harmless_control_shows_it() -> None:
    """One direction of refusal in prompts of four well parted topics: four lobes in either kind of prompts."""
    planted = plant_states(n_lobes=1, d=100, strengths=(12.0,), n_topics=4, topic=10.0)
    for states in (planted.harmful, planted.harmless):
        assert choose_grid_size(states.hidden, candidates=CANDIDATES).chosen.tolist() == [4]


def test_a_ring_is_structure_without_a_number() -> None:
    sizes = choose_grid_size(plant_states("ring", d=100, strengths=(20.0,)).harmful.hidden, candidates=CANDIDATES)
    assert sizes.structured.all() and sizes.excess.max() > 5.0
    assert sizes.chosen.tolist() == [1] and sizes.strength[0, 1:].max() < 0.8


def test_a_long_line_is_two_or_three_and_a_short_one_is_one() -> None:
    planted = plant_states("line", d=100, strengths=(3.0, 30.0))
    sizes = choose_grid_size(planted.harmful.hidden, candidates=CANDIDATES)
    assert sizes.chosen[0] == 1 and sizes.chosen[1] in (1, 2, 3)
    assert sizes.chosen_high[1] > 1


def test_faint_lobes_widen_the_interval() -> None:
    """8 noise deviations apart in 576 features, three lobes are at the edge of what 160 samples show."""
    planted = plant_states(d=576, strengths=(8.0 / 2**0.5,) * 8, seed=1)
    sizes = choose_grid_size(planted.harmful.hidden, candidates=(1, 2, 3, 4, 5))
    assert ((sizes.chosen_low == 1) & (sizes.chosen_high == 3)).float().mean() > 0.5
    assert ((sizes.chosen_low <= sizes.chosen) & (sizes.chosen <= sizes.chosen_high)).all()
    assert sizes.structured.all()


def test_a_layer_depends_on_itself_alone_whatever_the_threads() -> None:
    hidden, before = (
        layers(clustered(60, 80, 0, k=3)[0], isotropic(60, 80, 1), np.ones((60, 80))),
        torch.get_num_threads(),
    )
    together = choose_grid_size(hidden, **FEW)
    assert together.chosen.tolist() == [3, 1, 1]
    for layer in range(3):
        alone = choose_grid_size(hidden[:, [layer]], **FEW)
        assert torch.equal(alone.choices[0], together.choices[layer])
        assert torch.equal(alone.held_out_error[0], together.held_out_error[layer])
    try:
        torch.set_num_threads(3)
        again = choose_grid_size(hidden, **FEW)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert_same(together, again)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = layers(clustered(60, 80, 0, k=3)[0], isotropic(60, 80, 1))
    whole = choose_grid_size(hidden, **FEW)
    monkeypatch.setattr("sombrero.som.grid_size.CHUNK_BYTES", 1)
    assert_same(whole, choose_grid_size(hidden, **FEW))


def test_only_inner_products_about_the_mean_count() -> None:
    """Shift, scale and a rotation of the features change nothing but the unit of the errors."""
    hidden = layers(clustered(60, 80, 0, k=3)[0], isotropic(60, 80, 1))
    plain = choose_grid_size(hidden, **FEW)
    turned = choose_grid_size(3.0 * hidden.double() @ torch.linalg.qr(torch.randn(80, 80).double()).Q + 100.0, **FEW)
    assert torch.equal(plain.choices, turned.choices)
    torch.testing.assert_close(3.0 * plain.held_out_error, turned.held_out_error, rtol=1e-4, atol=0)


def test_repeated_samples() -> None:
    """The same sample throughout is one; two different ones are two."""
    one = np.full((40, 10), 1000.1)
    two = np.where(np.arange(40)[:, None] % 2 == 0, isotropic(1, 10, 0), isotropic(1, 10, 1))
    sizes = choose_grid_size(layers(one, two), **FEW)
    assert sizes.chosen.tolist() == [1, 2]
    assert all(torch.isfinite(getattr(sizes, field.name)).all() for field in fields(GridSizes))


def test_shapes_types_and_default_candidates() -> None:
    hidden = layers(isotropic(80, 30, 0), isotropic(80, 30, 1)).bfloat16()
    sizes = choose_grid_size(hidden, n_repeats=4, n_references=5)
    assert sizes.candidates.tolist() == [1, 2, 3, 4, 5, 6, 8, 9]  # a half is 40 samples, 4 for each unit at least
    for name in ("held_out_error", "strength", "rand", "reference_error", "excess"):
        assert getattr(sizes, name).shape == (2, 8) and getattr(sizes, name).dtype == torch.float32
    for name in ("chosen", "chosen_low", "chosen_high"):
        assert getattr(sizes, name).shape == (2,) and getattr(sizes, name).dtype == torch.int64
    assert sizes.choices.shape == (2, 4)
    assert (sizes.strength[:, 0] == 1.0).all() and (sizes.excess[:, 0] == 0.0).all()


def test_more_samples_than_can_be_compared_are_thinned() -> None:
    hidden = layers(clustered(900, 6, 0, k=3, noise=0.1)[0])
    assert choose_grid_size(hidden, candidates=(2, 3, 4), n_repeats=3, n_references=5).chosen.tolist() == [3]


def test_a_number_of_units_becomes_the_most_square_grid() -> None:
    shapes = [grid_shape(units) for units in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16)]
    assert shapes == [(1, 1), (1, 2), (1, 3), (2, 2), (1, 5), (2, 3), (1, 7), (2, 4), (3, 3), (3, 4), (4, 4)]
    with pytest.raises(UsageError, match="grid of 0 units"):
        grid_shape(0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": (1, 11)}, r"candidates are \[1, 11\]; with 20 samples .* from 1 to 10"),
        ({"candidates": (0, 2)}, r"candidates are \[0, 2\]"),
        ({"candidates": (2, 2)}, r"candidates are \[2, 2\]"),
        ({"candidates": ()}, r"candidates are \[\]"),
        ({"n_repeats": 1}, "n_repeats is 1"),
        ({"n_references": 1}, "n_references 1"),
        ({"least_strength": 0.0}, "least_strength is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_grid_size(layers(isotropic(20, 5, 0)), **settings)  # type: ignore[arg-type]


def test_samples_that_cannot_be_halved_or_are_not_finite_are_refused() -> None:
    with pytest.raises(UsageError, match="3 samples are too few"):
        choose_grid_size(layers(isotropic(3, 5, 0)))
    with pytest.raises(UsageError, match=r"shape \(20, 5\)"):
        choose_grid_size(torch.from_numpy(isotropic(20, 5, 0)))
    hidden = layers(isotropic(20, 5, 0))
    hidden[3, 0, 2] = float("inf")
    with pytest.raises(NumericalError, match="infinity"):
        choose_grid_size(hidden)
