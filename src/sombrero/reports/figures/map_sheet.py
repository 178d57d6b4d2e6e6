"""Figure: the map at one state index. Hits and U-matrix; and its component planes: AUROC, log-odds, main category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sombrero.reports.colours import OTHER_LETTER, category_fill, fills, spread
from sombrero.reports.figures.canvas import Cell, Picture, drawable, place, sheet, write_at
from sombrero.reports.figures.scales import draw_scale
from sombrero.reports.lattice_drawing import (
    INK,
    LEAST_LABEL,
    PAPER,
    draw_cells,
    draw_labels,
    draw_u_matrix,
    frame,
    label_size,
)
from sombrero.reports.lattice_shapes import Shape, between, centres, extent
from sombrero.reports.run_files import UNITS, RunFiles
from sombrero.reports.unit_numbers import (
    UnitNumbers,
    between_distances,
    category_keys,
    lattice_shape,
    unit_numbers,
)
from sombrero.reports.wording import number, state_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sombrero.records import RefusalMap

PANEL, HIGHEST = 4.5, 6.5
"""Inches, the width of a plane, and how high it may become."""

GAP, TOP = 0.36, 1.35


def draw_hit_map(run: RunFiles) -> Picture:
    """How many training prompts each unit is nearest to, and how far units are from each other."""
    refusal_map, numbers = _shown(run)
    shape, distances = lattice_shape(refusal_map), between_distances(refusal_map, numbers.index)
    points, high = centres(*shape), panel_height(shape)
    figure = sheet(2 * PANEL + 3 * GAP, TOP + high + 0.65, "The map of refusal", _about(refusal_map, numbers))
    hits, (near, far) = [float(count) for count in numbers.hits], spread([*numbers.u, *distances])
    axes = _panel(figure, 0, high, "Hits: prompts whose best unit it is")
    counts, names = [str(count) for count in numbers.hits], [f"unit {unit}" for unit in range(len(hits))]
    _plane(axes, shape, hits, counts, names, low=0.0)
    _scale(figure, 0, high, "0", f"{max(numbers.hits)} prompts")
    axes = _panel(figure, 1, high, "U-matrix: distances between neighbours")
    places = [point for point, _ in between(*shape)]
    draw_u_matrix(axes, shape, fills(numbers.u, near, far), places, fills(distances, near, far), numbers.hits)
    sizes = label_size(axes, shape, 0.13)
    draw_labels(axes, points, [count if count != "0" else "" for count in counts], [PAPER] * len(points), sizes)
    _scale(figure, 1, high, f"near, {number(near)}", f"{number(far)}, far")
    return Picture(figure, *_table(refusal_map, numbers))


def draw_planes(run: RunFiles) -> Picture:
    """What the units are like: how well each direction separates, how strongly its prompts refuse, what they ask."""
    refusal_map, numbers = _shown(run)
    shape = lattice_shape(refusal_map)
    high = panel_height(shape)
    figure = sheet(3 * PANEL + 4 * GAP, TOP + high + 1.6, "What lives where on the map", _about(refusal_map, numbers))
    axes = _panel(figure, 0, high, "AUROC of the unit's direction")
    intervals = [
        "" if low is None or top is None else f"{low:.2f}–{top:.2f}"
        for low, top in zip(numbers.low, numbers.high, strict=True)
    ]
    _plane(axes, shape, numbers.auroc, [_short(value, 2) for value in numbers.auroc], intervals)
    _scale(figure, 0, high, *(number(value) for value in spread(numbers.auroc)))
    _say(figure, 0, high + 0.35, "on held-out prompts" + (", with 95% intervals" if any(intervals) else ""))
    axes = _panel(figure, 1, high, "Mean refusal log-odds of its prompts")
    _plane(axes, shape, numbers.log_odds, [_short(value, 1) for value in numbers.log_odds])
    if any(value is not None for value in numbers.log_odds):
        _scale(figure, 1, high, *(number(value) for value in spread(numbers.log_odds)))
        _say(figure, 1, high + 0.35, "at the first token; above 0 a refusal is the likelier beginning")
    else:
        _say(figure, 1, high, "not measured in this run")
    axes = _panel(figure, 2, high, "Main category of its prompts")
    _category_plane(axes, shape, numbers)
    if numbers.categories is None:
        _say(figure, 2, high, f"this run has no {UNITS}: who lives in a unit is not known")
    else:
        _category_legend(figure, numbers, high)
    return Picture(figure, *_table(refusal_map, numbers))


def panel_height(shape: Shape) -> float:
    """Inches that a map of this shape takes on a panel's width."""
    _, _, width, height = extent(*shape)
    return min(HIGHEST, PANEL * height / width)


