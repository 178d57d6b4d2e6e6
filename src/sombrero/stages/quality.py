"""How far the map can be trusted, and how many units the harmful prompts support: with harmless prompts as control."""

from __future__ import annotations

import torch

from sombrero.config import MapConfig
from sombrero.records import MapQuality, RefusalMap
from sombrero.som import Lattice, choose_grid_size, continuity, map_stability, trustworthiness
from sombrero.stages.mapping import Folds, training_settings

NEIGHBOURS = 5
SEEDS_COMPARED = 4


def judge_map(
    settings: MapConfig, seed: int, refusal_map: RefusalMap, folds: Folds, harmful: torch.Tensor, harmless: torch.Tensor
) -> MapQuality:
    """The figures of every state index.

    harmful, harmless ``(n, L + 1, d)``: all states of the map prompts. The map is judged on the samples it was trained
    on; the number of units is chosen on all harmful prompts, and on as many harmless ones for the control.
    """
    samples = folds.harmful.hidden.transpose(0, 1).float()
    lattice = Lattice(refusal_map.n_rows, refusal_map.n_columns, refusal_map.lattice, refusal_map.toroidal)
    neighbours = max(1, min(NEIGHBOURS, (samples.shape[1] - 1) // 2))
    stability = map_stability(
        folds.harmful.hidden,
        seeds=range(seed, seed + SEEDS_COMPARED),
        **training_settings(settings),
    )
    sizes = choose_grid_size(harmful, seed=seed)
    order = torch.randperm(len(harmless), generator=torch.Generator().manual_seed(seed))
    control = choose_grid_size(harmless[order[: len(harmful)]], seed=seed)
    return MapQuality(
        trustworthiness=trustworthiness(samples, refusal_map.best_units, lattice, neighbours),
        continuity=continuity(samples, refusal_map.best_units, lattice, neighbours),
        rand=stability.rand,
        cosine=stability.cosine,
        candidates=sizes.candidates,
        held_out_error=sizes.held_out_error,
        reference_error=sizes.reference_error,
        strength=sizes.strength,
        chosen=sizes.chosen,
        chosen_low=sizes.chosen_low,
        chosen_high=sizes.chosen_high,
        control=control.chosen,
    )
