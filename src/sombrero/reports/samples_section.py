"""Section: answers before and after, to harmless and borderline prompts alone, with the changed words marked."""

from __future__ import annotations

from typing import Any

from sombrero.records import Sample
from sombrero.reports.run_files import RunFiles
from sombrero.reports.word_changes import word_changes
from sombrero.reports.wording import clipped

MOST_SAMPLES = 24


def samples_section(run: RunFiles) -> dict[str, Any] | None:
    """The samples that the run kept. A record with a sample of any other kind cannot be read at all."""
    if run.effect is None:
        return None
    found = run.effect.samples
    return {
        "samples": [sample_row(sample) for sample in found[:MOST_SAMPLES]],
        "left_out": max(0, len(found) - MOST_SAMPLES),
    }


def sample_row(sample: Sample) -> dict[str, Any]:
    """One prompt with both answers as pieces, shortened where they are long."""
    base, edited = word_changes(clipped(sample.base), clipped(sample.edited))
    return {
        "id": sample.prompt_id,
        "kind": sample.kind,
        "prompt": clipped(sample.prompt),
        "base": base,
        "edited": edited,
        "same": sample.base == sample.edited,
    }
