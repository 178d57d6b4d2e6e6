"""Figure: the map at every state index, small and side by side, from the embeddings to the last layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sombrero.reports.colours import fills, spread
from sombrero.reports.figures.canvas import Cell, Picture, place, sheet, write_at
from sombrero.reports.figures.scales import draw_scale
from sombrero.reports.lattice_drawing import FAINT, INK, draw_cells, draw_hits
from sombrero.reports.lattice_shapes import Point, centres, extent
from sombrero.reports.run_files import RunFiles
from sombrero.reports.unit_numbers import lattice_shape
from sombrero.reports.wording import finite, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sombrero.records import RefusalMap

WIDTH, MARGIN = 12.0, 0.36
MARK = "#d55e00"


def draw_strip(run: RunFiles) -> Picture:
    """Each map with its state index and the single direction's AUROC; the state that other figures show is marked."""
    refusal_map, single = run.refusal_map, run.single
    if refusal_map is None or single is None or run.shown_state is None:
        raise ValueError("the strip needs the map and its directions")
    auroc: list[float] = single.auroc[:, 0].tolist()
    n_states, columns = len(auroc), strip_columns(len(auroc))
    left, top, width, height = extent(*lattice_shape(refusal_map))
    step_x, label = 1.16 * width, 0.42 * width
    step_y = height + label + 0.1 * width
    scale = (WIDTH - 2 * MARGIN) / (columns * step_x)
    rows = math.ceil(n_states / columns)
    about = f"{n_states} states: 0 is the embeddings, l + 1 the residual stream after layer l"
    figure = sheet(
        WIDTH, rows * step_y * scale + 1.65, "The map, layer by layer", f"{about} · marked: state {run.shown_state}"
    )
    axes = place(figure, MARGIN, 0.92, WIDTH - 2 * MARGIN, rows * step_y * scale)
    corners = [(i % columns * step_x - left, i // columns * step_y + label - top) for i in range(n_states)]
    draw_maps(axes, refusal_map, list(range(n_states)), corners, line=0.5)
    size = max(6.0, min(9.5, 72 * scale * width * 0.16))
    for index, (x, y) in enumerate(corners):
        box = (x + left, y + top, width, height)
        _write_caption(axes, box, index, auroc[index], size, marked=index == run.shown_state)
    axes.set_xlim(0, columns * step_x)
    axes.set_ylim(rows * step_y, 0)
    axes.set_aspect("equal", anchor="NW")
    axes.set_axis_off()
    below = 0.92 + rows * step_y * scale + 0.25
    draw_scale(figure, WIDTH - 2.8, below, 1.6, "near", "far")
    write_at(figure, MARGIN, below + 0.07, LEGEND)
    return Picture(figure, *_table(refusal_map, auroc))


LEGEND = (
    "Number: state index · right: AUROC of the single direction · white: hits of a unit · "
    "fill: mean distance to its neighbours"
)


def strip_columns(n_states: int) -> int:
    """Maps in a row: near-square cells of a sheet that is wider than high, and no last row of a few."""
    best = max(1, min(n_states, round(math.sqrt(1.6 * n_states))))
    choices = range(max(1, best - 1), best + 2)
    return min(choices, key=lambda columns: (-n_states % columns, abs(columns - best)))


def draw_maps(
    axes: Axes, refusal_map: RefusalMap, indices: Sequence[int], corners: Sequence[Point], *, line: float
) -> None:
    """The map at each of these state indices, moved by its corner; fills are scaled anew for each, as norms grow."""
    shape = lattice_shape(refusal_map)
    points = centres(*shape)
    for index, (right, down) in zip(indices, corners, strict=True):
        moved = [(x + right, y + down) for x, y in points]
        u: list[float] = refusal_map.u_matrix[index].tolist()
        draw_cells(axes, moved, shape[2], fills(u, *spread(u)))
        draw_hits(axes, moved, shape[2], refusal_map.hit_counts[index].tolist(), size=1.0, line=line)


def _write_caption(
    axes: Axes, box: tuple[float, float, float, float], index: int, auroc: float, size: float, *, marked: bool
) -> None:
    left, top, width, height = box
    y, weight = top - 0.06 * width, "bold" if marked else "normal"
    axes.text(left, y, str(index), color=MARK if marked else INK, weight="bold", va="bottom", fontsize=size)
    said, colour = number(finite(auroc)), INK if marked else FAINT
    axes.text(left + width, y, said, color=colour, weight=weight, ha="right", va="bottom", fontsize=size)
    if marked:
        below = top + height + 0.06 * width
        axes.plot([left, left + width], [below, below], color=MARK, linewidth=2.2, solid_capstyle="round")


def _table(refusal_map: RefusalMap, auroc: Sequence[float]) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
    rows: list[tuple[Cell, ...]] = []
    for index, single in enumerate(auroc):
        hits, u = refusal_map.hit_counts[index].tolist(), refusal_map.u_matrix[index].tolist()
        rows += [
            (index, unit, count, finite(mean, 6), finite(single, 6))
            for unit, (count, mean) in enumerate(zip(hits, u, strict=True))
        ]
    return ("state", "unit", "hits", "mean_distance", "auroc_single"), rows
