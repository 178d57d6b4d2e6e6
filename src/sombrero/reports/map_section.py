"""Section: the map. The U-matrix and the hits of every unit, at any state index."""

from __future__ import annotations

from typing import Any

from sombrero.records import DirectionSet, RefusalMap
from sombrero.reports.lattice_shapes import LARGEST_MARK, LEAST_MARK, centres, extent, hit_scale, outline
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import finite, number, state_name

CELL = 100.0
"""Width of a cell in the drawing's own units."""

MOST_UNITS = 400
MOST_CELLS = 8_000
"""Units times state indices that a page holds. Of a larger map it leaves some state indices out, and says so."""

COLOUR_STOPS = 33


def map_section(run: RunFiles) -> dict[str, Any] | None:
    """The drawing at the best state index, and the numbers of the others for the slider."""
    refusal_map, best = run.refusal_map, run.best_state
    if refusal_map is None or run.som is None or run.single is None or best is None:
        return None
    n_states, n_units = refusal_map.hit_counts.shape
    facts = {
        "n_rows": refusal_map.n_rows,
        "n_columns": refusal_map.n_columns,
        "lattice": refusal_map.lattice,
        "rule": refusal_map.rule,
        "n_states": n_states,
        "n_train": len(refusal_map.train_ids),
        "best": best,
        "best_name": state_name(best),
        "best_auroc": number(float(run.single.auroc[best, 0])),
    }
    if n_units > MOST_UNITS:
        return facts | {"too_large": n_units}
    kept = kept_states(n_states, n_units, best)
    states = [state_numbers(refusal_map, run.som, run.single, index) for index in kept]
    return facts | {
        "too_large": None,
        "left_out": n_states - len(kept),
        "states": states,
        "start": kept.index(best),
        "drawing": drawing(refusal_map, states[kept.index(best)]),
        "colours": colours(),
        "marks": [LARGEST_MARK, LEAST_MARK],
    }


def kept_states(n_states: int, n_units: int, best: int) -> list[int]:
    """The state indices that the page holds: all, or evenly spaced ones and the best."""
    room = max(2, MOST_CELLS // n_units)
    if n_states <= room:
        return list(range(n_states))
    return sorted({round(i * (n_states - 1) / (room - 1)) for i in range(room)} | {best})


def state_numbers(refusal_map: RefusalMap, som: DirectionSet, single: DirectionSet, index: int) -> dict[str, Any]:
    """One state index: u, hits, rank and auroc by unit, in the map's order. rank 1 is the most salient unit."""
    units: list[int] = som.units[index].tolist()
    rank = {unit: place for place, unit in enumerate(units)}
    auroc = som.auroc[index].tolist()
    order = range(len(units))
    return {
        "index": index,
        "name": state_name(index),
        "u": [finite(value) for value in refusal_map.u_matrix[index].tolist()],
        "hits": refusal_map.hit_counts[index].tolist(),
        "rank": [rank[unit] + 1 for unit in order],
        "auroc": [finite(auroc[rank[unit]]) for unit in order],
        "single": finite(float(single.auroc[index, 0])),
    }


def drawing(refusal_map: RefusalMap, state: dict[str, Any]) -> dict[str, Any]:
    """The SVG's numbers: one group a unit with its cell, its hit mark and its label."""
    shape = (refusal_map.n_rows, refusal_map.n_columns, refusal_map.lattice)
    left, top, width, height = (CELL * value for value in extent(*shape))
    corners = " ".join(f"{0.97 * CELL * x:.1f},{0.97 * CELL * y:.1f}" for x, y in outline(refusal_map.lattice))
    most = max(state["hits"])
    low, high = spread(state["u"])
    palette = colours()
    cells = [
        {
            "unit": unit,
            "x": round(CELL * x, 1),
            "y": round(CELL * y, 1),
            "fill": palette[colour_index(state["u"][unit], low, high)],
            "scale": round(hit_scale(state["hits"][unit], most), 3),
            "hits": state["hits"][unit],
            "label": unit_label(refusal_map, state, unit),
        }
        for unit, (x, y) in enumerate(centres(*shape))
    ]
    box = f"{left - 4:.1f} {top - 4:.1f} {width + 8:.1f} {height + 8:.1f}"
    return {
        "box": box,
        "width": round(width),
        "corners": corners,
        "cells": cells,
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


def spread(values: list[float | None]) -> tuple[float, float]:
    """Smallest and largest of the values that are there."""
    there = [value for value in values if value is not None]
    return (min(there), max(there)) if there else (0.0, 0.0)


def colour_index(value: float | None, low: float, high: float) -> int:
    """Place in the palette; the middle when all units are equally far apart."""
    if value is None:
        return 0
    share = (value - low) / (high - low) if high > low else 0.5
    return round(share * (COLOUR_STOPS - 1))


def colours() -> list[str]:
    """The cividis palette (Nuñez et al. 2018), dark for near, light for far: even in grey, and to the colour-blind."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    palette = colormaps["cividis"]
    return [to_hex(palette(i / (COLOUR_STOPS - 1))) for i in range(COLOUR_STOPS)]


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _precise(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
