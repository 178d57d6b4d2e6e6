"""``map.png``: the map at its best state index beside a strip of others, for a README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sombrero.reports.colours import fills, spread
from sombrero.reports.figures.canvas import drawable, drawing_style, place, png_bytes, sheet, write_at
from sombrero.reports.figures.scales import draw_scale
from sombrero.reports.figures.strip import draw_maps
from sombrero.reports.lattice_drawing import FAINT, INK, PAPER, draw_labels, draw_u_matrix, label_size
from sombrero.reports.lattice_shapes import between, centres, extent
from sombrero.reports.strip_states import strip_states
from sombrero.reports.unit_numbers import between_distances, lattice_shape
from sombrero.reports.wording import finite, number, state_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sombrero.records import DirectionSet, RefusalMap

WIDTH, HEIGHT, LARGE = 10.4, 5.6, 4.6
SMALL = 1.45
STRIP = 6
LONGEST_NAME = 40


def draw_map(refusal_map: RefusalMap, single: DirectionSet, name: str) -> bytes:
    """The picture as PNG. Same records, same bytes."""
    auroc: list[float] = single.auroc[:, 0].tolist()
    best = int(single.auroc[:, 0].argmax())
    with drawing_style():
        title = f"How refusal is laid out in {drawable(name, LONGEST_NAME)}"
        about = f"{state_name(best)} · single direction AUROC {number(auroc[best])}"
        figure = sheet(WIDTH, HEIGHT, title, about)
        _draw_large(figure, refusal_map, best)
        _draw_small(figure, refusal_map, auroc, best)
        write_at(
            figure,
            0.36,
            HEIGHT - 0.28,
            "white: training prompts that a unit is nearest to · between units: how far they are",
        )
        draw_scale(figure, WIDTH - 2.4, HEIGHT - 0.34, 1.5, "near", "far")
        return png_bytes(figure)


def _draw_large(figure: Figure, refusal_map: RefusalMap, index: int) -> None:
    """The U-matrix with the cells between units, and the hits."""
    shape = lattice_shape(refusal_map)
    points, hits = centres(*shape), refusal_map.hit_counts[index].tolist()
    u, distances = refusal_map.u_matrix[index].tolist(), between_distances(refusal_map, index)
    low, high = spread([*u, *distances])
    axes = place(figure, 0.36, 0.95, LARGE, HEIGHT - 0.95 - 0.55)
    draw_u_matrix(axes, shape, fills(u, low, high), [p for p, _ in between(*shape)], fills(distances, low, high), hits)
    labels = [str(count) if count else "" for count in hits]
    draw_labels(axes, points, labels, [PAPER] * len(points), label_size(axes, shape, 0.15))


def _draw_small(figure: Figure, refusal_map: RefusalMap, auroc: list[float], best: int) -> None:
    left, top, width, height = extent(*lattice_shape(refusal_map))
    for i, index in enumerate(strip_states(len(auroc), STRIP)):
        x, y = 0.36 + LARGE + 0.45 + (i % 3) * (SMALL + 0.2), 1.05 + (i // 3) * 2.05
        strong = {"color": INK, "weight": "bold" if index == best else "normal"}
        write_at(figure, x, y, f"state {index}", **strong)
        write_at(figure, x + SMALL, y, number(finite(auroc[index])), ha="right", color=FAINT)
        axes = place(figure, x, y + 0.13, SMALL, SMALL)
        draw_maps(axes, refusal_map, [index], [(0.0, 0.0)], line=0.6)
        axes.set_xlim(left, left + width)
        axes.set_ylim(top + height, top)
        axes.set_aspect("equal", anchor="N")
        axes.set_axis_off()
