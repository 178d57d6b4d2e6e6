"""Cells of a map on a matplotlib axes: the one way in which still pictures draw hexagons and squares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sombrero.reports.colours import ink
from sombrero.reports.lattice_shapes import Point, Shape, centres, extent, hit_scale, outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, RULE, PAPER = "#1d2126", "#5b626c", "#dfe3e8", "#ffffff"
CELL_SIZE = 0.97
"""Of a cell that would touch its neighbours: a thin gap keeps equal fills apart."""

MOST_VECTOR_CELLS = 6_000
"""Cells that an SVG draws as shapes; more become one image inside it, or its size would be that of a film."""

LEAST_LABEL, LARGEST_LABEL = 5.0, 15.0
"""Points: smaller numbers nobody reads, larger ones shout."""


def frame(axes: Axes, shape: Shape, size: float = 1.0) -> None:
    """Limit axes to a map whose cells are of this size, y downwards, both directions to one scale."""
    left, top, width, height = extent(*shape, size)
    axes.set_xlim(left, left + width)
    axes.set_ylim(top + height, top)
    axes.set_aspect("equal")
    axes.set_axis_off()


def draw_cells(
    axes: Axes,
    points: Sequence[Point],
    lattice: str,
    fills: Sequence[str],
    sizes: Sequence[float] | float = CELL_SIZE,
    *,
    edge: str = "none",
    line: float = 0.0,
) -> None:
    """A cell at each point; ``sizes`` are shares of a whole cell, one for all or one each."""
    from matplotlib.collections import PolyCollection

    corners = outline(lattice)
    each = [sizes] * len(points) if isinstance(sizes, int | float) else sizes
    shapes = [[(x + size * dx, y + size * dy) for dx, dy in corners] for (x, y), size in zip(points, each, strict=True)]
    cells = PolyCollection(shapes, facecolors=list(fills), edgecolors=edge, linewidths=line)
    cells.set_rasterized(len(points) > MOST_VECTOR_CELLS)
    axes.add_collection(cells, autolim=False)


def draw_hits(
    axes: Axes, points: Sequence[Point], lattice: str, hits: Sequence[int], *, size: float, line: float
) -> None:
    """White marks whose area follows the hits; ``size`` is that of the cell that holds the largest."""
    most = max(hits, default=0)
    there = [(point, size * hit_scale(count, most)) for point, count in zip(points, hits, strict=True) if count > 0]
    marks = ([point for point, _ in there], lattice, [PAPER] * len(there), [scale for _, scale in there])
    draw_cells(axes, *marks, edge=INK, line=line)


def draw_labels(
    axes: Axes, points: Sequence[Point], texts: Sequence[str], fills: Sequence[str], size: float, *, down: float = 0.0
) -> None:
    """A text in the middle of each cell, ``down`` below it, in the ink that reads best on its fill."""
    if size < LEAST_LABEL:
        return
    for (x, y), text, fill in zip(points, texts, fills, strict=True):
        if text:
            axes.text(x, y + down, text, ha="center", va="center_baseline", fontsize=size, color=ink(fill))


def label_size(axes: Axes, shape: Shape, share: float = 0.25) -> float:
    """Points that are ``share`` of a cell's width on these axes."""
    _, _, width, height = extent(*shape)
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes are in no figure")
    box = axes.get_position()
    inches = min(box.width * figure.get_figwidth() / width, box.height * figure.get_figheight() / height)
    return min(LARGEST_LABEL, 72 * inches * share)


def draw_u_matrix(
    axes: Axes,
    shape: Shape,
    unit_fills: Sequence[str],
    between_points: Sequence[Point],
    between_fills: Sequence[str],
    hits: Sequence[int],
) -> None:
    """Units and the cells between them, all half as large, with the hits of the units in white."""
    points, size = centres(*shape), 0.5
    draw_cells(axes, between_points, shape[2], between_fills, size * CELL_SIZE)
    draw_cells(axes, points, shape[2], unit_fills, size * CELL_SIZE)
    draw_hits(axes, points, shape[2], hits, size=size, line=0.6)
    frame(axes, shape, size)
