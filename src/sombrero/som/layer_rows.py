"""The samples of one layer less their centre, block by block.

Every sum runs over blocks of ``BLOCK_ROWS`` samples in order, whether a layer is held in memory or read again at each
pass, so that the outcome does not depend on which it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from sombrero.errors import NumericalError
from sombrero.som.hidden import BLOCK_ROWS, Hidden
from sombrero.som.spaces import precise_dtype

CENTRE_ROWS = 16
"""Samples whose mean is subtracted: enough to take away what they have in common, which would cost digits."""
CACHED_ROWS = 64
"""Samples that are copied and centred while they are in a core's cache."""


@dataclass
class LayerRows:
    """One layer's samples ``(n, d)``; ``load_layers`` makes it.

    centre ``(d,)``: what was subtracted: nearly the mean, so that lengths lose no digits. resident ``(n, d)``: the
    centred samples, or None where they are read anew at each pass. scratch ``(n, d)``: memory to read them into.
    """

    hidden: Hidden
    layer: int
    device: torch.device
    centre: torch.Tensor
    resident: torch.Tensor | None
    scratch: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.hidden.shape[0], self.hidden.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self.centre.dtype

    @cached_property
    def norms(self) -> torch.Tensor:
        """Squared lengths of the centred samples, ``(n,)``. Raises NumericalError where they are not finite."""
        norms = torch.cat([torch.linalg.vector_norm(block, dim=1).square_() for block in self.blocks()])
        if not bool(torch.isfinite(norms).all()):
            raise not_finite(self.layer)
        return norms

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
        buffer = self.scratch
        if buffer is None:
            buffer = torch.empty(min(BLOCK_ROWS, n), d, dtype=self.dtype, device=self.device)
        for start in range(0, n, BLOCK_ROWS):
            yield self.hidden.centred_rows(start, self.layer, self.centre, buffer[: min(BLOCK_ROWS, n - start)])

    def read(self, out: torch.Tensor) -> torch.Tensor:
        """All centred samples in order, in out ``(n, d)``."""
        for start in range(0, len(out), CACHED_ROWS):
            self.hidden.centred_rows(start, self.layer, self.centre, out[start : start + CACHED_ROWS])
        return out

    def take(self, index: NDArray[np.int64]) -> torch.Tensor:
        """The centred samples ``index (k,)``, ``(k, d)``; not to be changed, as an index of all gives no copy.

        All of them in scratch are good until another layer with the same scratch is asked for all.
        """
        if len(index) == self.shape[0] and bool((np.diff(index) == 1).all()):
            if self.resident is not None:
                return self.resident
            if self.scratch is not None:
                return self.read(self.scratch)
        if self.resident is not None:
            return self.resident[torch.from_numpy(index).to(self.device)]
        rows = torch.empty(len(index), self.shape[1], dtype=self.dtype, device=self.device)
        return rows.copy_(self.hidden.take(index, self.layer)).sub_(self.centre)


def load_layers(
    hidden: Hidden,
    layers: slice,
    device: torch.device,
    storage: torch.Tensor | None,
    scratch: torch.Tensor | None = None,
) -> list[LayerRows]:
    """Some layers, each less the mean of a few of its samples.

    storage ``(>= l, n, d)``: where their samples are kept; None to read them anew each time. Raises NumericalError
    where that mean is not finite.
    """
    n = hidden.shape[0]
    few = np.unique(np.linspace(0, n - 1, CENTRE_ROWS).astype(np.int64))
    loaded = []
    for place, layer in enumerate(range(layers.start, layers.stop)):
        centre = hidden.take(few, layer).to(device, working_dtype(hidden.dtype, device)).mean(dim=0)
        if not bool(torch.isfinite(centre).all()):
            raise not_finite(layer)
        rows = LayerRows(hidden, layer, device, centre, None, scratch)
        if storage is not None:
            rows.resident = rows.read(storage[place])
        loaded.append(rows)
    return loaded


def not_finite(layer: int) -> NumericalError:
    """The error of a layer whose samples cannot be mapped."""
    return NumericalError(f"layer {layer} holds NaN or infinity, or overflows; a map needs finite samples")


def working_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """float64 for float64 samples where the device has it, else float32."""
    return torch.float64 if dtype == precise_dtype(device) == torch.float64 else torch.float32
