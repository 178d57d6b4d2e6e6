"""``compare.html`` and its still picture, made of ``compare.json`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sombrero.errors import RunError
from sombrero.records import Comparison
from sombrero.reports.comparison_section import comparison_view
from sombrero.reports.direction_numbers import METHOD_NAMES
from sombrero.reports.figures.canvas import csv_bytes, drawing_style, png_bytes, svg_bytes
from sombrero.reports.figures.comparison import draw_comparison
from sombrero.reports.page import environment, model_label
from sombrero.reports.page_scripts import page_scripts
from sombrero.reports.wording import count, number
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
    view = comparison_view(found)
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            model=model_label(found.model),
            view=view,
            names=[METHOD_NAMES[method] for method in found.methods],
            measured=[row for front in found.fronts for row in _measured_rows(front, METHOD_NAMES[front.method])],
            **page_scripts(view["figures"], view["tables"]),
        )
    )


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
