"""Section: what proves that the figures belong to the checkpoint that was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.records import LayerAccounting
from sombrero.reports.charts import BLUE, GREY, VERMILLION, base_layout, figure_data, plotted
from sombrero.reports.data_table import data_table
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_FLIPS = 50
HEIGHT = 320
LEAK_COLUMNS = ("Layer", "Written before (RMS)", "Still written", "Still written, end to end")


def proof_section(run: RunFiles) -> dict[str, Any] | None:
    """Residual accounting, leak check, and the baked checkpoint beside the live edit, as far as they are there."""
    if run.coverage is None and run.verification is None:
        return None
    leak = leak_facts(run)
    charts = {} if leak is None else {"figures": {"leak": figure_data(leak_figure(run))}}
    columns = ("layer", "written_rms", "still_written", "still_written_end_to_end")
    rows = ((leak.layer, leak.written, leak.ratio, leak.end_to_end) for leak in run.leak or ())
    return {
        "coverage": coverage_facts(run.coverage),
        "leak": leak,
        "baked": baked_facts(run),
        "tables": {"leak": data_table(columns, rows)} if leak else {},
    } | charts


def coverage_facts(coverage: tuple[LayerAccounting, ...] | None) -> dict[str, Any] | None:
    """The worst layer, and how many layers and writers were accounted for."""
    if not coverage:
        return None
    worst = max(coverage, key=lambda entry: entry.relative_error)
    return {
        "worst": number(worst.relative_error),
        "layer": worst.layer,
        "layers": len(coverage),
        "writers": sum(len(entry.writers) for entry in coverage),
    }


def leak_facts(run: RunFiles) -> dict[str, Any] | None:
    """What the edited layers still write along the edit's directions; None where that was not checked."""
    if not run.leak:
        return None
    bound = leak_bound(run)
    above = sum(leak.ratio > bound for leak in run.leak)
    worst = max(run.leak, key=lambda leak: leak.ratio)
    return {
        "height": HEIGHT,
        "bound": f"{bound:.0%}",
        "above": above,
        "layers": len(run.leak),
        "worst": f"{worst.ratio:.1%}",
        "worst_layer": worst.layer,
        "columns": LEAK_COLUMNS,
        "rows": [(x.layer, number(x.written), f"{x.ratio:.1%}", f"{x.end_to_end:.1%}") for x in run.leak],
    }


def leak_figure(run: RunFiles) -> Figure:
    """What each edited layer still writes, as a share of what it wrote; the stated bound as a line."""
    import plotly.graph_objects as go

    leaks, layout = run.leak or (), base_layout(HEIGHT)
    figure = go.Figure(layout=layout)
    figure.update_layout(hovermode="x unified", bargap=0.3)
    layers = [leak.layer for leak in leaks]
    sides = (("entered untouched", "ratio", BLUE), ("end to end", "end_to_end", VERMILLION))
    for name, field, colour in sides:
        shares = plotted([getattr(leak, field) for leak in leaks])
        figure.add_bar(x=layers, y=shares, name=name, marker={"color": colour}, hovertemplate="%{y:.1%}")
    figure.add_hline(y=leak_bound(run), line={"color": GREY, "dash": "dot", "width": 1.5})
    axis = {"font": {"size": 13}}
    figure.update_xaxes(title={"text": "layer", **axis}, showgrid=False, zeroline=False, tickformat="d")
    figure.update_yaxes(title={"text": "still written", **axis}, tickformat=".0%", rangemode="tozero", zeroline=False)
    return figure


def leak_bound(run: RunFiles) -> float:
    """The share that the run's settings call little."""
    return float(run.manifest["config"].get("search", {}).get("max_leak", 0.0))


def baked_facts(run: RunFiles) -> dict[str, Any] | None:
    """Verdicts that differ, differences of log-probabilities, and counts of tensors."""
    found = run.verification
    if found is None:
        return None
    return {
        "flips": found.flips[:MOST_FLIPS],
        "n_flips": len(found.flips),
        "n": found.measurement.refusals.n,
        "largest": number(found.max_log_prob_difference),
        "mean": number(found.mean_log_prob_difference),
        "edited": found.edited_tensors,
        "untouched": found.untouched_tensors,
    }
