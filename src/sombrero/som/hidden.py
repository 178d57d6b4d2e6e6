"""Samples of many layers, ``(n, L, d)``, from wherever they are: a tensor, an array, or a file that is not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from sombrero.errors import UsageError
from sombrero.som.mapped_pages import release_pages

BLOCK_ROWS = 256
"""Samples worked on at a time."""
READ_BYTES = 32 * 2**20
"""Of a memory-mapped file, as much as is touched before its pages are dropped again."""


@runtime_checkable
class SlicedArray(Protocol):
    """Anything with a shape that gives a tensor or array for two slices, as ``source[0:9, 3:4]``.

    A NumPy array or memmap is one, and so is the slice of a safetensors file (``safe_open(...).get_slice(name)``),
    which has ``get_shape()`` instead of ``shape``.
    """

    def __getitem__(self, key: Any, /) -> Any:
        """A tensor or array of the rows and layers of two slices."""
        ...


class Hidden:
    """One face for a tensor, an array, a memmap, or another ``SlicedArray`` of samples ``(n, L, d)``.

    Raises UsageError for another shape, or values that are not real numbers.
    """

    def __init__(self, source: torch.Tensor | SlicedArray) -> None:
        shape = source.get_shape() if hasattr(source, "get_shape") else getattr(source, "shape", None)
        if not isinstance(source, SlicedArray) or not isinstance(shape, Sequence):
            raise UsageError(
                f"hidden is {type(source).__name__}; give a tensor, an array, or an object with a shape and slices"
            )
        if len(shape) != 3 or min(shape) < 1:
            raise UsageError(f"hidden has shape {tuple(shape)}; give samples, layers, features: (n, L, d)")
        self.source = source.detach() if isinstance(source, torch.Tensor) else source
        self.shape: tuple[int, int, int] = (int(shape[0]), int(shape[1]), int(shape[2]))
        probe = self.piece(slice(0, 1), slice(0, 1))
        if probe.is_complex():
            raise UsageError(f"hidden has complex values ({probe.dtype}); a map needs real numbers")
        self.device, self.dtype, self.item_bytes = probe.device, probe.dtype, probe.element_size()
        self._may_be_mapped, self._is_mapped = self.device.type == "cpu", False

    def piece(self, rows: slice, layers: slice) -> torch.Tensor:
        """Some rows of some layers, ``(r, l, d)``; possibly a view."""
        values = self.source[rows, layers]
        return values if isinstance(values, torch.Tensor) else _as_tensor(np.asarray(values))

    def centred_rows(self, start: int, layer: int, centre: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Rows of one layer from ``start`` on, less centre ``(d,)``, in out ``(r, d)``.

        In one pass over the memory where types allow; little at a time where a file is mapped.
        """
        n_layers, d = self.shape[1:]
        at_once = max(1, READ_BYTES // (n_layers * d * self.item_bytes)) if self._may_be_mapped else len(out)
        for first in range(0, len(out), at_once):
            rows = slice(start + first, start + min(first + at_once, len(out)))
            values, part = self.piece(rows, slice(layer, layer + 1))[:, 0], out[first : first + at_once]
            if values.device == part.device and torch.result_type(values, centre) == part.dtype:
                torch.sub(values, centre, out=part)
            else:
                part.copy_(values).sub_(centre)
            self._release(rows)
        return out

    def take(self, index: NDArray[np.int64], layer: int) -> torch.Tensor:
        """The rows ``index (k,)`` of one layer, ``(k, d)``."""
        taken = []
        for start in range(0, len(index), BLOCK_ROWS):
            some = index[start : start + BLOCK_ROWS]
            taken.append(self._gathered(some, layer))
            for row in some.tolist() if self._may_be_mapped else ():
                self._release(slice(row, row + 1))
        return torch.cat(taken) if len(taken) > 1 else taken[0]

    def _gathered(self, index: NDArray[np.int64], layer: int) -> torch.Tensor:
        if isinstance(self.source, torch.Tensor):
            return self.source[torch.from_numpy(index).to(self.device), layer]
        if isinstance(self.source, np.ndarray):
            return _as_tensor(self.source[index, layer])
        one = slice(layer, layer + 1)
        return torch.cat([self.piece(slice(row, row + 1), one)[:, 0] for row in index.tolist()])

    def _release(self, rows: slice) -> None:
        """Drop the pages of these rows if they are mapped from a file; when the first are not, none are.

        Once some were, others are tried even after a failure: the system may have been moving a page just then.
        """
        if self._may_be_mapped:
            self._is_mapped |= release_pages(*_addresses(self.source[rows, slice(None)]))
            self._may_be_mapped = self._is_mapped


def _as_tensor(values: NDArray[Any]) -> torch.Tensor:
    """A copy as a tensor: torch takes no foreign byte order, and warns of memory that must not be written."""
    try:
        return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("=")))
    except TypeError as error:
        raise UsageError(f"hidden has values of type {values.dtype}; a map needs real numbers") from error


def _addresses(values: torch.Tensor | NDArray[Any]) -> tuple[int, int]:
    """Address of the first byte, and of the one after the last."""
    if isinstance(values, torch.Tensor):
        last = sum((size - 1) * stride for size, stride in zip(values.shape, values.stride(), strict=True))
        return values.data_ptr(), values.data_ptr() + (last + 1) * values.element_size()
    start, stop = np.lib.array_utils.byte_bounds(values)
    return int(start), int(stop)
