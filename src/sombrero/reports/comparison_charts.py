"""The charts of a comparison: the methods' fronts with bands over the seeds, and the differences at equal refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.records import Comparison, FrontBand
from sombrero.reports.charts import GREY, METHOD_COLOURS, base_layout, faded
from sombrero.reports.controls_section import DASHES
from sombrero.reports.direction_numbers import METHOD_NAMES
from sombrero.reports.wording import finite, percent

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

AXIS = {"font": {"size": 13}}


def front_figure(found: Comparison) -> Figure:
    """Interpolated first-token KL over the refusal rate, on the search prompts; circles: reporting prompts."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=base_layout(480))
    figure.update_layout(hovermode="closest", margin={"t": 84})
    for band in found.bands:
        _add_front(figure, band)
    for band in found.bands:
        points = [one for front in found.fronts if front.method == band.method for one in front.measured]
        figure.add_scatter(
            x=[finite(one.figures.unanswered.rate) for one in points],
            y=[finite(one.figures.first_token) for one in points],
            name=f"{METHOD_NAMES[band.method]}, measured again",
            mode="markers",
            showlegend=False,
            marker={"symbol": "circle-open", "size": 9, "color": METHOD_COLOURS[band.method], "line": {"width": 2}},
            hovertemplate="%{x:.1%} refusals, KL %{y:.3f}",
        )
    for level in found.levels:
        figure.add_vline(x=level, line={"color": GREY, "dash": "dot", "width": 1})
    figure.update_xaxes(
        title={"text": "refusals on harmful prompts", **AXIS}, tickformat=".0%", range=[-0.02, 1.0], zeroline=False
    )
    figure.update_yaxes(title={"text": "first-token KL (nats)", **AXIS}, rangemode="tozero", zeroline=False)
    return figure


def difference_figure(found: Comparison) -> Figure:
    """Map − control at every level with its interval; left of 0 the map needs less."""
    import plotly.graph_objects as go

    height = 150 + 42 * len(found.differences)
    figure = go.Figure(layout=base_layout(height))
    for control in [method for method in found.methods if method != "som"]:
        rows = [d for d in found.differences if d.control == control]
        known = [d for d in rows if d.first_token.value is not None]
        figure.add_scatter(
            x=[finite(d.first_token.value) for d in known],
            y=[f"{METHOD_NAMES[control]}<br>{percent(d.level)}" for d in known],
            error_x=_error_bars(known),
            name=METHOD_NAMES[control],
            mode="markers",
            marker={"size": 10, "color": METHOD_COLOURS[control]},
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    figure.update_layout(margin={"l": 130, "t": 40})
    figure.update_xaxes(title={"text": "KL, map − control (nats)", **AXIS}, zeroline=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def _add_front(figure: Figure, band: FrontBand) -> None:
    there = [i for i, count in enumerate(band.reached) if count]
    x = [band.rates[i] for i in there]
    colour, name = METHOD_COLOURS[band.method], METHOD_NAMES[band.method]
    silent: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=x, y=[finite(band.high[i]) for i in there], name=f"{name}, highest", **silent)
    low = [finite(band.low[i]) for i in there]
    shade = {"fill": "tonexty", "fillcolor": faded(colour, 0.14)}
    figure.add_scatter(x=x, y=low, name=f"{name}, lowest", **silent, **shade)
    figure.add_scatter(
        x=x,
        y=[finite(band.median[i]) for i in there],
        name=name,
        mode="lines",
        line={"color": colour, "dash": DASHES[band.method], "width": 2},
        customdata=[band.reached[i] for i in there],
        hovertemplate="%{x:.0%} refusals, KL %{y:.3f}, %{customdata} seeds",
    )


def _error_bars(rows: list[Any]) -> dict[str, Any]:
    """Arms to both ends; an open end has an arm as long as the longest known one."""
    values = [d.first_token.value for d in rows]
    arms = [
        [None if end is None else abs(end - value) for end, value in zip(ends, values, strict=True)]
        for ends in ([d.first_token.high for d in rows], [d.first_token.low for d in rows])
    ]
    longest = max((arm for side in arms for arm in side if arm is not None), default=0.0)
    up, down = ([longest if arm is None else arm for arm in side] for side in arms)
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 2}
