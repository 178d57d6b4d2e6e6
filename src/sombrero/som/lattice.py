"""The grid of a map: where its units lie in the plane or on a torus, how far apart they are, and which of them touch.

Units are numbered row by row: unit ``row * n_columns + column``. Distances between neighbours in a row are 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
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
    shifted by half a unit, so that each inner unit has six neighbours at distance 1. ``toroidal``: opposite sides are
    joined, so that no unit is at a border; distances are the shortest ways around. Raises ValueError for a grid without
    units, an unknown lattice, and a hexagonal torus with an odd number of rows above 1 (their shifts would not join).
    """

    n_rows: int
    n_columns: int
    name: str = "hexagonal"
    toroidal: bool = False

    def __post_init__(self) -> None:
        sizes: dict[str, Any] = {"n_rows": self.n_rows, "n_columns": self.n_columns}
        for what, count in sizes.items():
            if not isinstance(count, Integral) or count < 1:
                raise ValueError(f"{what} is {count!r}; a map needs a whole number of at least 1")
        if self.name not in LATTICES:
            raise ValueError(f"lattice is {self.name!r}; choose one of {', '.join(LATTICES)}")
        if self.toroidal and self.name == "hexagonal" and self.n_rows > 1 and self.n_rows % 2:
            raise ValueError(
                f"n_rows is {self.n_rows}; a hexagonal torus needs an even number of rows, as every second row is "
                "shifted: give one row more or fewer, or lattice='rectangular'"
            )

    @property
    def n_units(self) -> int:
        """m, the number of units."""
        return self.n_rows * self.n_columns

    @property
    def widest_sigma(self) -> float:
        """Half the longer side, or a quarter on a torus, where nothing is further away than half a side: the
        neighbourhood width at which ordering starts."""
        return max(self.n_rows, self.n_columns) / (4.0 if self.toroidal else 2.0)

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
        """Squared Euclidean distance between every two units, ``(m, m)`` float64."""
        return np.asarray(np.min([x**2 + y**2 for x, y in self._displacements()], axis=0))

    @cached_property
    def steps(self) -> NDArray[np.float64]:
        """Fewest steps from unit to touching unit between every two units, ``(m, m)`` float64, whole numbers."""
        if self.name == "rectangular":
            ways = [np.maximum(np.abs(x), np.abs(y)) for x, y in self._displacements()]
            return np.asarray(np.min(ways, axis=0))
        ways = []
        for x, y in self._displacements():  # each step to another row also takes half a column
            rows = np.abs(y) / _ROW_HEIGHT
            ways.append(rows + np.maximum(np.abs(x) - rows / 2.0, 0.0))
        return np.asarray(np.rint(np.min(ways, axis=0)))

    @cached_property
    def adjacency(self) -> NDArray[np.bool_]:
        """Which units touch: ``(m, m)`` bool, symmetric, False on the diagonal."""
        squared = self.squared_distances
        return np.asarray((squared > 0.0) & (squared < _TOUCHING[self.name] + 1e-6))

    def _displacements(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """x and y, each ``(m, m)``, from every unit to every unit; on a torus, to its nine nearest images."""
        x, y = np.moveaxis(self.coordinates[:, None] - self.coordinates[None], 2, 0)
        height = self.n_rows * (_ROW_HEIGHT if self.name == "hexagonal" else 1.0)
        turns = (-1, 0, 1) if self.toroidal else (0,)
        for across, down in product(turns, turns):
            yield x + across * self.n_columns, y + down * height
