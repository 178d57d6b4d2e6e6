"""``map.png``: the map at its best state index beside a strip of others, for a README."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from sombrero.reports.lattice_shapes import centres, extent, hit_scale, outline
from sombrero.reports.wording import number, state_name, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sombrero.records import DirectionSet, RefusalMap

STRIP = 6
INK, FAINT, PAPER = "#1d2126", "#6a717b", "#ffffff"
SIZE, DPI = (10.4, 5.2), 150
MOST_LABELLED = 64
"""Units of a map whose hit counts are still readable as numbers."""

LONGEST_NAME = 40


def draw_map(refusal_map: RefusalMap, single: DirectionSet, name: str) -> bytes:
    """The picture as PNG. Same records, same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    auroc = single.auroc[:, 0].tolist()
    best = int(single.auroc[:, 0].argmax())
    large, *small = _axes(figure)
    _draw_state(large, refusal_map, best, labelled=refusal_map.n_rows * refusal_map.n_columns <= MOST_LABELLED)
    shown = strip_states(len(auroc))
    for axes, index in zip(small, shown, strict=False):
        _draw_state(axes, refusal_map, index, labelled=False)
        weight = "bold" if index == best else "normal"
        axes.set_title(f"state {index}\nAUROC {number(auroc[index])}", fontsize=9, color=INK, weight=weight)
    for axes in small[len(shown) :]:
        axes.set_axis_off()
    _write_texts(figure, name, f"{state_name(best)}: single direction AUROC {number(auroc[best])}")
    _colour_bar(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def strip_states(n_states: int) -> list[int]:
    """Evenly spaced state indices, the first and the last among them."""
    shown = min(STRIP, n_states)
    return sorted({round(i * (n_states - 1) / max(1, shown - 1)) for i in range(shown)})


def _axes(figure: Figure) -> list[Axes]:
    large = figure.add_axes((0.03, 0.12, 0.46, 0.70))
    width, height = 0.145, 0.28
    small = [
        figure.add_axes((0.53 + (place % 3) * 0.155, 0.48 - (place // 3) * 0.36, width, height))
        for place in range(STRIP)
    ]
    return [large, *small]


def _draw_state(axes: Axes, refusal_map: RefusalMap, index: int, *, labelled: bool) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Polygon

    shape = (refusal_map.n_rows, refusal_map.n_columns, refusal_map.lattice)
    values, hits = refusal_map.u_matrix[index].tolist(), refusal_map.hit_counts[index].tolist()
    low, high, most = min(values), max(values), max(hits)
    corners = outline(refusal_map.lattice)
    for (x, y), value, count in zip(centres(*shape), values, hits, strict=True):
        colour = colormaps["cividis"]((value - low) / (high - low) if high > low else 0.5)
        cell: list[Any] = [(x + 0.97 * dx, y + 0.97 * dy) for dx, dy in corners]
        axes.add_patch(Polygon(cell, closed=True, facecolor=colour, edgecolor="none"))
        scale = hit_scale(count, most)
        mark: list[Any] = [(x + scale * dx, y + scale * dy) for dx, dy in corners]
        axes.add_patch(Polygon(mark, closed=True, facecolor=PAPER, edgecolor=INK, linewidth=0.7, alpha=0.92))
        if labelled and count:
            _label(axes, x, y, count)
    left, top, width, height = extent(*shape)
    axes.set_xlim(left, left + width)
    axes.set_ylim(top + height, top)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _label(axes: Axes, x: float, y: float, count: int) -> None:
    from matplotlib.patheffects import withStroke

    text = axes.text(x, y, str(count), ha="center", va="center_baseline", fontsize=11, color=INK)
    text.set_path_effects([withStroke(linewidth=2.5, foreground=PAPER)])


def _write_texts(figure: Figure, name: str, subtitle: str) -> None:
    # the font that comes with matplotlib has no signs for many scripts: those names are shown as far as it has
    plain = visible(name).encode("latin-1", "replace").decode("latin-1")
    plain = plain if len(plain) <= LONGEST_NAME else plain[: LONGEST_NAME - 1] + "…"
    title = f"How refusal is laid out in {plain}"
    figure.text(0.03, 0.93, title, fontsize=15, color=INK, weight="bold", parse_math=False)
    figure.text(0.03, 0.875, subtitle, fontsize=11, color=FAINT, parse_math=False)
    figure.text(0.53, 0.875, "from the embeddings to the last layer", fontsize=11, color=FAINT)
    legend = "white cells: how many training prompts a unit is nearest to"
    figure.text(0.03, 0.045, legend, fontsize=9, color=FAINT)


def _colour_bar(figure: Figure) -> None:
    axes = figure.add_axes((0.80, 0.05, 0.12, 0.022))
    axes.imshow([[i / 255 for i in range(256)]], aspect="auto", cmap="cividis")
    axes.set_axis_off()
    text: dict[str, Any] = {"fontsize": 9, "color": FAINT, "va": "center"}
    figure.text(0.79, 0.061, "units: close to their neighbours", ha="right", **text)
    figure.text(0.93, 0.061, "far", ha="left", **text)
