"""The samples of one layer less their centre, block by block, and what a map needs to know of all of them.

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

_CANCELLED = 0.01
"""Squared distances below this share of a squared length are taken from differences: a product loses their digits."""


@dataclass
class LayerRows:
    """One layer's samples ``(n, d)``; ``load_layers`` makes it.

    centre ``(d,)``: what was subtracted: about the mean, so that lengths lose no digits. norms ``(n,)``: squared
    lengths of the centred samples. resident ``(n, d)``: the centred samples, or None where they are read anew.
    """

    hidden: Hidden
    layer: int
    device: torch.device
    centre: torch.Tensor
    norms: torch.Tensor
    resident: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.hidden.shape[0], self.hidden.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self.centre.dtype

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
            yield block.sub_(self.centre)

    def take(self, index: NDArray[np.int64]) -> torch.Tensor:
        """The centred samples ``index (k,)``, ``(k, d)``."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(index).to(self.device)]
        rows = torch.empty(len(index), self.shape[1], dtype=self.dtype, device=self.device)
        return rows.copy_(self.hidden.take(index, self.layer)).sub_(self.centre)


def load_layers(
    hidden: Hidden, layers: slice, device: torch.device, index: NDArray[np.int64], storage: torch.Tensor | None
) -> list[LayerRows]:
    """Some layers, each less the mean of its samples ``index``.

    storage ``(>= l, n, d)``: where their samples are kept; None to read them anew each time. Raises NumericalError for
    samples that are not finite.
    """
    n, _, d = hidden.shape
    dtype = working_dtype(hidden.dtype, device)
    numbers = range(layers.start, layers.stop)
    ones = torch.ones(len(index), dtype=dtype, device=device)  # a product is several times faster than a sum
    centres = [ones @ hidden.take(index, layer).to(device, dtype) / len(index) for layer in numbers]
    norms = [torch.empty(n, dtype=dtype, device=device) for _ in numbers]
    buffers = (
        torch.empty(len(numbers), min(n, BLOCK_ROWS), d, dtype=dtype, device=device) if storage is None else storage
    )
    for start in range(0, n, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, n)
        rows = slice(0, stop - start) if storage is None else slice(start, stop)
        blocks = [buffer[rows] for buffer in buffers[: len(numbers)]]
        hidden.copy_rows(slice(start, stop), layers, blocks)
        for block, centre, lengths in zip(blocks, centres, norms, strict=True):
            lengths[start:stop] = torch.linalg.vector_norm(block.sub_(centre), dim=1).square_()
    for layer, lengths in zip(numbers, norms, strict=True):
        if not bool(torch.isfinite(lengths).all()):
            raise NumericalError(f"layer {layer} holds NaN or infinity, or overflows; a map needs finite samples")
    kept = [None] * len(numbers) if storage is None else list(storage[: len(numbers)])
    return [
        LayerRows(hidden, *parts) for parts in zip(numbers, [device] * len(numbers), centres, norms, kept, strict=True)
    ]


def working_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """float64 for float64 samples where the device has it, else float32."""
    return torch.float64 if dtype == precise_dtype(device) == torch.float64 else torch.float32


def summarize(rows: LayerRows, codebook: torch.Tensor, lattice: Lattice) -> tuple[torch.Tensor, ...]:
    """The fields of ``LayerMaps`` for the centred codebook ``(m, d)`` of one layer, each with a leading axis of one."""
    best, second, lengths = [], [], []
    for block, norms in zip(rows.blocks(), rows.norms.split(BLOCK_ROWS), strict=True):
        scores = quality.relative_scores(block[None], codebook[None])[0]
        nearest, own = scores.min(dim=1)
        best.append(own)
        second.append(scores.scatter_(1, own[:, None], float("inf")).argmin(dim=1) if len(codebook) > 1 else own)
        squares = nearest + norms
        close = squares < _CANCELLED * norms
        squares[close] = (block[close] - codebook[own[close]]).square().sum(dim=1)
        lengths.append(squares.clamp_(min=0.0).sqrt_())
    best_units = torch.cat(best)[None]
    error = torch.cat(lengths)[None].mean(dim=1)
    if not bool(torch.isfinite(error).all()) or not bool(torch.isfinite(codebook).all()):
        raise NumericalError(
            f"the map of layer {rows.layer} overflows: scale the samples down, or, with the mexican_hat neighbourhood, "
            "which pushes units away step by step, lower sigma, learning_rate or n_steps"
        )
    return (
        codebook[None] + rows.centre,
        best_units,
        quality.hit_counts(best_units, lattice.n_units),
        error,
        quality.topographic_error(best_units, torch.cat(second)[None], lattice),
        quality.u_matrix(codebook[None], lattice),
    )
