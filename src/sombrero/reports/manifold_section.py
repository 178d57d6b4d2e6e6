"""Section: the manifold. Harmful and harmless states and the map in the plane of two components, at any state index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.records import Manifold
from sombrero.reports.charts import GREY, VERMILLION, base_layout, figure_data
from sombrero.reports.figures.manifold import UNIT, Points, plane_points
from sombrero.reports.lattice_shapes import Pair, neighbours
from sombrero.reports.map_section import kept_states
from sombrero.reports.run_files import RunFiles, what_is_missing
from sombrero.reports.unit_numbers import lattice_shape
from sombrero.reports.wording import finite, percent, state_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_POINTS, FEWEST = 20_000, 20
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
    states = [state_points(found, index, room) for index in kept]
    start = kept.index(run.shown_state)
    most = max(found.harmful.shape[1], found.harmless.shape[1])
    return {
        "missing": None,
        "figure": figure_data(manifold_figure(pairs, states[start])),
        "states": states,
        "explorer": {"states": states, "pairs": pairs},
        "start": start,
        "n_harmful": found.harmful.shape[1],
        "n_harmless": found.harmless.shape[1],
        "thinned": room if most > room else None,
        "left_out": n_states - len(kept),
    }


def state_points(found: Manifold, index: int, room: int) -> dict[str, Any]:
    """x and y of harmless prompts, harmful prompts and units."""
    harmless, harmful, units = (plane_points(part, index) for part in (found.harmless, found.harmful, found.codebook))
    parts = [columns(thinned(harmless, room)), columns(thinned(harmful, room)), columns(units)]
    return {
        "name": state_name(index),
        "share": percent(round(float(found.explained[index].sum()), 3)),
        "x": [x for x, _ in parts],
        "y": [y for _, y in parts],
    }


def thinned(points: Points, room: int) -> Points:
    """At most about ``room`` points, evenly spaced in their order."""
    return points[:: max(1, -(-len(points) // room))]


def columns(points: Points) -> tuple[Line, Line]:
    """x and y apart, as JSON takes them."""
    return [finite(x, 3) for x, _ in points], [finite(y, 3) for _, y in points]


def edge_lines(pairs: list[Pair], values: Line) -> Line:
    """x or y of all edges as one line with gaps; the page's script does the same for other state indices."""
    return [value for one, other in pairs for value in (values[one], values[other], None)]


def manifold_figure(pairs: list[Pair], state: dict[str, Any]) -> Figure:
    """Four traces, whose points the page's script exchanges for those of another state index."""
    import plotly.graph_objects as go

    (*prompts_x, units_x), (*prompts_y, units_y) = state["x"], state["y"]
    all_x = (*prompts_x, edge_lines(pairs, units_x), units_x)
    all_y = (*prompts_y, edge_lines(pairs, units_y), units_y)
    numbers = [str(unit) for unit in range(len(units_x))]
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
    for look, x, y in zip(looks, all_x, all_y, strict=True):
        hover = {"hovertemplate": "unit %{text}<extra></extra>"} if look["name"] == "unit" else {"hoverinfo": "skip"}
        figure.add_scatter(x=x, y=y, **look, **hover)
    return figure
