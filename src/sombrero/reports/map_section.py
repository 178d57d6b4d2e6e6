"""Section: the map. U-matrix, hits and component planes of every unit, at any state index."""

from __future__ import annotations

from typing import Any

from sombrero.records import RefusalMap
from sombrero.reports.colours import CATEGORY_FILLS, OTHER_CATEGORY, UNKNOWN, fills, ink, shades, spread
from sombrero.reports.lattice_shapes import LARGEST_MARK, LEAST_MARK, between, centres, extent, hit_scale, outline
from sombrero.reports.run_files import UNITS, RunFiles
from sombrero.reports.unit_numbers import UnitNumbers, between_distances, category_keys, lattice_shape, unit_numbers
from sombrero.reports.wording import clipped, number, state_name, visible

CELL = 100.0
"""Width of a cell in the drawing's own units."""

GAP = 0.97
MOST_UNITS = 400
MOST_CELLS = 3_500
"""Units times state indices that a page holds. Of a larger map it leaves some state indices out, and says so."""

MOST_TOLD, LONGEST_CATEGORY = 5, 60
"""Categories of a unit that a tooltip names, and their length."""

PLANES = (
    ("distance", "U-matrix"),
    ("hits", "hits"),
    ("auroc", "AUROC"),
    ("odds", "refusal log-odds"),
    ("category", "main category"),
)
"""What the fill of a cell can show; the page's script knows them by these names."""


def map_section(run: RunFiles) -> dict[str, Any] | None:
    """The drawing at the shown state index, and the numbers of the others for the slider."""
    refusal_map, shown = run.refusal_map, run.shown_state
    if refusal_map is None or run.som is None or run.single is None or shown is None:
        return None
    n_states, n_units = refusal_map.hit_counts.shape
    facts = {
        "n_rows": refusal_map.n_rows,
        "n_columns": refusal_map.n_columns,
        "lattice": refusal_map.lattice,
        "rule": refusal_map.rule,
        "n_states": n_states,
        "n_train": len(refusal_map.train_ids),
        "best": run.best_state,
        "shown": shown,
        "shown_name": state_name(shown),
        "shown_auroc": number(float(run.single.auroc[shown, 0])),
    }
    if n_units > MOST_UNITS:
        return facts | {"too_large": n_units}
    kept = kept_states(n_states, n_units, shown)
    numbers = [unit_numbers(run, index) for index in kept]
    states = [state_numbers(refusal_map, found) for found in numbers]
    start = kept.index(shown)
    measured = {
        "odds": any(value is not None for state in states for value in state["odds"]),
        "category": numbers[start].categories is not None,
    }
    return facts | {
        "too_large": None,
        "left_out": n_states - len(kept),
        "states": states,
        "start": start,
        "drawing": drawing(refusal_map, states[start]),
        "planes": [(name, title) for name, title in PLANES if measured.get(name, True)],
        "missing": missing_planes(measured),
        "explorer": explorer(refusal_map, states, numbers[start], start),
    }


def missing_planes(measured: dict[str, bool]) -> str | None:
    """Which planes there are not, and why."""
    reasons = {
        "odds": "refusal log-odds (not measured)",
        "category": f"main category (this run has no {UNITS})",
    }
    absent = [reason for name, reason in reasons.items() if not measured[name]]
    return f"Planes that this run cannot show: {', '.join(absent)}." if absent else None


