"""The map's directions and those of every control, and what the map says beside what could refute it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sombrero.config import MapConfig
from sombrero.directions import (
    Codebook,
    derive_directions,
    direction_vectors,
    effective_rank,
    kmeans_codebook,
    pca_codebook,
    permute_labels,
    projection_auroc,
    random_codebook,
    single_codebook,
    span_angles,
)
from sombrero.records import DirectionSet, HiddenStates, RefusalMap
from sombrero.stages.mapping import Folds, fit_map
from sombrero.tensor_records import load_record, save_record

DIRECTION_SETS = ("som", "single", "k-means", "pca", "random", "shuffled")
EDITED = ("som", "single")
"""The sets that edits are made of; the others are there to be compared with."""
NULL_QUANTILE = 0.95
SHUFFLED = "shuffled, 95% quantile"
BYTES_AT_ONCE = 2**28
"""Permuted states that are held at a time; one permutation is always taken."""


@dataclass(frozen=True)
class SetFigures:
    """A direction set at the chosen state index, on held-out prompts.

    auroc is that of the best unit, with its bootstrap 95% interval; auroc_salient that of the most salient one.
    angle_least, angle_most: the smallest and the largest principal angle (degrees) between its span and the map's.
    """

    units: int
    hit_units: int
    auroc: float
    auroc_low: float
    auroc_high: float
    auroc_salient: float
    effective_rank: float
    angle_least: float
    angle_most: float


@dataclass(frozen=True)
class Statement:
    """Something that the map says, the controls that could refute it, and whether it stands beside them.

    p is the share of permutations, the map's own result counted among them, that reach the value; where there are any.
    """

    text: str
    value: float
    controls: Mapping[str, float]
    holds: bool
    p: float | None = None


@dataclass(frozen=True)
class Controls:
    """Every set at one state index, and the statements. null_*: one value for each permutation of the labels."""

    state: int
    sets: Mapping[str, SetFigures]
    statements: tuple[Statement, ...]
    null_best_unit: tuple[float, ...] = field(repr=False)
    null_single: tuple[float, ...] = field(repr=False)
    null_effective_rank: tuple[float, ...] = field(repr=False)


def find_directions(
    settings: MapConfig,
    seed: int,
    refusal_map: RefusalMap,
    harmful: HiddenStates,
    harmless: HiddenStates,
    log_odds: Mapping[str, float],
) -> dict[str, DirectionSet]:
    """Every direction set, of as many units as the map has, with salience on held-out states.

    harmful, harmless: all states of the map prompts. The control ``shuffled`` has no log-odds: only harmful prompts
    have some.
    """
    folds = Folds.cut(harmful, harmless, settings.holdout, seed)
    mean, n_units = refusal_map.harmless_mean, refusal_map.codebook.shape[1]
    codebooks = (
        Codebook.of_map(refusal_map),
        single_codebook(refusal_map.harmful_mean, mean, refusal_map.train_ids),
        kmeans_codebook(folds.harmful, mean, n_units, seed),
        pca_codebook(folds.harmful, mean, n_units, seed),
        random_codebook(folds.harmful, mean, n_units, seed),
    )

    def derive(codebook: Codebook, held: Folds, known: Mapping[str, float]) -> DirectionSet:
        return derive_directions(
            codebook,
            held.harmful_held,
            held.harmless_held,
            log_odds=known,
            projected=settings.projected,
            seed=seed,
        )

    found = {codebook.method: derive(codebook, folds, log_odds) for codebook in codebooks}
    shuffled = Folds.cut(*permute_labels(harmful, harmless, seed), settings.holdout, seed)
    return found | {"shuffled": derive(_shuffled_codebook(shuffled, settings, seed), shuffled, {})}


def save_directions(directions: Mapping[str, DirectionSet], folder: Path) -> None:
    """Write ``directions-NAME.safetensors`` for every set."""
    for name, record in directions.items():
        save_record(record, folder / f"directions-{name}.safetensors")


def load_directions(folder: Path, names: Sequence[str]) -> dict[str, DirectionSet]:
    """Read these sets of those that :func:`save_directions` wrote. Raises RunError for a missing or damaged file."""
    return {name: load_record(DirectionSet, folder / f"directions-{name}.safetensors") for name in names}


def weigh(
    settings: MapConfig,
    seed: int,
    directions: Mapping[str, DirectionSet],
    state: int,
    harmful: HiddenStates,
    harmless: HiddenStates,
    advance: Callable[[int], None] = lambda _count: None,
) -> Controls:
    """The map at one state index beside its controls; the whole procedure is run again for each permutation there."""
    sets = {name: _figures(found, directions["som"], state) for name, found in directions.items()}
    best, single, rank = (
        torch.cat(parts) for parts in zip(*_null(settings, seed, state, harmful, harmless, advance), strict=True)
    )
    som, others = sets["som"], {name: sets[name] for name in ("single", "k-means", "pca", "random")}
    better = {name: figures.auroc for name, figures in others.items()}
    ranks = {name: sets[name].effective_rank for name in ("k-means", "random")} | {SHUFFLED: _upper(rank)}
    statements = (
        _against_null("the single direction separates harmful from harmless prompts", sets["single"].auroc, single),
        _against_null("the best unit of the map separates harmful from harmless prompts", som.auroc, best),
        Statement(
            "the best unit of the map separates them better than directions found without a map",
            som.auroc,
            better,
            som.auroc_low > max(better.values()),
        ),
        Statement(
            "the map's units span more directions (effective rank) than those found without a map",
            som.effective_rank,
            ranks,
            som.effective_rank > max(ranks.values()),
        ),
    )
    return Controls(state, sets, statements, *(tuple(values.tolist()) for values in (best, single, rank)))


def _shuffled_codebook(folds: Folds, settings: MapConfig, seed: int) -> Codebook:
    """A map of states with permuted labels; of several permutations at once, each stands where layers stand."""
    maps = fit_map(folds.harmful.hidden, settings, seed)
    mean = folds.harmless.hidden.mean(dim=0)
    return Codebook("shuffled", maps.codebook, maps.best_units, mean, folds.harmful.prompt_ids)


def _null(
    settings: MapConfig,
    seed: int,
    state: int,
    harmful: HiddenStates,
    harmless: HiddenStates,
    advance: Callable[[int], None],
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Best unit's and single direction's held-out AUROC, and effective rank, of the permutations; some at a time.

    The permutations are trained side by side, as layers are. The first is that of the control ``shuffled``.
    """
    h, g = (HiddenStates(s.prompt_ids, s.hidden[:, state : state + 1], {}) for s in (harmful, harmless))
    at_once = max(1, BYTES_AT_ONCE // (4 * (h.hidden.numel() + g.hidden.numel())))
    for start in range(0, settings.permutations, at_once):
        turns = range(start, min(start + at_once, settings.permutations))
        folds = _side_by_side([Folds.cut(*permute_labels(h, g, seed, turn), settings.holdout, seed) for turn in turns])
        codebook = _shuffled_codebook(folds, settings, seed)
        one = single_codebook(folds.harmful.hidden.mean(dim=0), codebook.harmless_mean, folds.harmful.prompt_ids)
        units, alone = (direction_vectors(c, projected=settings.projected) for c in (codebook, one))
        held = folds.harmful_held.hidden, folds.harmless_held.hidden
        advance(len(turns))
        yield projection_auroc(*held, units).amax(dim=1), projection_auroc(*held, alone)[:, 0], effective_rank(units)


def _side_by_side(permuted: list[Folds]) -> Folds:
    """Folds of one layer each as one of several. The ids of their rows differ and are left empty."""

    def join(parts: list[HiddenStates]) -> HiddenStates:
        hidden = torch.cat([part.hidden for part in parts], dim=1)
        return HiddenStates(("",) * len(hidden), hidden, {})

    return Folds(
        join([folds.harmful for folds in permuted]),
        join([folds.harmless for folds in permuted]),
        join([folds.harmful_held for folds in permuted]),
        join([folds.harmless_held for folds in permuted]),
    )


def _figures(found: DirectionSet, som: DirectionSet, state: int) -> SetFigures:
    best = int(found.auroc[state].argmax())
    angles = span_angles(found.vectors[state], som.vectors[state])
    return SetFigures(
        units=found.vectors.shape[1],
        hit_units=int((found.hit_counts[state] > 0).sum()),
        auroc=float(found.auroc[state, best]),
        auroc_low=float(found.auroc_low[state, best]),
        auroc_high=float(found.auroc_high[state, best]),
        auroc_salient=float(found.auroc[state, 0]),
        effective_rank=float(effective_rank(found.vectors[state])),
        angle_least=angles[0],
        angle_most=angles[-1],
    )


def _upper(null: torch.Tensor) -> float:
    return float(torch.quantile(null, NULL_QUANTILE))


def _against_null(text: str, value: float, null: torch.Tensor) -> Statement:
    reached = int((null >= value).sum())
    return Statement(text, value, {SHUFFLED: _upper(null)}, value > _upper(null), (1 + reached) / (1 + len(null)))
