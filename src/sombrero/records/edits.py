"""Edits, as parameters and as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sombrero.records.models import WriterKind

if TYPE_CHECKING:
    import torch


RuleName = Literal["project", "compose", "affine", "norm", "guarded"]


@dataclass(frozen=True)
class LayerProfile:
    """Strength of an edit over the layers for one kind of writer: constant on ``first..last``, 0 elsewhere."""

    first: int
    last: int
    strength: float

    def at(self, layer: int) -> float:
        """Strength at ``layer`` (0-based)."""
        return self.strength if self.first <= layer <= self.last else 0.0


@dataclass(frozen=True)
class EditParameters:
    """One point of the search space: everything that is needed to build an edit from a direction set.

    map_layer is the state index whose directions every writer uses; None means that a writer of layer ``l`` uses its
    own, index ``l + 1``. units are salience ranks into the direction set. alpha (the ridge), beta (the weight of the
    harmless guards) and gamma (that of the guards on true refusals, where the goal has some) are any floats within what
    the rule ``guarded`` takes; they matter for it alone.
    """

    rule: RuleName
    directions: str
    map_layer: int | None
    units: tuple[int, ...]
    profiles: Mapping[WriterKind, LayerProfile]
    alpha: float = 0.01
    beta: float = 1.0
    gamma: float = 1.0


@dataclass(frozen=True)
class LowRankEdit:
    """``y' = D (y - strength * V (A^T x + c))`` for one writer ``y = W x + b``, or ``y' = y - strength * V U^T y``.

    V ``(d, K)``, A ``(d_in, K)``, c ``(K,)`` or None; row_scale ``(d,)`` is the diagonal of D, None where D is 1. D
    multiplies whole rows of the writer: of its weight, and its bias with them. With U ``(d, K)`` in place of A and c,
    what is removed is read off the output: so one edit fits every expert whose output is part of y.
    """

    V: torch.Tensor
    A: torch.Tensor | None
    c: torch.Tensor | None
    strength: float
    row_scale: torch.Tensor | None = None
    U: torch.Tensor | None = None

    def __post_init__(self) -> None:
        assert (self.A is None) != (self.U is None), "an edit reads either the input or the output"
        assert self.U is None or (self.c is None and self.row_scale is None), "U excludes c and row_scale"

    @property
    def reader(self) -> torch.Tensor:
        """A or U, whichever the amount that is removed is read with."""
        found = self.U if self.A is None else self.A
        assert found is not None
        return found


ModelEdit = Mapping[str, LowRankEdit]
"""Writer name -> its edit. Writers that are not named stay as they are."""
