"""The grid of a map: where its units lie in the plane, how far apart they are, and which of them touch.

Units are numbered row by row: unit ``row * n_columns + column``. Distances between neighbours in a row are 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

LatticeName = Literal["hexagonal", "rectangular"]
LATTICES: tuple[str, ...] = get_args(LatticeName)

_ROW_HEIGHT = np.sqrt(3.0) / 2.0
"""Distance between the rows of a hexagonal grid whose neighbours are 1 apart."""

_TOUCHING = {"hexagonal": 1.0, "rectangular": 2.0}
"""Largest squared distance of units that touch: six of them, or eight (diagonal ones included, as MiniSom counts)."""


@dataclass(frozen=True)
class Lattice:
    """A grid of ``n_rows * n_columns`` units.

    ``hexagonal`` is drawn in offset coordinates as MiniSom draws it: counted from the last row, every second row is
    shifted by half a unit, so that each inner unit has six neighbours at distance 1. Raises ValueError for a grid
    without units or an unknown lattice.
    """

    n_rows: int
    n_columns: int
    name: str = "hexagonal"

    def __post_init__(self) -> None:
        sizes: dict[str, Any] = {"n_rows": self.n_rows, "n_columns": self.n_columns}
        for what, count in sizes.items():
            if not isinstance(count, Integral) or count < 1:
                raise ValueError(f"{what} is {count!r}; a map needs a whole number of at least 1")
        if self.name not in LATTICES:
            raise ValueError(f"lattice is {self.name!r}; choose one of {', '.join(LATTICES)}")

    @property
    def n_units(self) -> int:
        """m, the number of units."""
        return self.n_rows * self.n_columns

    @property
    def widest_sigma(self) -> float:
        """Half the longer side: the neighbourhood width at which ordering starts."""
        return max(self.n_rows, self.n_columns) / 2.0

    @cached_property
    def coordinates(self) -> NDArray[np.float64]:
        """Position (x, y) of every unit in the plane, ``(m, 2)`` float64."""
        row, column = np.divmod(np.arange(self.n_units), self.n_columns)
        if self.name == "rectangular":
            return np.stack([column, row], axis=1).astype(np.float64)
        shifted = (self.n_rows - 1 - row) % 2
        return np.stack([column + 0.5 * shifted, row * _ROW_HEIGHT], axis=1)

    @cached_property
    def squared_distances(self) -> NDArray[np.float64]:
        """Squared Euclidean distance between every two units in the plane, ``(m, m)`` float64."""
        displacement = self.coordinates[:, None] - self.coordinates[None]  # a torus would wrap it here
        return np.asarray((displacement**2).sum(axis=-1))

    @cached_property
    def adjacency(self) -> NDArray[np.bool_]:
        """Which units touch: ``(m, m)`` bool, symmetric, False on the diagonal."""
        squared = self.squared_distances
        return np.asarray((squared > 0.0) & (squared < _TOUCHING[self.name] + 1e-6))
