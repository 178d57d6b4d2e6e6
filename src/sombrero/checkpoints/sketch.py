"""Singular values of a difference that is read in slices of rows, in two passes and bounded memory.

Randomized range finder (Halko, Martinsson, Tropp 2011, algorithm 4.1): with a random ``Ω (columns, k)`` the first pass
gives ``Y = D Ω``, whose orthonormal basis Q holds the main left directions; the second gives ``B = Qᵀ D``, whose
singular values are those of D along Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class Spectrum:
    """The main part of a difference D ``(rows, columns)``.

    U ``(rows, k)``, values ``(k,)`` falling, Vt ``(k, columns)``; float32. energy: ``||D||_F^2`` of all of it.
    """

    U: torch.Tensor
    values: torch.Tensor
    Vt: torch.Tensor
    energy: float


class Sketch:
    """Collects a difference by slices of rows: all of them through :meth:`range`, then again by :meth:`project`."""

    def __init__(self, rows: int, columns: int, size: int, seed: int) -> None:
        self.size = min(size, rows, columns)
        generator = torch.Generator().manual_seed(seed)
        self._random = torch.randn(columns, self.size, generator=generator)
        self._Y = torch.zeros(rows, self.size)
        self._B = torch.zeros(self.size, columns)
        self.energy = 0.0

    def range(self, first: int, rows: torch.Tensor) -> None:
        """First pass: rows ``first`` and on, float32 ``(n, columns)``."""
        self._Y[first : first + len(rows)] = rows @ self._random
        self.energy += float(rows.double().square().sum())

    @cached_property
    def basis(self) -> torch.Tensor:
        """Q ``(rows, k)``, after the first pass."""
        basis: torch.Tensor = torch.linalg.qr(self._Y).Q
        return basis

    def project(self, first: int, rows: torch.Tensor) -> None:
        """Second pass: the same rows."""
        self._B += self.basis[first : first + len(rows)].T @ rows

    def spectrum(self) -> Spectrum:
        """After both passes."""
        left, values, Vt = torch.linalg.svd(self._B, full_matrices=False)
        return Spectrum(self.basis @ left, values, Vt, self.energy)
