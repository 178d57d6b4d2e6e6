"""One map per layer, all layers as one batched computation in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch

from sombrero.errors import NumericalError, UsageError
from sombrero.som import quality
from sombrero.som.lattice import Lattice
from sombrero.som.spaces import FeatureSpace, GramSpace, Space, gram_matrix, precise_dtype, weighted_means
from sombrero.som.training import (
    Draws,
    Training,
    batch,
    draw,
    online_in_features,
    online_in_rows,
    online_schedule,
    settle,
)

CHUNK_BYTES = 256 * 2**20
"""Working memory that layers trained together may take; one layer is always taken."""

LAYERS_AT_ONCE = 4
"""Of the batch rule on a CPU: as many as its cache holds inner products of. Online steps are too small to split up."""


@dataclass(frozen=True)
class LayerMaps:
    """One map per layer, and how well each represents its samples.

    codebook ``(L, m, d)`` float32; best_units ``(L, n)`` int64; hit_counts ``(L, m)`` int64 over the training samples;
    quantization_error, topographic_error ``(L,)`` and u_matrix ``(L, m)`` float32 (see ``quality``).
    """

    codebook: torch.Tensor
    best_units: torch.Tensor
    hit_counts: torch.Tensor
    quantization_error: torch.Tensor
    topographic_error: torch.Tensor
    u_matrix: torch.Tensor


def fit_layers(
    hidden: torch.Tensor,
    *,
    n_rows: int = 4,
    n_columns: int = 4,
    lattice: str = "hexagonal",
    rule: str = "batch",
    sigma: float = 0.3,
    learning_rate: float = 0.01,
    n_steps: int = 10_000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> LayerMaps:
    """Train one map per layer on ``hidden (n, L, d)``; samples first, as hidden states are stored.

    device: where to compute; default, where hidden is. The maps are returned where hidden is. A layer's map depends on
    its own samples, the settings and the seed alone, not on the other layers or the number of threads.

    Raises UsageError for settings out of range or fewer samples than units, NumericalError for NaN or infinity.
    """
    if hidden.ndim != 3 or min(hidden.shape) < 1:
        raise UsageError(f"hidden has shape {tuple(hidden.shape)}; give samples, layers, features: (n, L, d)")
    try:
        training = Training(Lattice(n_rows, n_columns, lattice), rule, sigma, learning_rate, n_steps)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if len(hidden) < training.lattice.n_units:
        raise UsageError(
            f"{len(hidden)} samples for a map of {training.lattice.n_units} units; give more samples or a smaller grid"
        )
    maps = train_maps(hidden, training, np.random.RandomState(seed), torch.device(device or hidden.device))
    floats = {
        field.name: tensor.to(hidden.device, torch.float32 if tensor.is_floating_point() else tensor.dtype)
        for field in fields(maps)
        for tensor in (getattr(maps, field.name),)
    }
    return LayerMaps(**floats)


def train_maps(
    hidden: torch.Tensor, training: Training, generator: np.random.RandomState, device: torch.device
) -> LayerMaps:
    """``fit_layers`` without its checks: float64 samples stay float64, everything else is taken as float32."""
    n, n_layers, d = hidden.shape
    draws = draw(n, training, generator)
    rows = min(n, len(draws.subset))
    per_layer = 8 * (n * d + 2 * rows * min(rows, d) + 8 * training.lattice.n_units * n)
    in_cache = LAYERS_AT_ONCE if device.type == "cpu" and not training.is_online else n_layers
    parts = hidden.detach().split(max(1, min(CHUNK_BYTES // per_layer, in_cache)), dim=1)
    with single_threaded(device) as n_threads, ThreadPoolExecutor(n_threads) as pool:
        chunks = list(pool.map(lambda part: _train_chunk(part, training, draws, device), parts))
    return LayerMaps(*(torch.cat(fields) for fields in zip(*chunks, strict=True)))


@contextmanager
def single_threaded(device: torch.device) -> Iterator[int]:
    """Within it one CPU operation runs on one thread; gives the number of operations to run at once instead.

    Training is many small operations: threads that wait for each other at the end of each cost more than they bring,
    up to 50 times when other programs use the cores. Whole layers side by side have nothing to wait for, and the
    outcome cannot depend on the number of threads.
    """
    if device.type != "cpu":
        yield 1
        return
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield n_threads
    finally:
        torch.set_num_threads(n_threads)


def _train_chunk(
    hidden: torch.Tensor, training: Training, draws: Draws, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """The fields of LayerMaps for some layers ``(n, L, d)``."""
    centred, means = zip(*(_centred(hidden[:, layer], device) for layer in range(hidden.shape[1])), strict=True)
    codebooks = (_online_codebooks if training.is_online else _batch_codebooks)(list(centred), training, draws)
    maps = [
        _summary(samples, codebook, mean, training.lattice)
        for samples, codebook, mean in zip(centred, codebooks, means, strict=True)
    ]
    return tuple(torch.cat(parts) for parts in zip(*maps, strict=True))


def _centred(samples: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer's samples ``(n, d)`` less their mean ``(d,)``, and the mean as it was subtracted."""
    dtype = torch.float64 if samples.dtype == torch.float64 else torch.float32
    samples = torch.empty(samples.shape, dtype=dtype, device=device).copy_(samples)
    mean = samples.mean(dim=0)
    if not bool(torch.isfinite(mean).all()):
        raise NumericalError("the samples hold NaN or infinity, or overflow; a map needs finite samples")
    return samples.sub_(mean), mean


