"""Section: how many directions refusal has here. The number of units that the samples support, beside its control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.records import MapQuality
from sombrero.reports.charts import BLUE, GREEN, GREY, VERMILLION, base_layout, figure_data, plotted
from sombrero.reports.data_table import data_table
from sombrero.reports.figures.grid_size import COLUMNS as DATA_COLUMNS
from sombrero.reports.figures.grid_size import describe, size_rows
from sombrero.reports.run_files import RunFiles, what_is_missing
from sombrero.reports.wording import number

if TYPE_CHECKING:
    import torch
    from plotly.graph_objects import Figure

HEIGHT = 820
COLUMNS = (
    "State",
    "Units",
    "95% interval",
    "Units, harmless",
    "Trustworthiness",
    "Continuity",
    "Stability (Rand)",
    "Cosine",
)


def sizes_section(run: RunFiles) -> dict[str, Any] | None:
    """The chart at the shown state index and over the layers, and a table of each layer's quality."""
    if run.refusal_map is None or run.shown_state is None:
        return None
    found = run.quality
    if found is None:
        return {"missing": what_is_missing(run, ("quality",))}
    return {
        "missing": None,
        "sentence": describe(found, run.shown_state),
        "figure": figure_data(sizes_figure(found, run.shown_state)),
        "table": data_table(DATA_COLUMNS, size_rows(found)),
        "height": HEIGHT,
        "columns": COLUMNS,
        "rows": [_row(found, index) for index in range(len(found.chosen))],
        "shown": run.shown_state,
    }


def sizes_figure(found: MapQuality, shown: int) -> Figure:
    """Error and prediction strength by number of units, and the number chosen by state index."""
    from plotly.subplots import make_subplots

    titles = ("Quantization error of held-out prompts", "Prediction strength", "Units that the samples support")
    figure = make_subplots(rows=3, cols=1, vertical_spacing=0.14, subplot_titles=titles)
    figure.update_layout(base_layout(HEIGHT), hovermode="closest", legend={"y": 1.05}, margin={"t": 92})
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    reference = plotted(found.reference_error[shown].tolist())
    name = "one Gaussian of the same spread"
    dots = {"color": GREY, "dash": "dot"}
    figure.add_scatter(x=found.candidates.tolist(), y=reference, mode="lines", line=dots, name=name, row=1, col=1)
    _add_by_size(figure, found, shown, found.held_out_error, GREEN, 1)
    _add_by_size(figure, found, shown, found.strength, BLUE, 2)
    _add_choices(figure, found)
    figure.update_yaxes(range=[0, 1.06], row=2, col=1)
    figure.update_xaxes(title="number of units", row=2, col=1)
    figure.update_xaxes(title="state index", row=3, col=1)
    figure.update_xaxes(zeroline=False, title_font_size=13)
    figure.update_yaxes(zeroline=False)
    return figure


def _add_by_size(figure: Figure, found: MapQuality, shown: int, values: torch.Tensor, colour: str, row: int) -> None:
    """A line over the number of units, the number chosen, and its interval."""
    sizes: list[int] = found.candidates.tolist()
    figure.add_scatter(
        x=sizes,
        y=plotted(values[shown].tolist()),
        mode="lines+markers",
        line={"color": colour},
        showlegend=False,
        hovertemplate="%{x} units: %{y:.4g}<extra></extra>",
        row=row,
        col=1,
    )
    place = {"row": row, "col": 1}
    low, high = 0.95 * int(found.chosen_low[shown]), 1.05 * int(found.chosen_high[shown])
    figure.add_vrect(x0=low, x1=high, fillcolor=GREY, opacity=0.18, line_width=0, **place)
    figure.add_vline(x=int(found.chosen[shown]), line={"color": VERMILLION, "dash": "dash", "width": 1.5}, **place)
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[str(size) for size in sizes], **place)


def _add_choices(figure: Figure, found: MapQuality) -> None:
    """The number chosen at every state index, for harmful prompts and for the control."""
    states = list(range(len(found.chosen)))
    above, below = (found.chosen_high - found.chosen).tolist(), (found.chosen - found.chosen_low).tolist()
    bars = {"array": above, "arrayminus": below, "thickness": 3, "width": 0}
    dots = {"color": VERMILLION, "size": 8}
    look = {"mode": "markers", "row": 3, "col": 1}
    names = ("harmful prompts, 95% interval", "harmless prompts (control)")
    figure.add_scatter(x=states, y=found.chosen.tolist(), name=names[0], marker=dots, error_y=bars, **look)
    rings = {"color": GREY, "size": 10, "symbol": "diamond-open"}
    figure.add_scatter(x=states, y=found.control.tolist(), name=names[1], marker=rings, **look)
    figure.update_yaxes(rangemode="tozero", row=3, col=1)


def _row(found: MapQuality, index: int) -> list[str]:
    interval = f"{int(found.chosen_low[index])}–{int(found.chosen_high[index])}"
    shares = (found.trustworthiness, found.continuity, found.rand, found.cosine)
    return [
        str(index),
        str(int(found.chosen[index])),
        interval,
        str(int(found.control[index])),
        *(number(float(share[index])) for share in shares),
    ]
