"""Agreement of detectors as a page shows it: a row for each pair and set, and the texts that they differ on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sombrero.reports.wording import NOTHING, clipped, number, percent

COLUMNS = ("Detectors", "Prompts", "Judged by both", "Same label", "κ", "κ, refusal or not")
SHOWN_AT_MOST = 20
SHOWN_CHARACTERS = 600


def agreement_view(found: Mapping[str, Sequence[Mapping[str, Any]] | None] | None) -> dict[str, Any] | None:
    """Of what ``measurement.json`` has under ``agreement``: ``columns``, ``rows``, the first texts that differ, and how
    many ``more`` there are. None with one detector."""
    if found is None:
        return None
    both = found.get("against") is not None
    entries = [
        (("Base" if name == "against" else "This model"), entry)
        for name, pairs in found.items()
        for entry in pairs or ()
    ]
    differ = [
        _difference(model, entry, one)
        for model, entry in entries
        for one in entry["disagreements"] or ()
        if one["prompt"] is not None and one["response"] is not None
    ]
    return {
        "columns": ("Model", *COLUMNS) if both else COLUMNS,
        "rows": [((model,) if both else ()) + _row(entry) for model, entry in entries],
        "differ": differ[:SHOWN_AT_MOST],
        "more": len(differ[SHOWN_AT_MOST:]),
    }


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    observed = NOTHING if entry["observed"] is None else percent(entry["observed"])
    judged = f"{entry['n_judged']} of {entry['n']}"
    pair = f"{entry['first']}, {entry['second']}"
    return pair, entry["set"], judged, observed, number(entry["kappa"], 2), number(entry["refusal_kappa"], 2)


def _difference(model: str, entry: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, str]:
    return {
        "model": model,
        "kind": entry["set"],
        "first": entry["first"],
        "second": entry["second"],
        "first_label": one["first"],
        "second_label": one["second"],
        "prompt": clipped(one["prompt"], SHOWN_CHARACTERS),
        "response": clipped(one["response"], SHOWN_CHARACTERS),
    }