def _batch_codebooks(centred: list[torch.Tensor], training: Training, draws: Draws) -> list[torch.Tensor]:
    """Codebooks ``(1, m, d)`` of centred samples, by the batch rule."""
    device = centred[0].device
    complete = len(draws.subset) == len(centred[0])
    subset = torch.from_numpy(draws.subset).to(device)
    chosen = centred if complete else [samples[subset] for samples in centred]
    space: Space
    if len(subset) < chosen[0].shape[1]:
        space = GramSpace(torch.stack([gram_matrix(samples) for samples in chosen]))
    else:
        space = FeatureSpace(torch.stack(chosen).to(precise_dtype(device)))
    members, best = batch(space, torch.from_numpy(draws.start).to(device), training)
    codebooks = [
        weighted_means(samples[None], members[layer, None], best[layer, None]) for layer, samples in enumerate(chosen)
    ]
    if complete:
        return codebooks
    return [settle(samples[None], codebook, training) for samples, codebook in zip(centred, codebooks, strict=True)]


def _online_codebooks(centred: list[torch.Tensor], training: Training, draws: Draws) -> list[torch.Tensor]:
    """Codebooks ``(1, m, d)`` of centred samples, by the online rule; in the space of rows where that is less work."""
    n, d = centred[0].shape
    start = torch.from_numpy(draws.start).to(centred[0].device)
    schedule = online_schedule(training, np.arange(training.n_steps))
    if n < d and n * n < training.n_steps * training.lattice.n_units:
        gram = torch.stack([gram_matrix(samples) for samples in centred])
        weights = online_in_rows(gram, start, draws.order, schedule, training)
        return [weights[layer, None].to(samples.dtype) @ samples for layer, samples in enumerate(centred)]
    samples = torch.stack(centred)
    return list(online_in_features(samples, samples[:, start], draws.order, schedule, training).split(1))


def _summary(
    samples: torch.Tensor, codebook: torch.Tensor, mean: torch.Tensor, lattice: Lattice
) -> tuple[torch.Tensor, ...]:
    """The fields of LayerMaps, of one layer; samples and codebook are centred."""
    best, second = quality.best_two_units(samples[None], codebook)
    return (
        codebook + mean,
        best,
        quality.hit_counts(best, lattice.n_units),
        quality.quantization_error(samples[None], codebook, best),
        quality.topographic_error(best, second, lattice),
        quality.u_matrix(codebook, lattice),
    )
