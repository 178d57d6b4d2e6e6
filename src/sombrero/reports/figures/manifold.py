"""Figure: harmful states, harmless states and the map between them, in the plane of their two main components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.reports.charts import GREY, VERMILLION
from sombrero.reports.figures.canvas import Cell, Picture, place, sheet
from sombrero.reports.lattice_drawing import MOST_VECTOR_CELLS, PAPER
from sombrero.reports.lattice_shapes import neighbours
from sombrero.reports.run_files import RunFiles
from sombrero.reports.strip_states import strip_states
from sombrero.reports.unit_numbers import lattice_shape
from sombrero.reports.wording import finite, percent, state_name

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

    from sombrero.records import Manifold, RefusalMap

Points = list[tuple[float, float]]

LARGE, SMALL = 5.4, 2.05
STRIP = 6
UNIT = "#0b5c97"
"""Dark enough for a white number."""


def draw_manifold(run: RunFiles) -> Picture:
    """A large plane at the state that other figures show, and six small ones over the layers."""
    found, refusal_map, shown = run.manifold, run.refusal_map, run.shown_state
    if found is None or refusal_map is None or shown is None:
        raise ValueError("the manifold needs its record, the map and its directions")
    figure = sheet(12.0, 7.1, "Where refusal lies", f"{state_name(shown)} · {describe(found, shown)}")
    axes = place(figure, 0.8, 1.35, LARGE, LARGE - 0.25)
    _draw_plane(axes, found, refusal_map, shown, large=True)
    axes.set_xlabel(f"first component ({percent(float(found.explained[shown, 0]))} of variance)")
    axes.set_ylabel(f"second component ({percent(float(found.explained[shown, 1]))})")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, columnspacing=1.2, handletextpad=0.4)
    for i, index in enumerate(strip_states(len(found.explained), STRIP)):
        small = place(figure, 7.0 + (i % 2) * (SMALL + 0.36), 1.25 + (i // 2) * 1.92, SMALL, 1.5)
        _draw_plane(small, found, refusal_map, index, large=False)
        small.set_title(f"state {index}", fontsize=10, weight="bold" if index == shown else "normal")
        small.set_xticks([])
        small.set_yticks([])
        for spine in small.spines.values():
            spine.set_visible(True)
    return Picture(figure, ("state", "kind", "number", "x", "y"), _rows(found, shown))


def describe(found: Manifold, index: int) -> str:
    """How many states there are, and how much of their variance the plane holds."""
    n_harmful, n_harmless = found.harmful.shape[1], found.harmless.shape[1]
    share = percent(round(float(found.explained[index].sum()), 3))
    return f"{n_harmful} harmful and {n_harmless} harmless prompts · the plane holds {share} of their variance"


def plane_points(part: torch.Tensor, index: int) -> Points:
    """The points of ``(L + 1, n, 2)`` at a state index; NaN where a state is not finite, which no figure draws."""
    points = part[index].where(part[index].isfinite().all(dim=-1, keepdim=True), float("nan"))
    return [(x, y) for x, y in points.tolist()]


def _draw_plane(axes: Axes, found: Manifold, refusal_map: RefusalMap, index: int, *, large: bool) -> None:
    harmful, harmless, codebook = (
        plane_points(part, index) for part in (found.harmful, found.harmless, found.codebook)
    )
    size = 26.0 if large else 5.0
    many = len(harmful) + len(harmless) > MOST_VECTOR_CELLS
    ring: dict[str, Any] = {"facecolors": "none", "edgecolors": GREY, "linewidths": 1.0 if large else 0.5}
    x, y = zip(*harmless, strict=True)
    axes.scatter(x, y, size, marker="o", label="harmless prompt", rasterized=many, **ring)
    x, y = zip(*harmful, strict=True)
    full: dict[str, Any] = {"linewidths": 0, "alpha": 0.75, "rasterized": many}
    axes.scatter(x, y, size, VERMILLION, marker="^", label="harmful prompt", **full)
    _draw_grid(axes, codebook, refusal_map, index, size, large=large)
    axes.margins(0.06)


def _draw_grid(axes: Axes, codebook: Points, refusal_map: RefusalMap, index: int, size: float, *, large: bool) -> None:
    """The units, by their hits, and the edges of the grid between them."""
    gap = (float("nan"), float("nan"))  # one line with gaps: a large map has thousands of edges
    edges = [
        point
        for one, other in neighbours(*lattice_shape(refusal_map))
        for point in (codebook[one], codebook[other], gap)
    ]
    if edges:
        x, y = zip(*edges, strict=True)
        axes.plot(x, y, color=UNIT, linewidth=1.3 if large else 0.7, alpha=0.8, zorder=3)
    hits: list[int] = refusal_map.hit_counts[index].tolist()
    most = max(1, *hits)
    sizes = [(0.4 + 0.6 * count / most) * size * (12 if large else 5) for count in hits]
    rims: dict[str, Any] = {"edgecolors": PAPER, "linewidths": 1.0 if large else 0.4}
    x, y = zip(*codebook, strict=True)
    axes.scatter(x, y, sizes, UNIT, marker="h", zorder=4, label="unit, by its hits", **rims)
    if large:
        for unit, place_of_unit in enumerate(codebook):
            axes.text(*place_of_unit, str(unit), fontsize=7, color=PAPER, ha="center", va="center_baseline", zorder=5)


def _rows(found: Manifold, index: int) -> list[tuple[Cell, ...]]:
    parts = {"harmful": found.harmful, "harmless": found.harmless, "unit": found.codebook}
    return [
        (index, kind, number, finite(x, 6), finite(y, 6))
        for kind, part in parts.items()
        for number, (x, y) in enumerate(plane_points(part, index))
    ]
