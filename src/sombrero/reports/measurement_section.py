"""Section: the models prompt by prompt, and how their divergence is spread."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sombrero.reports.measurement_rows import KINDS, PAIR_COLUMNS, SPREAD_COLUMNS, pair_row, spread_row
from sombrero.reports.run_files import RunFiles
from sombrero.reports.verdict import SHARES, measured_models

NAMES = {"edited": "Edited, live", "baked": "Baked"}
"""Of the summary's models, as the columns of the verdict name them."""


def measurement_section(run: RunFiles) -> dict[str, Any] | None:
    """``spread`` once the reporting prompts were asked, ``pairs`` once there is a summary."""
    models = measured_models(run)
    if not models:
        return None
    labels = dict(SHARES)
    paired = (run.summary or {}).get("paired", {})
    return {
        "pair_columns": ("Model", "Prompts", *PAIR_COLUMNS),
        "pairs": [
            (NAMES[model], labels[name], *pair_row(pair))
            for model in NAMES
            for name, pair in paired.get(model, {}).items()
        ],
        "spread_columns": ("Model", "Where", *SPREAD_COLUMNS),
        "spread": [
            (name, label, *spread_row(asdict(model.kl), kind))
            for name, model in models.items()
            if name != "Base"
            for kind, label in KINDS
        ],
    }
