"""Section: the manifold. Harmful and harmless states and the map in the plane of two components, at any state index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.records import Manifold, RefusalMap
from sombrero.reports.charts import GREY, VERMILLION, base_layout, figure_data
from sombrero.reports.figures.manifold import UNIT, Points, plane_points
from sombrero.reports.lattice_shapes import Pair, neighbours
from sombrero.reports.map_section import kept_states
from sombrero.reports.run_files import RunFiles, what_is_missing
from sombrero.reports.unit_numbers import lattice_shape
from sombrero.reports.wording import finite, percent, state_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_POINTS, FEWEST = 30_000, 20
"""Prompts of all state indices together that a page holds, and of one kind at one state index whatever happens."""

Line = list[float | None]


def manifold_section(run: RunFiles) -> dict[str, Any] | None:
    """The chart at the shown state index, and the points of the others for the slider."""
    if run.refusal_map is None or run.shown_state is None:
        return None
    found = run.manifold
    if found is None:
        return {"missing": what_is_missing(run, ("manifold",))}
    n_states, n_units = found.codebook.shape[:2]
    kept = kept_states(n_states, n_units, run.shown_state)
    pairs = neighbours(*lattice_shape(run.refusal_map))
    room = max(FEWEST, MOST_POINTS // (2 * len(kept)))
    states = [state_points(found, pairs, index, room) for index in kept]
    start = kept.index(run.shown_state)
    most = max(found.harmful.shape[1], found.harmless.shape[1])
    return {
        "missing": None,
        "figure": figure_data(manifold_figure(run.refusal_map, states[start])),
        "states": states,
        "start": start,
        "n_harmful": found.harmful.shape[1],
        "n_harmless": found.harmless.shape[1],
        "thinned": room if most > room else None,
        "left_out": n_states - len(kept),
    }


def state_points(found: Manifold, pairs: list[Pair], index: int, room: int) -> dict[str, Any]:
    """x and y of the four traces: harmless, harmful, the grid's edges (gaps between them), the units."""
    harmless, harmful, units = (plane_points(part, index) for part in (found.harmless, found.harmful, found.codebook))
    edges = [(units[one], units[other]) for one, other in pairs]
    traces = [columns(thinned(harmless, room)), columns(thinned(harmful, room)), edge_lines(edges), columns(units)]
    return {
        "name": state_name(index),
        "share": percent(round(float(found.explained[index].sum()), 3)),
        "x": [x for x, _ in traces],
        "y": [y for _, y in traces],
    }


def thinned(points: Points, room: int) -> Points:
    """At most about ``room`` points, evenly spaced in their order."""
    return points[:: max(1, -(-len(points) // room))]


def columns(points: Points) -> tuple[Line, Line]:
    """x and y apart, as JSON takes them."""
    return [finite(x, 3) for x, _ in points], [finite(y, 3) for _, y in points]


def edge_lines(edges: list[tuple[tuple[float, float], tuple[float, float]]]) -> tuple[Line, Line]:
    """All edges as one line with gaps."""
    x: Line = []
    y: Line = []
    for (x0, y0), (x1, y1) in edges:
        x += [finite(x0, 3), finite(x1, 3), None]
        y += [finite(y0, 3), finite(y1, 3), None]
    return x, y


def manifold_figure(refusal_map: RefusalMap, state: dict[str, Any]) -> Figure:
    """Four traces, whose points the page's script exchanges for those of another state index."""
    import plotly.graph_objects as go

    n_units = refusal_map.n_rows * refusal_map.n_columns
    numbers = [str(unit) for unit in range(n_units)]
    looks: tuple[dict[str, Any], ...] = (
        {"name": "harmless prompt", "mode": "markers", "marker": {"symbol": "circle-open", "size": 6, "color": GREY}},
        {
            "name": "harmful prompt",
            "mode": "markers",
            "marker": {"symbol": "triangle-up", "size": 7, "color": VERMILLION},
        },
        {"name": "neighbours on the map", "mode": "lines", "line": {"color": UNIT, "width": 1.5}},
        {
            "name": "unit",
            "mode": "markers",
            "text": numbers,
            "marker": {"symbol": "hexagon", "size": 15, "color": UNIT, "line": {"color": "#ffffff", "width": 1}},
        },
    )
    figure = go.Figure(layout=base_layout(520))
    figure.update_layout(hovermode="closest", margin={"t": 64})
    figure.update_xaxes(title={"text": "first component", "font": {"size": 13}}, zeroline=False)
    figure.update_yaxes(title={"text": "second component", "font": {"size": 13}}, zeroline=False)
    for look, x, y in zip(looks, state["x"], state["y"], strict=True):
        hover = {"hovertemplate": "unit %{text}<extra></extra>"} if look["name"] == "unit" else {"hoverinfo": "skip"}
        figure.add_scatter(x=x, y=y, **look, **hover)
    return figure
