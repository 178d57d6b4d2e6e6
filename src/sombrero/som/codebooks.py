"""The codebooks of some layers, by either rule, in whichever space is least work and takes bounded memory.

Few samples are mapped exactly, from their inner products. Of many, two candidates are made: a map of a subset, exactly;
and a map of a larger pool in the subspace of its widest directions, which follows structure where the subset follows
noise. A few epochs over all samples follow, and whichever represents them better is the map.
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
    weighted_means,
    widest_directions,
)
from sombrero.som.training import Draws, Training

PRINCIPAL_FEATURES = 32
"""Directions of the subspace that a pool is mapped in, or as many as there are units."""
STEPS_AT_ONCE = 1024
"""Online steps whose samples are read together."""


def batch_codebooks(layers: list[LayerRows], training: Training, draws: Draws) -> list[torch.Tensor]:
    """Centred codebooks ``(m, d)`` by the batch rule."""
    n, d = layers[0].shape
    chosen = [rows.take(draws.subset) for rows in layers]
    space = _exact_space(chosen)
    members, best = _trained(space, draws.start, draws, training)
    codebooks = [weighted_means(rows[None], members[[i]], best[[i]])[0] for i, rows in enumerate(chosen)]
    if len(draws.subset) == n:
        return codebooks
    candidates = [
        [_epoch(rows.blocks(), units[None], training)[0]] for rows, units in zip(layers, codebooks, strict=True)
    ]
    if d > PRINCIPAL_FEATURES:
        grams = space.gram if isinstance(space, GramSpace) else [gram_matrix(rows) for rows in chosen]
        k = max(PRINCIPAL_FEATURES, training.lattice.n_units)
        directions = [widest_directions(gram, rows, k) for gram, rows in zip(grams, chosen, strict=True)]
        members, best = _trained(_subspace(layers, directions, draws.pool), draws.pool_start, draws, training)
        for layer, rows in enumerate(layers):
            candidates[layer].append(_means(rows, draws.pool, members[layer], best[layer])[None])
    return [_settled(rows, torch.cat(units), training) for rows, units in zip(layers, candidates, strict=True)]


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


def _trained(
    space: Space, start: NDArray[np.int64], draws: Draws, training: Training
) -> tuple[torch.Tensor, torch.Tensor]:
    return batch(space, initial_weights(space, start, draws.uniform, training, space.norms), training)


def _exact_space(samples: list[torch.Tensor]) -> GramSpace | FeatureSpace:
    """Of samples ``(s, d)``, the space that is less work."""
    if samples[0].shape[0] < samples[0].shape[1]:
        return GramSpace(torch.stack([gram_matrix(rows) for rows in samples]))
    return FeatureSpace(torch.stack(samples).to(precise_dtype(samples[0].device)))


def _subspace(layers: list[LayerRows], directions: list[torch.Tensor], pool: NDArray[np.int64]) -> FeatureSpace:
    """A pool of each layer along its orthonormal directions ``(d, <= k)``."""
    k = max(found.shape[1] for found in directions)
    seen, norms = [], []
    for rows, found in zip(layers, directions, strict=True):
        basis = torch.nn.functional.pad(found, (0, k - found.shape[1]))
        blocks = [(block @ basis, torch.linalg.vector_norm(block, dim=1)) for block in rows.blocks(pool)]
        seen.append(torch.cat([projected for projected, _ in blocks]))
        norms.append(torch.cat([lengths for _, lengths in blocks]))
    precise = precise_dtype(layers[0].device)
    return FeatureSpace(torch.stack(seen).to(precise), torch.stack(norms).to(precise).square())


def _means(rows: LayerRows, pool: NDArray[np.int64], members: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """The codebook ``(m, d)`` of a pool of one layer, by the weights and clusters of ``batch``."""
    sums = torch.zeros(len(members), rows.shape[1], dtype=members.dtype, device=members.device)
    for block, own in zip(rows.blocks(pool), best.split(BLOCK_ROWS), strict=True):
        sums += cluster_sums(block[None], own[None], len(members))[0]
    return (members @ sums).to(rows.dtype)


def _settled(rows: LayerRows, candidates: torch.Tensor, training: Training) -> torch.Tensor:
    """Of candidate codebooks ``(c, m, d)`` the one with the least quantization error, after one more epoch."""
    codebooks, errors = _epoch(rows.blocks(), candidates, training)
    return codebooks[int(errors.argmin())]


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
        sums += torch.cat([cluster_sums(block[None], own[None], n_units) for own in best.mT])
        hits += torch.nn.functional.one_hot(best, n_units).sum(dim=0)
        n += len(block)
    weights = training.cluster_weights(hits, training.distances(sums), final_sigma(training))
    return (weights @ sums).to(codebooks.dtype), lengths / n
