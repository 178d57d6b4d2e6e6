"""Edits, as parameters and as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sombrero.records.models import WriterKind

if TYPE_CHECKING:
    import torch


RuleName = Literal["project", "compose", "guarded"]


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
    own, index ``l + 1``. units are salience ranks into the direction set. alpha and beta matter for ``guarded`` alone.
    """

    rule: RuleName
    directions: str
    map_layer: int | None
    units: tuple[int, ...]
    profiles: Mapping[WriterKind, LayerProfile]
    alpha: float = 0.01
    beta: float = 1.0


@dataclass(frozen=True)
class LowRankEdit:
    """``y' = y - strength * V (A^T x + c)`` for one writer. V ``(d, K)``, A ``(d_in, K)``, c ``(K,)`` or None."""

    V: torch.Tensor
    A: torch.Tensor
    c: torch.Tensor | None
    strength: float


ModelEdit = Mapping[str, LowRankEdit]
"""Writer name -> its edit. Writers that are not named stay as they are."""
