"""The numbers of a figure as a table, for the reader who wants them: the page's script writes them as CSV or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sombrero.reports.wording import clipped, finite, visible

Value = str | int | float | None
LONGEST_CELL = 300


def data_table(columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> dict[str, Any]:
    """``columns`` and ``rows`` of JSON values: numbers at six digits, None for what is not finite, visible texts."""
    return {"columns": list(columns), "rows": [[_cell(value) for value in row] for row in rows]}


def by_state(columns: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A table with a row for each state index, of columns that have one value each."""
    return data_table(("state", *columns), ((i, *row) for i, row in enumerate(zip(*columns.values(), strict=True))))


def _cell(value: Value) -> Value:
    if isinstance(value, float):
        return finite(value, 6)
    return visible(clipped(value, LONGEST_CELL)) if isinstance(value, str) else value
