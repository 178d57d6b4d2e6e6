"""Edit a stored weight slice by slice, and say how much of the edit the format let through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from sombrero.checkpoints.formats.carry import carry_over
from sombrero.checkpoints.formats.codec import Codec, Piece, ReadBytes, SliceEdit, Stored, WriteBytes, pieces, rows_of
from sombrero.edits.kernels import edit_weight
from sombrero.errors import CheckpointError, NumericalError
from sombrero.records import LowRankEdit

MAX_ELEMENTS = 1 << 18
"""A piece of 1 MB in float32: its dozen passes stay in a processor's cache."""
MIN_SURVIVED = 0.5
"""A bake whose stored weights hold less of the edit than this does not do what was measured live."""


@dataclass(frozen=True)
class Requantization:
    """How one edited weight W' came out as the stored Q(W'), W being what was stored; squared Frobenius norms.

    weight: of W. change: of W' - W. error: of Q(W') - W'. stored_change: of Q(W') - W. overlap: the inner product of
    Q(W') - W and W' - W.
    """

    format: str
    weight: float
    change: float
    error: float
    stored_change: float
    overlap: float

    @property
    def energy(self) -> float:
        """``||Q(W') - W|| / ||W||``: the relative change of the stored numbers; 0 when rounding undid the edit."""
        return math.sqrt(self.stored_change) / max(math.sqrt(self.weight), torch.finfo(torch.float32).tiny)

    @property
    def relative_error(self) -> float:
        """``||Q(W') - W'|| / ||W' - W||``: rounding against the size of the edit; 0 for no edit."""
        return math.sqrt(self.error / self.change) if self.change > 0 else 0.0

    @property
    def survived(self) -> float:
        """Share of the edit that is in the stored weight: the slope of Q(W') - W on W' - W; 1 for no edit."""
        return self.overlap / self.change if self.change > 0 else 1.0

    @property
    def cosine(self) -> float:
        """Cosine of Q(W') - W and W' - W; 0 when nothing of the edit was stored."""
        scale = math.sqrt(self.change) * math.sqrt(self.stored_change)
        return self.overlap / scale if scale > 0 else 0.0

    def describe(self) -> dict[str, object]:
        """Plain entries for the record of a bake."""
        return {
            "format": self.format,
            "relative_error": self.relative_error,
            "survived": self.survived,
            "cosine": self.cosine,
        }


def low_rank_slices(edits: LowRankEdit | Sequence[LowRankEdit], *, rows_are_outputs: bool) -> SliceEdit:
    """The edit of a stored weight by slices: one for all of its matrices, or one for each (fused experts).

    rows_are_outputs: the stored rows are the residual axis (``linear``), not the inputs (``conv1d``). The same kernel
    as everywhere edits the rows, with the rows of V (or A) that belong to them.
    """

    def apply(rows: torch.Tensor, piece: Piece) -> torch.Tensor:
        edit = edits if isinstance(edits, LowRankEdit) else edits[piece.matrix]
        part = slice(piece.first, piece.last)
        assert edit.A is not None, "an edit that reads the output is first given its A, by reads_of_outputs"
        if not rows_are_outputs:
            return edit_weight(rows, replace(edit, A=edit.A[part]), "conv1d")
        scale = None if edit.row_scale is None else edit.row_scale[part]
        return edit_weight(rows, replace(edit, V=edit.V[part], row_scale=scale), "linear")

    return apply


def reads_of_outputs(
    codec: Codec, read: ReadBytes, U: torch.Tensor, *, max_elements: int = MAX_ELEMENTS
) -> list[torch.Tensor]:
    """``A = W^T U`` ``(columns, K)`` of every matrix, read by slices; for rows that are outputs, U ``(rows, K)``.

    An edit that reads its amount off the output, ``W' = W - s V U^T W``, is with it one that reads the input.
    """
    return [reads_of_output(codec, read, U, matrix, max_elements=max_elements) for matrix in range(codec.n_matrices)]


def reads_of_output(
    codec: Codec, read: ReadBytes, U: torch.Tensor, matrix: int, *, max_elements: int = MAX_ELEMENTS
) -> torch.Tensor:
    """``A = W^T U`` ``(columns, K)`` float32 of one matrix."""
    found = torch.zeros(U.shape[1], codec.n_columns)
    columns = U.T.contiguous()  # a product with few rows on the left is the faster one
    for piece in rows_of(codec, Piece(matrix, 0, codec.n_rows), max_elements):
        rows = codec.decode(codec.read(read, piece))
        found += (columns[:, piece.first : piece.last].to(rows.dtype) @ rows).float()
    return found.T.contiguous()


