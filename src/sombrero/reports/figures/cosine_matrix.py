"""Figure: cosines between the directions of the map and those of the controls."""

from __future__ import annotations

from itertools import groupby

from sombrero.reports.colours import fills, spread
from sombrero.reports.direction_numbers import cosines
from sombrero.reports.figures.canvas import Cell, Picture, place, sheet
from sombrero.reports.figures.scales import draw_scale
from sombrero.reports.lattice_drawing import INK, PAPER, draw_cells, draw_labels, frame, label_size
from sombrero.reports.lattice_shapes import centres
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import number, state_name

SIDE, LEFT, TOP = 7.2, 1.35, 1.85


def draw_cosines(run: RunFiles) -> Picture:
    """One square for each pair, its cosine written in it."""
    if run.shown_state is None:
        raise ValueError("the cosines need the map's directions")
    names, matrix = cosines(run, run.shown_state)
    about = f"{state_name(run.shown_state)} · most salient directions of each set, less the harmless mean"
    figure = sheet(LEFT + SIDE + 0.5, TOP + SIDE + 0.7, "How the directions lie to each other", about)
    axes, shape = place(figure, LEFT, TOP, SIDE, SIDE), (len(names), len(names), "rectangular")
    values = [value for row in matrix for value in row]
    low = spread(values)[0]
    colours = fills(values, low, 1.0)
    draw_cells(axes, centres(*shape), "rectangular", colours, 0.98)
    frame(axes, shape)
    size = min(10.0, label_size(axes, shape, 0.36))
    draw_labels(axes, centres(*shape), [short(value) for value in values], colours, size)
    for i, name in enumerate(names):
        axes.text(-0.7, i, name, ha="right", va="center", fontsize=8.5, color=INK)
        axes.text(i, -0.7, name, ha="left", va="bottom", rotation=60, rotation_mode="anchor", fontsize=8.5, color=INK)
    for border in group_borders(names):
        axes.plot([border - 0.5] * 2, [-0.5, len(names) - 0.5], color=PAPER, linewidth=4)
        axes.plot([-0.5, len(names) - 0.5], [border - 0.5] * 2, color=PAPER, linewidth=4)
    draw_scale(figure, LEFT + 0.35 * SIDE, TOP + SIDE + 0.25, 0.3 * SIDE, number(low), "1, parallel")
    rows: list[tuple[Cell, ...]] = [(name, *row) for name, row in zip(names, matrix, strict=True)]
    return Picture(figure, ("direction", *names), rows)


def short(value: float | None) -> str:
    """A cosine in three signs at most: ``.93``, ``−.12``, ``1``."""
    if value is None:
        return ""
    text = f"{value:.2f}".replace("-", "−")
    return text.removesuffix(".00") if text.endswith("1.00") else text.replace("0.", ".", 1)


def group_borders(names: list[str]) -> list[int]:
    """Where one method's directions end and the next one's begin."""
    borders, place_of_next = [], 0
    for _, group in groupby(names, key=lambda name: name.rpartition(" ")[0]):
        place_of_next += len(list(group))
        borders.append(place_of_next)
    return borders[:-1]
