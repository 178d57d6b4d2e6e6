"""One map per layer, all layers as one batched computation in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch

from sombrero.errors import UsageError
from sombrero.som.codebooks import batch_maps, online_maps
from sombrero.som.hidden import Hidden, SlicedArray
from sombrero.som.lattice import Lattice
from sombrero.som.layer_maps import LayerMaps, joined
from sombrero.som.layer_rows import load_layers, working_dtype
from sombrero.som.training import Draws, Training, draw

CHUNK_BYTES = 128 * 2**20
"""Working memory that layers trained together may take. One layer is always taken: its samples are kept in memory if
they fit in here, else read again at each pass."""

TOTAL_BYTES = 768 * 2**20
"""Working memory of all chunks that are trained side by side."""

LAYERS_AT_ONCE = 16
"""Of the batch rule on a CPU: as many as its cache holds inner products of. Online steps are too small to split up."""


def fit_layers(
    hidden: torch.Tensor | SlicedArray,
    *,
    n_rows: int = 4,
    n_columns: int = 4,
    lattice: str = "hexagonal",
    toroidal: bool = False,
    rule: str = "batch",
    neighbourhood: str = "gaussian",
    initialization: str = "random",
    sigma: float = 0.3,
    learning_rate: float = 0.01,
    n_steps: int = 10_000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> LayerMaps:
    """Train one map per layer on ``hidden (n, L, d)``; samples first, as hidden states are stored.

    hidden: a tensor, an array, a memmap, a safetensors slice, or any other ``SlicedArray``. A memory-mapped file is
    read little by little and its pages are dropped again, so that it may be larger than the memory.
    device: where to compute; default, where hidden is. The maps are returned where hidden is. The other settings are
    those of ``SelfOrganizingMap``. A layer's map depends on its own samples, the settings and the seed alone, not on
    the other layers, the number of threads, or how much is read at a time.

    Raises UsageError for settings out of range or fewer samples than units, NumericalError for NaN, infinity or
    overflow.
    """
    source = Hidden(hidden)
    try:
        grid = Lattice(n_rows, n_columns, lattice, toroidal)
        training = Training(grid, rule, sigma, learning_rate, n_steps, neighbourhood, initialization)
        place = torch.device(device or source.device)
    except (ValueError, RuntimeError) as error:  # the latter for a device that torch does not know
        raise UsageError(str(error)) from error
    if source.shape[0] < grid.n_units:
        raise UsageError(
            f"{source.shape[0]} samples for a map of {grid.n_units} units; give more samples or a smaller grid"
        )
    maps = train_maps(source, training, np.random.RandomState(seed), place)
    floats = {
        field.name: tensor.to(source.device, torch.float32 if tensor.is_floating_point() else tensor.dtype)
        for field in fields(maps)
        for tensor in (getattr(maps, field.name),)
    }
    return LayerMaps(**floats)


def train_maps(hidden: Hidden, training: Training, generator: np.random.RandomState, device: torch.device) -> LayerMaps:
    """``fit_layers`` without its checks: float64 samples stay float64, everything else is taken as float32."""
    draws = draw(hidden.shape[0], training, generator)
    plan = _plan(hidden, training, draws, device)
    n_layers = hidden.shape[1]
    parts = [slice(first, min(first + plan.at_once, n_layers)) for first in range(0, n_layers, plan.at_once)]

    units = (n_layers, training.lattice.n_units, hidden.shape[2])
    codebook = torch.empty(units, dtype=working_dtype(hidden.dtype, device), device=device)
    local = threading.local()  # each worker keeps its samples in the same memory, chunk after chunk

    def train(part: slice) -> LayerMaps:
        if plan.kept and not hasattr(local, "storage"):
            shape = (plan.kept, hidden.shape[0], hidden.shape[2])
            local.storage = torch.empty(shape, dtype=working_dtype(hidden.dtype, device), device=device)
        storage = getattr(local, "storage", None)
        if plan.in_turn and storage is not None:
            layers = load_layers(hidden, part, device, None, scratch=storage[0])
        else:
            layers = load_layers(hidden, part, device, storage)
        return (online_maps if training.is_online else batch_maps)(layers, training, draws, codebook[part])

    with single_threaded(device) as n_threads:
        n_workers = max(1, min(n_threads, TOTAL_BYTES // plan.chunk_bytes))
        with ThreadPoolExecutor(n_workers) as pool:
            return joined(list(pool.map(train, parts)), codebook)


@dataclass(frozen=True)
class _Plan:
    """at_once: layers trained together. kept: layers whose samples a worker has room for, 0 to read them again at each
    pass. in_turn: that room is for one layer after the other. chunk_bytes: the memory that a worker takes."""

    at_once: int
    kept: int
    in_turn: bool
    chunk_bytes: int


def _plan(hidden: Hidden, training: Training, draws: Draws, device: torch.device) -> _Plan:
    n, n_layers, d = hidden.shape
    item = working_dtype(hidden.dtype, device).itemsize
    subset, m = len(draws.subset), training.lattice.n_units
    of_samples = n * d * item
    of_training = 16 * subset * min(subset, d) + 8 * (m * (8 * len(draws.pool) + 4 * d) + n)
    of_training += d * item * (subset + len(draws.pool)) if subset < n else 0
    keep = of_samples <= CHUNK_BYTES
    few = subset == n
    in_turn = keep and few and n < d and not training.is_online  # their inner products are all that training needs
    per_layer = of_training + (of_samples if keep and not in_turn else 0)
    of_chunk = CHUNK_BYTES - (of_samples if in_turn else 0)
    most = n_layers if training.is_online else LAYERS_AT_ONCE if few and device.type == "cpu" else 1
    at_once = max(1, min(of_chunk // per_layer, most, n_layers))
    kept = 1 if in_turn else at_once if keep else 0
    return _Plan(at_once, kept, in_turn, at_once * per_layer + (of_samples if in_turn else 0))


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
