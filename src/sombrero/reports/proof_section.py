"""Section: what proves that the figures belong to the checkpoint that was written."""

from __future__ import annotations

from typing import Any

from sombrero.records import LayerAccounting
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import number

MOST_FLIPS = 50
LEAK_COLUMNS = ("Layer", "Written before (RMS)", "Still written", "Still written, end to end")


def proof_section(run: RunFiles) -> dict[str, Any] | None:
    """Residual accounting, leak check, and the baked checkpoint beside the live edit, as far as they are there."""
    if run.coverage is None and run.verification is None:
        return None
    return {"coverage": coverage_facts(run.coverage), "leak": leak_facts(run), "baked": baked_facts(run)}


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
    bound = float(run.manifest["config"].get("search", {}).get("max_leak", 0.0))
    above = sum(leak.ratio > bound for leak in run.leak)
    worst = max(run.leak, key=lambda leak: leak.ratio)
    return {
        "bound": f"{bound:.0%}",
        "above": above,
        "layers": len(run.leak),
        "worst": f"{worst.ratio:.1%}",
        "worst_layer": worst.layer,
        "columns": LEAK_COLUMNS,
        "rows": [(x.layer, number(x.written), f"{x.ratio:.1%}", f"{x.end_to_end:.1%}") for x in run.leak],
    }


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
