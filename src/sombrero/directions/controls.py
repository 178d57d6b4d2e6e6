"""Control direction sets: what the map must be compared with."""

from __future__ import annotations

import torch

from sombrero.directions.derive import derive_directions
from sombrero.records import DirectionSet, HiddenStates, RefusalMap


def single_direction(
    refusal_map: RefusalMap, harmful: HiddenStates, harmless: HiddenStates, *, projected: bool = False
) -> DirectionSet:
    """The difference of means (Arditi et al. 2024, eq. 2): what a 1x1 map gives, as a direction set of one unit."""
    n_states, n_train = refusal_map.codebook.shape[0], len(refusal_map.train_ids)
    one_unit = RefusalMap(
        n_rows=1,
        n_columns=1,
        lattice=refusal_map.lattice,
        rule=refusal_map.rule,
        codebook=refusal_map.harmful_mean[:, None, :],
        hit_counts=torch.full((n_states, 1), n_train, dtype=torch.int64),
        best_units=torch.zeros((n_states, n_train), dtype=torch.int64),
        quantization_error=refusal_map.quantization_error,
        topographic_error=torch.zeros(n_states),
        u_matrix=torch.zeros((n_states, 1)),
        harmless_mean=refusal_map.harmless_mean,
        harmful_mean=refusal_map.harmful_mean,
        train_ids=refusal_map.train_ids,
    )
    return derive_directions(one_unit, harmful, harmless, method="single", projected=projected)
