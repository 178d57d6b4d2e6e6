"""The codebooks of some layers, by either rule, in whichever space is least work and takes bounded memory.

Few samples are mapped exactly, from their inner products. Of many, two candidates are made: a map of a subset, exactly;
and a map of a larger pool in the subspace of its widest directions, which follows structure where the subset follows
noise. Whichever represents the pool better goes on; epochs over all samples follow.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from sombrero.som.batch import batch, final_sigma
from sombrero.som.hidden import BLOCK_ROWS
from sombrero.som.initialization import initial_weights
from sombrero.som.layer_rows import LayerRows
from sombrero.som.online import online_in_features, online_in_rows, online_schedule
from sombrero.som.quality import relative_scores
from sombrero.som.spaces import (
    FeatureSpace,
    GramSpace,
    Space,
    cluster_sums,
    gram_matrix,
    precise_dtype,
    principal_directions,
    weighted_means,
)
from sombrero.som.training import Draws, Training

PRINCIPAL_FEATURES = 64
"""Directions of the subspace that a pool is mapped in, or as many as there are units."""
FULL_EPOCHS = 2
STEPS_AT_ONCE = 1024
"""Online steps whose samples are read together."""


def batch_codebooks(layers: list[LayerRows], training: Training, draws: Draws) -> list[torch.Tensor]:
    """Centred codebooks ``(m, d)`` by the batch rule."""
    n, d = layers[0].shape
    chosen = [rows.take(draws.subset) for rows in layers]
    space = _exact_space(chosen)
    codebooks = _codebooks(space, chosen, draws.start, draws, training)
    if len(draws.subset) == n:
        return codebooks
    pools = [rows.take(draws.pool) for rows in layers]
    if isinstance(space, GramSpace) and d > PRINCIPAL_FEATURES:
        others = _codebooks(_principal_space(space, chosen, pools, training), pools, draws.pool_start, draws, training)
        codebooks = [_better(*candidates, training) for candidates in zip(pools, codebooks, others, strict=True)]
    return [_settled(rows, codebook, training) for rows, codebook in zip(layers, codebooks, strict=True)]


def online_codebooks(layers: list[LayerRows], training: Training, draws: Draws) -> list[torch.Tensor]:
    """Centred codebooks ``(m, d)`` by the online rule; in the space of rows where that is less work."""
    n, d = layers[0].shape
    schedule = online_schedule(training, np.arange(training.n_steps))
    if n < d and n * n < training.n_steps * training.lattice.n_units and n == len(draws.subset):
        chosen = [rows.take(draws.subset) for rows in layers]
        space = GramSpace(torch.stack([gram_matrix(samples) for samples in chosen]))
        weights = initial_weights(space, draws.start, draws.uniform, training, space.norms)
        weights = online_in_rows(space.gram, weights, draws.order, schedule, training)
        return [weights[layer].to(samples.dtype) @ samples for layer, samples in enumerate(chosen)]
    codebook = torch.stack([initial_codebook(rows, training, draws) for rows in layers])
    for start in range(0, training.n_steps, STEPS_AT_ONCE):
        steps = slice(start, min(start + STEPS_AT_ONCE, training.n_steps))
        index, place = np.unique(draws.order[steps], return_inverse=True)
        samples = torch.stack([rows.take(index) for rows in layers])
        codebook = online_in_features(samples, codebook, place, schedule[:, steps], training)
    return list(codebook.to(layers[0].dtype))


def initial_codebook(rows: LayerRows, training: Training, draws: Draws) -> torch.Tensor:
    """The centred first units ``(m, d)`` of one layer, in ``precise_dtype``: made from its subset."""
    if training.initialization == "random":
        return rows.take(draws.subset[draws.start]).to(precise_dtype(rows.device))
    samples = [rows.take(draws.subset)]
    space = _exact_space(samples)
    weights = initial_weights(space, draws.start, draws.uniform, training, space.norms)
    return weights[0] @ samples[0].to(weights.dtype)


def _codebooks(
    space: Space, samples: list[torch.Tensor], start: NDArray[np.int64], draws: Draws, training: Training
) -> list[torch.Tensor]:
    """Codebooks ``(m, d)`` of all samples ``(s, d)`` of space, by the batch rule."""
    weights = initial_weights(space, start, draws.uniform, training, space.norms)
    members, best = batch(space, weights, training)
    return [
        weighted_means(rows[None], members[layer, None], best[layer, None])[0] for layer, rows in enumerate(samples)
    ]


def _exact_space(samples: list[torch.Tensor]) -> GramSpace | FeatureSpace:
    """Of samples ``(s, d)``, the space that is less work."""
    if samples[0].shape[0] < samples[0].shape[1]:
        return GramSpace(torch.stack([gram_matrix(rows) for rows in samples]))
    return FeatureSpace(torch.stack(samples).to(precise_dtype(samples[0].device)))


def _principal_space(
    space: GramSpace, subset: list[torch.Tensor], pools: list[torch.Tensor], training: Training
) -> FeatureSpace:
    """Pools ``(p, d)`` in the widest directions of their subsets, whose inner products space has."""
    k = max(PRINCIPAL_FEATURES, training.lattice.n_units)
    seen, norms = [], []
    for layer, (chosen, pool) in enumerate(zip(subset, pools, strict=True)):
        found = pool @ principal_directions(space.gram[layer], chosen, k)
        seen.append(torch.nn.functional.pad(found, (0, k - found.shape[1])).to(space.gram.dtype))
        norms.append(torch.linalg.vector_norm(pool, dim=1).to(space.gram.dtype).square())
    return FeatureSpace(torch.stack(seen), torch.stack(norms))


def _better(pool: torch.Tensor, one: torch.Tensor, other: torch.Tensor, training: Training) -> torch.Tensor:
    """Of two codebooks, each after an epoch over the pool ``(p, d)``, the one with the lower quantization error."""
    blocks = pool.split(BLOCK_ROWS)
    codebooks, _ = _epoch(blocks, torch.stack([one, other]), training)
    _, errors = _epoch(blocks, codebooks, training)
    return codebooks[int(errors[1] < errors[0])]


def _settled(rows: LayerRows, codebook: torch.Tensor, training: Training) -> torch.Tensor:
    """The codebook ``(m, d)`` after a few epochs at the final sigma over all samples."""
    codebooks = codebook[None]
    for _ in range(FULL_EPOCHS):
        codebooks, _ = _epoch(rows.blocks(), codebooks, training)
    return codebooks[0]


def _epoch(
    blocks: Iterable[torch.Tensor], codebooks: torch.Tensor, training: Training
) -> tuple[torch.Tensor, torch.Tensor]:
    """One epoch of c maps ``(c, m, d)`` of the same samples: new codebooks; mean distances ``(c,)`` to the old."""
    n_maps, n_units, d = codebooks.shape
    precise = precise_dtype(codebooks.device)
    sums = torch.zeros(n_maps, n_units, d, dtype=precise, device=codebooks.device)
    hits = torch.zeros(n_maps, n_units, dtype=precise, device=codebooks.device)
    lengths, n = torch.zeros(n_maps, dtype=precise, device=codebooks.device), 0
    flat = codebooks.flatten(0, 1)
    for block in blocks:
        scores = relative_scores(block[None], flat[None])[0].view(len(block), n_maps, n_units)
        nearest, best = scores.min(dim=2)
        norms = torch.linalg.vector_norm(block, dim=1).square()
        lengths += (nearest + norms[:, None]).clamp_(min=0.0).sqrt().sum(dim=0, dtype=precise)
        sums += cluster_sums(block.expand(n_maps, -1, -1), best.mT, n_units)
        hits += torch.nn.functional.one_hot(best, n_units).sum(dim=0)
        n += len(block)
    weights = training.cluster_weights(hits, training.distances(sums), final_sigma(training))
    return (weights @ sums).to(codebooks.dtype), lengths / n
