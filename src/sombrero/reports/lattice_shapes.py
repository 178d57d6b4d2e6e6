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
Pair = tuple[int, int]
Shape = tuple[int, int, str]
"""Rows, columns and name of a lattice."""


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


def extent(n_rows: int, n_columns: int, lattice: str, size: float = 1.0) -> tuple[float, float, float, float]:
    """Left, top, width and height of the whole map, its cells being ``size`` times as large as they could be."""
    corners, points = outline(lattice), centres(n_rows, n_columns, lattice)
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top, bottom = min(y for _, y in points), max(y for _, y in points)
    half_width, half_height = size * max(x for x, _ in corners), size * max(y for _, y in corners)
    return left - half_width, top - half_height, right - left + 2 * half_width, bottom - top + 2 * half_height


def neighbours(n_rows: int, n_columns: int, lattice: str) -> list[Pair]:
    """Pairs of units whose cells touch in the drawing, each once, the lower number first.

    Six around an inner hexagon; eight around a square, diagonal ones included, as the U-matrix counts them.
    """
    pairs: list[Pair] = []
    for row in range(n_rows):
        shift = (n_rows - 1 - row) % 2
        below = (-1, 0, 1) if lattice == "rectangular" else (shift - 1, shift)
        for column in range(n_columns):
            near = [(row, column + 1), *((row + 1, column + step) for step in below)]
            pairs += [
                (row * n_columns + column, r * n_columns + c) for r, c in near if r < n_rows and 0 <= c < n_columns
            ]
    return pairs


def between(n_rows: int, n_columns: int, lattice: str) -> list[tuple[Point, tuple[Pair, ...]]]:
    """The cells that a U-matrix (Ultsch & Siemon 1990) puts between units: where, and whose distance each shows.

    Cells half as large as a unit's, at the midpoints of neighbours; with units drawn half as large too, they fill the
    plane. Where two diagonals of squares cross, one cell stands for both pairs.
    """
    points = centres(n_rows, n_columns, lattice)
    found: dict[Point, list[Pair]] = {}
    for first, second in neighbours(n_rows, n_columns, lattice):
        (x, y), (u, v) = points[first], points[second]
        found.setdefault((round((x + u) / 2, 9), round((y + v) / 2, 9)), []).append((first, second))
    return [(point, tuple(pairs)) for point, pairs in found.items()]


def hit_scale(hits: int, most: int) -> float:
    """Size of a unit's hit mark, its cell being 1: its area follows the count, down to a least size."""
    return 0.0 if hits <= 0 or most <= 0 else max(LEAST_MARK, LARGEST_MARK * math.sqrt(hits / most))
