"""Whether an edit will drown in rounding, from a sample of its packed weights: known before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch

from sombrero.checkpoints.formats import Piece, Requantization, edit_piece, require_survival, rows_of
from sombrero.checkpoints.formats.requantize import MAX_ELEMENTS
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.packed import PackedChange, prepare
from sombrero.checkpoints.reading import TensorReader
from sombrero.errors import CheckpointError

T = TypeVar("T")

WEIGHTS = 8
"""Weights that are looked at, spread over all that are edited; one matrix of each."""
PIECES = 4
CLEARLY = 0.8
"""A sample says no more than that: an edit that it puts near the limit is judged in the end, by every number."""


def foresee_survival(index: CheckpointIndex, packed: Mapping[str, PackedChange]) -> None:
    """Raise CheckpointError where rounding will clearly leave too little of the edit.

    Looked at are weights that are rounded to nearest; where others are stored otherwise, they count in the end alone.
    """
    if any(change.edit is not None and change.how != "nearest" for change in packed.values()):
        return
    try:
        require_survival(look(index, packed), share=CLEARLY)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. This is of a sample of the weights; nothing was written") from error


def look(index: CheckpointIndex, packed: Mapping[str, PackedChange]) -> dict[str, Requantization]:
    """How a sample of the edited weights will come out."""
    edited = [change for change in packed.values() if change.edit is not None]
    with TensorReader(index) as reader:
        return {change.weight_name: _look(change, reader) for change in _spread(edited, WEIGHTS)}


def _look(change: PackedChange, reader: TensorReader) -> Requantization:
    """How a sample of one weight comes out, with the sums of the sample scaled up to the whole weight."""
    whole = Piece(change.codec.n_matrices // 2, 0, change.codec.n_rows)
    codec, edit = prepare(change, reader.read, whole)
    pieces = list(rows_of(codec, whole, MAX_ELEMENTS))
    sums, rows = torch.zeros(5, dtype=torch.float64), 0
    for piece in _spread(pieces, PIECES):
        sums += edit_piece(codec, codec.read(reader.read, piece), edit, piece)[1]
        rows += piece.last - piece.first
    sums *= codec.n_matrices * codec.n_rows / max(1, rows)
    return Requantization(codec.format, *sums.tolist())


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly spread, from the first on."""
    count = min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]
