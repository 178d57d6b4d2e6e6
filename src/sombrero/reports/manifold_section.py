"""Section: the manifold. Harmful and harmless states and the map in the plane of two components, at any state index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.records import EditedPlane, Manifold
from sombrero.reports.charts import GREEN, GREY, VERMILLION, base_layout, faded, figure_data
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

HEIGHT = 540
"""Pixels of the chart."""

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
    states = [state_points(found, run.edited_plane, index, room) for index in kept]
    start = kept.index(run.shown_state)
    most = max(found.harmful.shape[1], found.harmless.shape[1])
    return {
        "missing": None,
        "figure": figure_data(manifold_figure(pairs, states[start], edited=run.edited_plane is not None)),
        "n_edited": None if run.edited_plane is None else run.edited_plane.harmful.shape[1],
        "moves": moves(found, run.edited_plane, run.shown_state),
        "states": states,
        "explorer": {"states": states, "pairs": pairs},
        "start": start,
        "height": HEIGHT,
        "n_harmful": found.harmful.shape[1],
        "n_harmless": found.harmless.shape[1],
        "thinned": room if most > room else None,
        "left_out": n_states - len(kept),
    }


def state_points(found: Manifold, edited: EditedPlane | None, index: int, room: int) -> dict[str, Any]:
    """x and y of harmless prompts, harmful prompts and units; then of those after the edit, and of their ways there."""
    harmless, harmful, units = (plane_points(part, index) for part in (found.harmless, found.harmful, found.codebook))
    parts = [columns(thinned(harmless, room)), columns(thinned(harmful, room)), columns(units)]
    if edited is not None:
        after = [plane_points(part, index) for part in (edited.harmless, edited.harmful)]
        parts += [columns(after[0]), columns(after[1])]
        parts.append(columns(harmful[: len(after[1])]))
    return {
        "index": index,
        "name": state_name(index),
        "share": percent(round(float(found.explained[index].sum()), 3)),
        "x": [x for x, _ in parts],
        "y": [y for _, y in parts],
    }


def moves(found: Manifold, edited: EditedPlane | None, index: int) -> dict[str, str] | None:
    """How far the edit moved the mean of each role, over the distance of the two means before it; in the plane."""
    if edited is None:
        return None
    n_h, n_g = edited.harmful.shape[1], edited.harmless.shape[1]
    before = [found.harmful[index, :n_h].mean(dim=0), found.harmless[index, :n_g].mean(dim=0)]
    after = [edited.harmful[index].mean(dim=0), edited.harmless[index].mean(dim=0)]
    apart = float((before[0] - before[1]).norm())
    told = [float((new - old).norm()) / apart if apart else 0.0 for new, old in zip(after, before, strict=True)]
    return {"harmful": f"{told[0]:.0%}", "harmless": f"{told[1]:.0%}"}


def thinned(points: Points, room: int) -> Points:
    """At most about ``room`` points, evenly spaced in their order."""
    return points[:: max(1, -(-len(points) // room))]


def columns(points: Points) -> tuple[Line, Line]:
    """x and y apart, as JSON takes them."""
    return [finite(x, 3) for x, _ in points], [finite(y, 3) for _, y in points]


def edge_lines(pairs: list[Pair], values: Line) -> Line:
    """x or y of all edges as one line with gaps; the page's script does the same for other state indices."""
    return [value for one, other in pairs for value in (values[one], values[other], None)]


def way_lines(before: Line, after: Line) -> Line:
    """x or y of the lines from every prompt to where the edit moved it."""
    return [value for old, new in zip(before, after, strict=True) for value in (old, new, None)]


def traces(pairs: list[Pair], values: list[Line]) -> list[Line]:
    """x or y of every trace of :func:`manifold_figure`, of a state's columns."""
    harmless, harmful, units, *edited = values
    ways = [way_lines(edited[2], edited[1]), edited[0], edited[1]] if edited else []
    return [harmless, harmful, *ways, edge_lines(pairs, units), units]


def manifold_figure(pairs: list[Pair], state: dict[str, Any], *, edited: bool) -> Figure:
    """Traces whose points the page's script exchanges for those of another state index."""
    import plotly.graph_objects as go

    numbers = [str(unit) for unit in range(len(state["x"][2]))]
    looks: list[dict[str, Any]] = [
        {"name": "harmless prompt", "mode": "markers", "marker": {"symbol": "circle-open", "size": 6, "color": GREY}},
        {
            "name": "harmful prompt",
            "mode": "markers",
            "marker": {"symbol": "triangle-up", "size": 7, "color": VERMILLION},
        },
    ]
    if edited:
        green = {"size": 7, "color": GREEN}
        way = {"color": faded(VERMILLION, 0.35), "width": 1}
        looks += [
            {"name": "moved by the edit", "mode": "lines", "line": way},
            {"name": "harmless, edited", "mode": "markers", "marker": {"symbol": "circle", "size": 5, "color": GREY}},
            {"name": "harmful, edited", "mode": "markers", "marker": {"symbol": "triangle-down", **green}},
        ]
    hexagon = {"symbol": "hexagon", "size": 13, "color": UNIT, "line": {"color": "#ffffff", "width": 1}}
    looks += [
        {"name": "neighbours on the map", "mode": "lines", "line": {"color": UNIT, "width": 1.2}, "opacity": 0.55},
        {"name": "unit", "mode": "markers", "text": numbers, "marker": hexagon},
    ]
    figure = go.Figure(layout=base_layout(HEIGHT))
    figure.update_layout(hovermode="closest", margin={"t": 84})
    figure.update_xaxes(title={"text": "first component", "font": {"size": 13}}, zeroline=False)
    figure.update_yaxes(title={"text": "second component", "font": {"size": 13}}, zeroline=False)
    for look, x, y in zip(looks, traces(pairs, state["x"]), traces(pairs, state["y"]), strict=True):
        hover = {"hovertemplate": "unit %{text}<extra></extra>"} if look["name"] == "unit" else {"hoverinfo": "skip"}
        figure.add_scatter(x=x, y=y, **look, **hover)
    return figure