def kept_states(n_states: int, n_units: int, shown: int) -> list[int]:
    """The state indices that the page holds: all, or evenly spaced ones and the shown one."""
    room = max(2, MOST_CELLS // n_units)
    if n_states <= room:
        return list(range(n_states))
    return sorted({round(i * (n_states - 1) / (room - 1)) for i in range(room)} | {shown})


def state_numbers(refusal_map: RefusalMap, found: UnitNumbers) -> dict[str, Any]:
    """One state index for the script; ``between`` has a value for each cell between units."""
    return {
        "index": found.index,
        "name": state_name(found.index),
        "u": found.u,
        "between": between_distances(refusal_map, found.index),
        "hits": found.hits,
        "rank": found.rank,
        "auroc": found.auroc,
        "low": found.low,
        "high": found.high,
        "odds": found.log_odds,
        "single": found.single,
    }


def explorer(refusal_map: RefusalMap, states: list[dict[str, Any]], shown: UnitNumbers, start: int) -> dict[str, Any]:
    """All that the page's script needs to draw the map at any state index, in any plane."""
    shape, palette = lattice_shape(refusal_map), shades()
    return {
        "states": states,
        "start": start,
        "n_columns": refusal_map.n_columns,
        "marks": [LARGEST_MARK, LEAST_MARK],
        "shades": palette,
        "inks": [ink(shade) for shade in palette],
        "unknown": UNKNOWN,
        "points": [[round(CELL * x, 1), round(CELL * y, 1)] for x, y in centres(*shape)],
        "corners": [[round(CELL * x, 1), round(CELL * y, 1)] for x, y in outline(refusal_map.lattice)],
        "box": [round(CELL * value, 1) for value in extent(*shape)],
        "people": people(shown),
    }


def people(found: UnitNumbers) -> dict[str, Any] | None:
    """Who lives in the units of one state index. Names come from files: the script sets them as text, never as HTML."""
    if found.categories is None:
        return None
    keys = category_keys(found)
    return {
        "index": found.index,
        "units": [[[_name(name), count] for name, count in unit[:MOST_TOLD]] for unit in found.categories],
        "letters": [
            "…" if unit and unit[0][0] not in keys else keys[unit[0][0]] if unit else "" for unit in found.categories
        ],
        "keys": [[letter, _name(name)] for name, letter in keys.items()],
        "fills": [*CATEGORY_FILLS, OTHER_CATEGORY],
        "inks": [ink(fill) for fill in (*CATEGORY_FILLS, OTHER_CATEGORY)],
    }


def drawing(refusal_map: RefusalMap, state: dict[str, Any]) -> dict[str, Any]:
    """The SVG's numbers as the page opens, a U-matrix: units half as large, with the cells between them."""
    shape = lattice_shape(refusal_map)
    left, top, width, height = (CELL * value for value in extent(*shape))
    corners = " ".join(f"{GAP * CELL * x:.1f},{GAP * CELL * y:.1f}" for x, y in outline(refusal_map.lattice))
    most = max(state["hits"])
    low, high = spread([*state["u"], *state["between"]])
    cells = [
        {
            "unit": unit,
            "x": round(CELL * x, 1),
            "y": round(CELL * y, 1),
            "fill": fill,
            "scale": round(0.5 * hit_scale(state["hits"][unit], most), 3),
            "hits": state["hits"][unit],
            "label": unit_label(refusal_map, state, unit),
        }
        for unit, ((x, y), fill) in enumerate(zip(centres(*shape), fills(state["u"], low, high), strict=True))
    ]
    links = [
        {"x": round(CELL * x, 1), "y": round(CELL * y, 1), "fill": fill}
        for ((x, y), _), fill in zip(between(*shape), fills(state["between"], low, high), strict=True)
    ]
    return {
        "box": f"{left - 4:.1f} {top - 4:.1f} {width + 8:.1f} {height + 8:.1f}",
        "width": round(width),
        "corners": corners,
        "cells": cells,
        "links": links,
        "low": _precise(low),
        "high": _precise(high),
    }


def unit_label(refusal_map: RefusalMap, state: dict[str, Any], unit: int) -> str:
    """What the tooltip says; the page's script writes the same for the other state indices."""
    row, column = divmod(unit, refusal_map.n_columns)
    total = sum(state["hits"])
    share = 100 * state["hits"][unit] / total if total else 0.0
    return (
        f"Unit {unit} (row {row + 1}, column {column + 1}): {state['hits'][unit]} of {total} hits ({share:.1f}%), "
        f"salience rank {state['rank'][unit]}, AUROC {_fixed(state['auroc'][unit])}, "
        f"mean distance to neighbours {_precise(state['u'][unit])}"
    )


def _name(text: str) -> str:
    return visible(clipped(text, LONGEST_CATEGORY))


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _precise(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