def _shown(run: RunFiles) -> tuple[RefusalMap, UnitNumbers]:
    if run.refusal_map is None or run.shown_state is None:
        raise ValueError("a map sheet needs the map and its directions")
    return run.refusal_map, unit_numbers(run, run.shown_state)


def _about(refusal_map: RefusalMap, numbers: UnitNumbers) -> str:
    return (
        f"{state_name(numbers.index)} · {refusal_map.n_rows} × {refusal_map.n_columns} units, {refusal_map.lattice} · "
        f"{len(refusal_map.train_ids)} harmful prompts · single direction AUROC {number(numbers.single)}"
    )


def _panel(figure: Figure, column: int, high: float, title: str) -> Axes:
    left = GAP + column * (PANEL + GAP)
    write_at(figure, left, TOP - 0.24, title, fontsize=11, weight="bold", color=INK)
    return place(figure, left, TOP, PANEL, high)


def _scale(figure: Figure, column: int, high: float, lowest: str, highest: str) -> None:
    draw_scale(figure, GAP + column * (PANEL + GAP) + 0.3 * PANEL, TOP + high + 0.22, 0.4 * PANEL, lowest, highest)


def _say(figure: Figure, column: int, high: float, text: str) -> None:
    write_at(figure, GAP + (column + 0.5) * PANEL + column * GAP, TOP + high + 0.3, text, ha="center")


def _plane(
    axes: Axes,
    shape: Shape,
    values: Sequence[float | None],
    texts: Sequence[str],
    notes: Sequence[str] = (),
    low: float | None = None,
) -> None:
    """A plane of whole cells with their values in them, and a note below each; darker is more."""
    least, most = spread(values)
    colours = fills(values, least if low is None else low, most)
    draw_cells(axes, centres(*shape), shape[2], colours)
    frame(axes, shape)
    _write_in_cells(axes, shape, colours, texts, notes)


def _write_in_cells(
    axes: Axes, shape: Shape, colours: Sequence[str], texts: Sequence[str], notes: Sequence[str]
) -> None:
    size, points = label_size(axes, shape), centres(*shape)
    small = 0.56 * size
    up = 0.06 if any(notes) and small >= LEAST_LABEL else 0.0
    draw_labels(axes, points, texts, colours, size, down=-up)
    if notes:
        draw_labels(axes, points, notes, colours, small, down=0.22)


def _category_plane(axes: Axes, shape: Shape, numbers: UnitNumbers) -> None:
    keys = category_keys(numbers)
    colours, letters, shares = [], [], []
    for unit, hits in zip(numbers.categories or [()] * len(numbers.hits), numbers.hits, strict=True):
        name, count = unit[0] if unit else ("", 0)
        letter = keys.get(name, OTHER_LETTER) if unit else ""
        colours.append(category_fill(letter))
        letters.append(letter)
        shares.append(f"{count} of {hits}" if unit else "")
    draw_cells(axes, centres(*shape), shape[2], colours)
    frame(axes, shape)
    _write_in_cells(axes, shape, colours, letters, shares)


def _category_legend(figure: Figure, numbers: UnitNumbers, high: float) -> None:
    left, top = GAP + 2 * (PANEL + GAP), TOP + high + 0.25
    entries = [(letter, drawable(name, 26)) for name, letter in category_keys(numbers).items()]
    for i, (letter, name) in enumerate([*entries, (OTHER_LETTER, "another category")]):
        x, y = left + (i % 2) * PANEL / 2, top + (i // 2) * 0.27
        axes, fill = place(figure, x, y - 0.1, 0.2, 0.2), category_fill(letter)
        draw_cells(axes, [(0.0, 0.0)], "rectangular", [fill], 1.0)
        frame(axes, (1, 1, "rectangular"))
        draw_labels(axes, [(0.0, 0.0)], [letter], [fill], 8)
        write_at(figure, x + 0.28, y, name, color=INK, va="center_baseline")


def _short(value: float | None, digits: int) -> str:
    return "" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # no −0.0


def _table(refusal_map: RefusalMap, numbers: UnitNumbers) -> tuple[tuple[str, ...], Sequence[tuple[Cell, ...]]]:
    place_of = ("state", "unit", "row", "column", "hits", "mean_distance", "salience_rank")
    columns = (*place_of, "auroc", "auroc_low", "auroc_high", "log_odds", "categories")
    told = numbers.categories or [()] * len(numbers.hits)
    rows: list[tuple[Cell, ...]] = []
    for unit, hits in enumerate(numbers.hits):
        row, column = divmod(unit, refusal_map.n_columns)
        who = "; ".join(f"{name}: {count}" for name, count in told[unit])
        measured = (numbers.auroc[unit], numbers.low[unit], numbers.high[unit], numbers.log_odds[unit])
        rows.append((numbers.index, unit, row, column, hits, numbers.u[unit], numbers.rank[unit], *measured, who))
    return columns, rows
