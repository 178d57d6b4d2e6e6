"""Section: the map beside its controls at equal refusal rates, where the run folder holds a comparison."""

from __future__ import annotations

from typing import Any

from sombrero.records import Comparison, Difference, Interval, MatchedFigures
from sombrero.reports.charts import figure_data
from sombrero.reports.comparison_charts import difference_figure, front_figure
from sombrero.reports.data_table import data_table
from sombrero.reports.direction_numbers import METHOD_NAMES
from sombrero.reports.figures.comparison import COLUMNS, comparison_rows
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import NOTHING, count, number, percent


def comparison_section(run: RunFiles) -> dict[str, Any] | None:
    """The verdict, the fronts and the differences of ``compare.json``; None where there is none."""
    return None if run.comparison is None else comparison_view(run.comparison)


def comparison_view(found: Comparison) -> dict[str, Any]:
    """What the run's page and the comparison's own page show alike."""
    rows = comparison_rows(found)
    kinds = {
        "fronts": [row for row in rows if not _is_difference(row)],
        "differences": [r for r in rows if _is_difference(r)],
    }
    return {
        "found": found,
        "level": percent(found.verdict.level),
        "base": count(found.base.unanswered),
        "matched": [_matched_row(row) for row in found.matched],
        "differences": [_difference_row(row) for row in found.differences],
        "figures": {
            "fronts": figure_data(front_figure(found)),
            "differences": figure_data(difference_figure(found)),
        },
        "tables": {name: data_table(COLUMNS, part) for name, part in kinds.items()},
    }


def _is_difference(row: Any) -> bool:
    return bool(row[0].startswith("map − control"))


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
