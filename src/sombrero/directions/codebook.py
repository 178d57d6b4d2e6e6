"""A codebook: points among harmful states, whoever placed them. One shape for the map and for all its controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sombrero.records import RefusalMap


@dataclass(frozen=True)
class Codebook:
    """What directions are derived from; axes as in :class:`sombrero.records.RefusalMap`.

    points ``(L + 1, m, d)`` float32; best_units ``(L + 1, n)`` int64, the unit that each training sample belongs to;
    harmless_mean ``(L + 1, d)`` float32; train_ids, the prompt of each sample. order: ``hits`` sorts the directions by
    the samples that belong to them, ``given`` leaves them as they are.
    """

    method: str
    points: torch.Tensor
    best_units: torch.Tensor
    harmless_mean: torch.Tensor
    train_ids: tuple[str, ...]
    order: Literal["hits", "given"] = "hits"

    @classmethod
    def of_map(cls, refusal_map: RefusalMap, method: str = "som") -> Codebook:
        """The codebook of a map."""
        return cls(
            method, refusal_map.codebook, refusal_map.best_units, refusal_map.harmless_mean, refusal_map.train_ids
        )

    @property
    def hit_counts(self) -> torch.Tensor:
        """Training samples of each unit, ``(L + 1, m)`` int64."""
        counts = torch.zeros(self.points.shape[:2], dtype=torch.int64)
        return counts.scatter_add_(1, self.best_units, torch.ones_like(self.best_units))


def nearest_units(samples: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Nearest point of every sample, ``(n, d)`` and ``(m, d)`` to ``(n,)`` int64; of equally near ones the first."""
    centre = points.mean(dim=0)  # far from the origin, squared distances would drown in the squared norms
    samples, points = samples - centre, points - centre
    return (points.square().sum(dim=-1) - 2 * samples @ points.T).argmin(dim=1)