def edit_slices(
    codec: Codec,
    read: ReadBytes,
    write: WriteBytes,
    edit: SliceEdit,
    *,
    into: Codec | None = None,
    carry: Sequence[torch.Tensor] | None = None,
    max_elements: int = MAX_ELEMENTS,
) -> Requantization:
    """Read a stored weight piece by piece, edit it, write it in its own format, and measure what came of it.

    Memory is a few times ``max_elements`` float32, or that of one row of scale blocks where it is more. Bytes that an
    edit does not change are written as they were. into: another format to store the edited weight in, whose pieces fit
    those of ``codec``. carry: V ``(rows, K)`` of each matrix, where rows are outputs: rounding then keeps the component
    along V (:mod:`~sombrero.checkpoints.formats.carry`), with a whole matrix in memory at a time. Raises NumericalError
    when an edited number is not finite, CheckpointError when the source ends early.
    """
    if carry is None:
        codec = codec.settled(read, edit, max_elements)
    sums = torch.zeros(5, dtype=torch.float64)
    step = codec.n_rows if carry is not None else 1 if into is None else into.row_step
    for piece in pieces(codec, max_elements, step):
        stored = codec.read(read, piece)
        coded, found = edit_piece(codec, stored, edit, piece, into, None if carry is None else carry[piece.matrix])
        (into or codec).write(write, piece, coded)
        sums += found
    return Requantization((into or codec).format, *(float(value) for value in sums))


def edit_piece(
    codec: Codec,
    stored: Stored,
    edit: SliceEdit,
    piece: Piece,
    into: Codec | None = None,
    carry: torch.Tensor | None = None,
) -> tuple[Stored, torch.Tensor]:
    """The edited form of one piece of a settled codec, and its five sums, in the order of :class:`Requantization`.

    into: the codec of the edited form, where it is another one. carry: V, whose component rounding must keep.
    """
    target = into or codec
    before = codec.decode(stored)
    after = edit(before, piece)
    coded = target.encode(after, stored)
    if carry is not None:
        coded = carry_over(target, after, coded, carry)
    final = target.decode(coded)
    if into is None and codec.keeps_bytes and torch.equal(final, before):
        coded = stored  # numbers that are equal keep their bytes: -0.0 must not become 0.0
    lost = final - after
    wanted, kept = after - before, final.sub_(before)  # after may be what is stored
    pairs = ((before, before), (wanted, wanted), (lost, lost), (kept, kept), (kept, wanted))
    sums = torch.stack([torch.dot(a.view(-1), b.view(-1)) for a, b in pairs]).double()
    if not bool(torch.isfinite(sums).all()):
        _require_finite(target, edit(before, piece), target.decode(coded))
        sums = torch.stack([torch.dot(a.view(-1).double(), b.view(-1).double()) for a, b in pairs])
    return coded, sums


def _require_finite(codec: Codec, after: torch.Tensor, final: torch.Tensor) -> None:
    name = codec.tensors[0].name
    if not bool(torch.isfinite(after).all()):
        raise NumericalError(f"tensor {name!r} ({codec.format}) is not finite after its edit; lower the strength")
    if not bool(torch.isfinite(final).all()):
        raise NumericalError(
            f"tensor {name!r} cannot hold its edited numbers in {codec.format}; lower the strength, or bake from a "
            "checkpoint with a wider dtype"
        )


def require_survival(found: Mapping[str, Requantization], *, accept: bool = False, share: float = 1.0) -> float:
    """Return the share of the whole edit that the stored weights hold, over all tensors, weighted by energy.

    Raises CheckpointError when it is below ``share`` of :data:`MIN_SURVIVED`, unless ``accept``.
    """
    change = sum(item.change for item in found.values())
    survived = sum(item.overlap for item in found.values()) / change if change > 0 else 1.0
    if survived >= share * MIN_SURVIVED or accept:
        return survived
    worst = sorted(found, key=lambda name: found[name].survived)[:3]
    listed = ", ".join(f"{name} ({found[name].format}): {found[name].survived:.0%}" for name in worst)
    raise CheckpointError(
        f"rounding to the stored format leaves {survived:.0%} of the edit (at least {MIN_SURVIVED:.0%} is asked for); "
        f"worst: {listed}. Keep the edited tensors in bfloat16, bake from the checkpoint before quantization, "
        "raise the strength, or take it as it is with --accept-requantization-error"
    )
