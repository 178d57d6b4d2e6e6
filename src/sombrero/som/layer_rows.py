"""The samples of one layer less their mean, block by block, and what a map needs to know of all of them.

Every sum runs over blocks of ``BLOCK_ROWS`` samples in order, whether a layer is held in memory or read again at each
pass, so that the outcome does not depend on which it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sombrero.errors import NumericalError
from sombrero.som import quality
from sombrero.som.hidden import BLOCK_ROWS, Hidden
from sombrero.som.lattice import Lattice
from sombrero.som.spaces import precise_dtype


@dataclass
class LayerRows:
    """One layer's samples ``(n, d)``; ``load_layers`` makes it.

    mean ``(d,)``: what was subtracted. resident ``(n, d)``: the centred samples, or None where they are read anew.
    """

    hidden: Hidden
    layer: int
    device: torch.device
    mean: torch.Tensor
    resident: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.hidden.shape[0], self.hidden.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self.mean.dtype

    def blocks(self, index: NDArray[np.int64] | None = None) -> Iterator[torch.Tensor]:
        """Centred samples in order, ``(<= BLOCK_ROWS, d)`` at a time; each block is good until the next.

        All of them, or those of an ascending index.
        """
        n, d = self.shape
        if index is not None and len(index) < n:
            for start in range(0, len(index), BLOCK_ROWS):
                yield self.take(index[start : start + BLOCK_ROWS])
            return
        if self.resident is not None:
            yield from self.resident.split(BLOCK_ROWS)
            return
        buffer = torch.empty(min(BLOCK_ROWS, n), d, dtype=self.dtype, device=self.device)
        for start in range(0, n, BLOCK_ROWS):
            block = buffer[: min(BLOCK_ROWS, n - start)]
            self.hidden.copy_rows(slice(start, start + len(block)), slice(self.layer, self.layer + 1), [block])
            yield block.sub_(self.mean)

    def take(self, index: NDArray[np.int64]) -> torch.Tensor:
        """The centred samples ``index (k,)``, ``(k, d)``."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(index).to(self.device)]
        rows = torch.empty(len(index), self.shape[1], dtype=self.dtype, device=self.device)
        return rows.copy_(self.hidden.take(index, self.layer)).sub_(self.mean)


def load_layers(hidden: Hidden, layers: slice, device: torch.device, keep: bool) -> list[LayerRows]:
    """Some layers, and in memory if ``keep``. Raises NumericalError for samples that are not finite."""
    n, _, d = hidden.shape
    dtype = working_dtype(hidden.dtype, device)
    numbers = range(layers.start, layers.stop)
    rows = [torch.empty(n if keep else min(n, BLOCK_ROWS), d, dtype=dtype, device=device) for _ in numbers]
    ones = torch.ones(BLOCK_ROWS, dtype=dtype, device=device)
    sums = [torch.zeros(d, dtype=precise_dtype(device), device=device) for _ in numbers]
    for start in range(0, n, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, n)
        blocks = [one[start:stop] if keep else one[: stop - start] for one in rows]
        hidden.copy_rows(slice(start, stop), layers, blocks)
        for total, block in zip(sums, blocks, strict=True):
            total += (ones[: len(block)] @ block).to(total.dtype)  # a product is several times faster than a sum
    loaded = []
    for layer, total, samples in zip(numbers, sums, rows, strict=True):
        mean = (total / n).to(dtype)
        if not bool(torch.isfinite(mean).all()):
            raise NumericalError(f"layer {layer} holds NaN or infinity, or overflows; a map needs finite samples")
        loaded.append(LayerRows(hidden, layer, device, mean, samples.sub_(mean) if keep else None))
    return loaded


def working_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """float64 for float64 samples where the device has it, else float32."""
    return torch.float64 if dtype == precise_dtype(device) == torch.float64 else torch.float32


def summarize(rows: LayerRows, codebook: torch.Tensor, lattice: Lattice) -> tuple[torch.Tensor, ...]:
    """The fields of ``LayerMaps`` for the centred codebook ``(m, d)`` of one layer, each with a leading axis of one."""
    best, second, lengths = [], [], []
    for block in rows.blocks():
        nearest, next_nearest = quality.best_two_units(block[None], codebook[None])
        best.append(nearest)
        second.append(next_nearest)
        lengths.append(quality.distances_to_best(block[None], codebook[None], nearest))
    best_units = torch.cat(best, dim=1)
    error = torch.cat(lengths, dim=1).mean(dim=1)
    if not bool(torch.isfinite(error).all()) or not bool(torch.isfinite(codebook).all()):
        raise NumericalError(
            f"the map of layer {rows.layer} overflows: scale the samples down, or, with the mexican_hat neighbourhood, "
            "which pushes units away step by step, lower sigma, learning_rate or n_steps"
        )
    return (
        codebook[None] + rows.mean,
        best_units,
        quality.hit_counts(best_units, lattice.n_units),
        error,
        quality.topographic_error(best_units, torch.cat(second, dim=1), lattice),
        quality.u_matrix(codebook[None], lattice),
    )
