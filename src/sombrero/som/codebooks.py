"""The maps of some layers, by either rule, in whichever space is least work and takes bounded memory.

Few samples are mapped exactly, from their inner products. Of many there are two candidates: the map of a subset,
exactly; and the map of a larger pool in the subspace of its widest directions, which follows structure where the
subset follows noise. Where it is not clear beforehand, both are made. An epoch or two over all samples follow, and the
one with the lower quantization error is the map.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from sombrero.som.batch import batch, final_sigma
from sombrero.som.hidden import BLOCK_ROWS
from sombrero.som.initialization import initial_distances, initial_weights
from sombrero.som.layer_maps import LayerMaps, maps_in_features, maps_in_rows
from sombrero.som.layer_rows import LayerRows, not_finite
from sombrero.som.online import online_in_features, online_in_rows, online_schedule
from sombrero.som.quality import hit_counts, relative_scores
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
NO_STRUCTURE, CLEAR_STRUCTURE = 0.01, 0.2
"""Of the squared lengths, beyond chance, the share in that subspace up to which it, or from which the subset is not
tried."""
FEWEST_OUTSIDE = 256
"""Samples beyond the subset that this share is measured on; with fewer, both are tried."""
STEPS_AT_ONCE = 1024
"""Online steps whose samples are read together."""


def batch_maps(layers: list[LayerRows], training: Training, draws: Draws, out: torch.Tensor) -> LayerMaps:
    """Maps by the batch rule; their codebooks are put into ``out (l, m, d)``."""
    if len(draws.subset) < layers[0].shape[0]:
        codebooks = [_codebook_of_many(rows, training, draws) for rows in layers]
        return maps_in_features(layers, codebooks, training.lattice, out)
    space = _exact_space(layers, (rows.take(draws.subset) for rows in layers))
    members, best = _trained(space, draws.start, draws, training)
    means = (_means(rows, draws.subset, members[[i]], best[[i]])[0] for i, rows in enumerate(layers))
    if isinstance(space, GramSpace):
        return maps_in_rows(layers, means, space, members, best, training.lattice, out)
    return maps_in_features(layers, means, training.lattice, out)


def online_maps(layers: list[LayerRows], training: Training, draws: Draws, out: torch.Tensor) -> LayerMaps:
    """Maps by the online rule; their codebooks are put into ``out (l, m, d)``."""
    return maps_in_features(layers, _online_codebooks(layers, training, draws), training.lattice, out)


def _online_codebooks(layers: list[LayerRows], training: Training, draws: Draws) -> list[torch.Tensor]:
    """Centred codebooks ``(m, d)`` by the online rule; in the space of rows where that is less work."""
    n, d = layers[0].shape
    schedule = online_schedule(training, np.arange(training.n_steps))
    if n < d and n * n < training.n_steps * training.lattice.n_units and n == len(draws.subset):
        chosen = [rows.take(draws.subset) for rows in layers]
        space = _exact_space(layers, chosen)
        assert isinstance(space, GramSpace)
        weights = initial_weights(space, draws.start, draws.uniform, training, space.norms)
        weights = online_in_rows(space.gram.to(weights.dtype), weights, draws.order, schedule, training)
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
    space = _exact_space([rows], samples)
    weights = initial_weights(space, draws.start, draws.uniform, training, space.norms)
    return weights[0] @ samples[0].to(weights.dtype)


def _trained(
    space: Space, start: NDArray[np.int64], draws: Draws, training: Training
) -> tuple[torch.Tensor, torch.Tensor]:
    return batch(space, initial_distances(space, start, draws.uniform, training), training)


def _exact_space(layers: list[LayerRows], samples: Iterable[torch.Tensor]) -> GramSpace | FeatureSpace:
    """The space that is less work, for samples ``(s, d)`` of each layer. Raises NumericalError if lengths overflow."""
    space: GramSpace | FeatureSpace
    products, features = torch.empty(0), []
    for place, rows in enumerate(samples):  # one layer's at a time: what is needed of them is made in the cache
        n = rows.shape[0]
        if n >= rows.shape[1]:
            features.append(rows.to(precise_dtype(rows.device)))
            continue
        if place == 0:
            products = torch.empty(len(layers), n, n, dtype=rows.dtype, device=rows.device)
        gram_matrix(rows, out=products[place])
    space = FeatureSpace(torch.stack(features)) if features else GramSpace(products)
    for layer, norms in zip(layers, space.norms, strict=True):
        if not bool(torch.isfinite(norms).all()):
            raise not_finite(layer.layer)
    return space


def _codebook_of_many(rows: LayerRows, training: Training, draws: Draws) -> torch.Tensor:
    """The codebook ``(m, d)`` of one layer with more samples than the subset."""
    subset = rows.take(draws.subset)
    space = _exact_space([rows], [subset])
    gram = space.gram[0] if isinstance(space, GramSpace) else gram_matrix(subset)
    directions = widest_directions(gram, subset, max(PRINCIPAL_FEATURES, training.lattice.n_units))
    subspace = _subspace(rows, directions, draws.pool)
    least, most = _structure(subspace, directions, draws)
    candidates = []
    if least < CLEAR_STRUCTURE:
        units = weighted_means(subset[None], *_trained(space, draws.start, draws, training))
        candidates.append(_epoch(rows, units, training)[0])
    if most > NO_STRUCTURE:
        candidates.append(_means(rows, draws.pool, *_trained(subspace, draws.pool_start, draws, training)))
    codebooks, errors = _epoch(rows, torch.cat(candidates), training)
    return codebooks[int(errors.argmin())]


def _subspace(rows: LayerRows, directions: torch.Tensor, pool: NDArray[np.int64]) -> FeatureSpace:
    """A pool of one layer along orthonormal directions ``(d, k)``, in the dtype of the samples: epochs over all samples
    follow, so that more digits would be lost on them."""
    seen = torch.cat([block @ directions for block in rows.blocks(pool)])
    norms = rows.norms[torch.from_numpy(pool).to(rows.device)]
    return FeatureSpace(seen[None], norms[None])


def _structure(subspace: FeatureSpace, directions: torch.Tensor, draws: Draws) -> tuple[float, float]:
    """The least and the most that the share of the squared lengths may be that lies along the directions ``(d, k)`` of
    the subset, beyond what chance puts there: measured outside the subset, so that noise has none."""
    d, k = directions.shape
    outside = np.flatnonzero(~np.isin(draws.pool, draws.subset))
    if k == d:
        return 1.0, 1.0  # the subspace is all there is
    if len(outside) < FEWEST_OUTSIDE:
        return 0.0, 1.0
    index = torch.from_numpy(outside).to(subspace.norms.device)
    seen = float(subspace.samples[0, index].square().sum() / subspace.norms[0, index].sum().clamp(min=1e-300))
    share = (seen - k / d) / (1.0 - k / d)
    return share, share


def _means(rows: LayerRows, pool: NDArray[np.int64], members: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """The codebook ``(1, m, d)`` of a pool of one layer, by the weights and clusters of ``batch``."""
    n_units = members.shape[1]
    sums = torch.zeros(1, n_units, rows.shape[1], dtype=rows.dtype, device=members.device)
    for block, own in zip(rows.blocks(pool), best.split(BLOCK_ROWS, dim=1), strict=True):
        sums += cluster_sums(block[None], own, n_units)
    return members.to(rows.dtype) @ sums


def _epoch(rows: LayerRows, codebooks: torch.Tensor, training: Training) -> tuple[torch.Tensor, torch.Tensor]:
    """One epoch of c maps ``(c, m, d)`` at the final sigma: new codebooks; mean distances ``(c,)`` to the old."""
    n_maps, n_units, d = codebooks.shape
    precise = precise_dtype(rows.device)
    sums = torch.zeros(n_maps, n_units, d, dtype=precise, device=rows.device)
    hits = torch.zeros(n_maps, n_units, dtype=precise, device=rows.device)
    lengths = torch.zeros(n_maps, dtype=precise, device=rows.device)
    flat = codebooks.flatten(0, 1)
    for block, norms in zip(rows.blocks(), rows.norms.split(BLOCK_ROWS), strict=True):
        scores = relative_scores(block[None], flat[None])[0].view(len(block), n_maps, n_units)
        nearest, best = scores.min(dim=2)
        lengths += (nearest + norms[:, None]).clamp_(min=0.0).sqrt_().sum(dim=0)
        sums += torch.cat([cluster_sums(block[None], own[None], n_units) for own in best.mT])
        hits += hit_counts(best.mT, n_units)
    weights = training.cluster_weights(hits, training.distances(sums), final_sigma(training))
    return (weights @ sums).to(codebooks.dtype), lengths / rows.shape[0]
