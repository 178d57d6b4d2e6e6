"""``compare.html`` and its still picture, made of ``compare.json`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError

from sombrero.errors import RunError
from sombrero.records import Comparison, Difference, Interval, MatchedFigures
from sombrero.reports.charts import figure_data
from sombrero.reports.comparison_charts import difference_figure, front_figure
from sombrero.reports.direction_numbers import METHOD_NAMES
from sombrero.reports.figures.canvas import csv_bytes, drawing_style, png_bytes, svg_bytes
from sombrero.reports.figures.comparison import draw_comparison
from sombrero.reports.page import asset, environment, model_label, script_hash
from sombrero.reports.wording import NOTHING, count, number, percent, script_json
from sombrero.reports.writing import write

RECORD, PAGE, FIGURE = "compare.json", "compare.html", "figures/compare"


def read_comparison(folder: Path) -> Comparison:
    """The comparison in ``folder``. Raises RunError when there is none, or it cannot be read."""
    path = folder / RECORD
    try:
        return TypeAdapter(Comparison).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(f"the record {path} cannot be read: {error}; finish it with: sombrero compare") from error


def write_comparison(folder: Path) -> Path:
    """Write ``compare.html`` and ``figures/compare.png``, ``.svg`` and ``.csv``. Returns the page's path.

    The same record gives the same bytes. Raises RunError when it is missing or damaged, or nothing can be written.
    """
    found = read_comparison(folder)
    with drawing_style():
        picture = draw_comparison(found, model_label(found.model))
        drawn = {"png": png_bytes(picture.figure), "svg": svg_bytes(picture.figure), "csv": csv_bytes(picture)}
    for suffix, data in drawn.items():
        write(folder / f"{FIGURE}.{suffix}", data)
    write(folder / PAGE, render_comparison(found).encode())
    return folder / PAGE


def render_comparison(found: Comparison) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs().replace("\r\n", "\n"), asset("report.js")]
    charts = {"fronts": figure_data(front_figure(found)), "differences": figure_data(difference_figure(found))}
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            model=model_label(found.model),
            found=found,
            level=percent(found.verdict.level),
            base=count(found.base.unanswered),
            names=[METHOD_NAMES[method] for method in found.methods],
            matched=[_matched_row(row) for row in found.matched],
            differences=[_difference_row(row) for row in found.differences],
            measured=[row for front in found.fronts for row in _measured_rows(front, METHOD_NAMES[front.method])],
            style=Markup(asset("report.css")),
            scripts=[Markup(script) for script in scripts],
            policy=" ".join(f"'{script_hash(script)}'" for script in scripts),
            data=script_json({"charts": charts}),
        )
    )


def interval_text(found: Interval, digits: int = 3) -> str:
    """``−0.03 (−0.05 to −0.01)``; an open side is infinite."""
    low = "−∞" if found.low is None else number(found.low, digits)
    high = "∞" if found.high is None else number(found.high, digits)
    return f"{number(found.value, digits)} ({low} to {high})"


def _matched_row(row: MatchedFigures) -> dict[str, Any]:
    values = {name: number(getattr(row, name)) for name in ("first_token", "sequence", "perplexity", "repetition")}
    seeds = [value for value in row.first_token_by_seed if value is not None]
    return values | {
        "method": METHOD_NAMES[row.method],
        "level": percent(row.level),
        "reached": f"{row.reached} of {row.seeds}" if row.reached else "not reached",
        "range": f"{number(min(seeds))}–{number(max(seeds))}" if seeds else NOTHING,
    }


def _difference_row(row: Difference) -> dict[str, str]:
    return {
        "control": METHOD_NAMES[row.control],
        "level": percent(row.level),
        "first_token": interval_text(row.first_token),
        "sequence": interval_text(row.sequence),
        "margin": NOTHING if row.margin is None else f"±{number(row.margin)}",
        "outcome": row.outcome,
        "outcome_sequence": row.outcome_sequence,
    }


def _measured_rows(front: Any, name: str) -> list[dict[str, Any]]:
    return [
        {
            "method": name,
            "seed": front.seed,
            "trial": one.trial,
            "unanswered": count(one.figures.unanswered),
            "refusals": count(one.figures.refusals),
            "false_refusals": count(one.figures.false_refusals),
            "first_token": number(one.figures.first_token),
            "sequence": number(one.figures.sequence),
            "perplexity": number(one.figures.coherence.perplexity),
        }
        for one in front.measured
    ]
