"""Where the units of a map are drawn, and the shape of their cells.

The geometry of :class:`sombrero.som.Lattice`: neighbours in a row are 1 apart, units are numbered row by row, and of a
hexagonal lattice every second row, counted from the last, is shifted by half a unit.
"""

from __future__ import annotations

import math

ROW_HEIGHT = math.sqrt(3) / 2
LARGEST_MARK, LEAST_MARK = 0.78, 0.34
"""Sizes of hit marks, their cell being 1; the least still holds its number."""

_HEXAGON = tuple(
    (math.sin(math.radians(60 * k)) / math.sqrt(3), math.cos(math.radians(60 * k)) / math.sqrt(3)) for k in range(6)
)
_SQUARE = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))

Point = tuple[float, float]


def centres(n_rows: int, n_columns: int, lattice: str) -> list[Point]:
    """Centre (x, y) of every unit, y downwards."""
    if lattice == "rectangular":
        return [(float(column), float(row)) for row in range(n_rows) for column in range(n_columns)]
    return [
        (column + 0.5 * ((n_rows - 1 - row) % 2), row * ROW_HEIGHT)
        for row in range(n_rows)
        for column in range(n_columns)
    ]


def outline(lattice: str) -> tuple[Point, ...]:
    """Corners of a cell around (0, 0); cells of the lattice fill the plane."""
    return _SQUARE if lattice == "rectangular" else _HEXAGON


def extent(n_rows: int, n_columns: int, lattice: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of the whole map."""
    corners, points = outline(lattice), centres(n_rows, n_columns, lattice)
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top, bottom = min(y for _, y in points), max(y for _, y in points)
    half_width, half_height = max(x for x, _ in corners), max(y for _, y in corners)
    return left - half_width, top - half_height, right - left + 2 * half_width, bottom - top + 2 * half_height


def hit_scale(hits: int, most: int) -> float:
    """Size of a unit's hit mark, its cell being 1: its area follows the count, down to a least size."""
    return 0.0 if hits <= 0 or most <= 0 else max(LEAST_MARK, LARGEST_MARK * math.sqrt(hits / most))
