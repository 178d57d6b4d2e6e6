"""``agreement`` of ``measurement.json``: how far other detectors agree with the one that gave the verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sombrero.evaluation import Agreement, EvaluationSets, PromptKind, measure_agreement
from sombrero.records import Measurement, RenderedPrompt, Response, Verdict


def summarize_agreement(
    detector: str, measurement: Measurement, sets: EvaluationSets, responses: Mapping[str, Response]
) -> list[dict[str, Any]] | None:
    """Every pair of detectors on all responses, then set by set; None where there is one detector alone.

    ``detector`` is the name of the one whose verdicts the measurement has. ``responses`` are those to harmless and
    borderline prompts, whose texts stand beside the disagreements; of other prompts there are ids and labels. For all
    prompts together the disagreements are left out: they are those of the sets.
    """
    if not measurement.opinions:
        return None
    verdicts = {detector: (*measurement.verdicts, *measurement.safe_verdicts)} | {
        opinion.detector: (*opinion.verdicts, *opinion.safe_verdicts) for opinion in measurement.opinions
    }
    kinds: tuple[tuple[PromptKind, Sequence[RenderedPrompt]], ...] = (
        ("harmful", sets.harmful),
        ("contrast", sets.contrast),
        ("borderline", sets.borderline),
        ("harmless", sets.harmless),
    )
    together = [_entry("all", pair) | {"disagreements": None} for pair in measure_agreement(verdicts, kind="all")]
    start, found = 0, []
    for kind, prompts in kinds:
        part: dict[str, Sequence[Verdict]] = {
            name: every[start : start + len(prompts)] for name, every in verdicts.items()
        }
        start += len(prompts)
        if prompts:
            pairs = measure_agreement(
                part, kind=kind, prompts=[one.prompt for one in prompts], responses=tuple(responses.values())
            )
            found += [_entry(kind, pair) for pair in pairs]
    return [*together, *found]


def _entry(kind: PromptKind, pair: Agreement) -> dict[str, Any]:
    """As JSON; lists, so that what was just measured equals what is read back."""
    found = asdict(pair)
    disagreements = [
        {"id": one["prompt_id"], **{name: one[name] for name in ("first", "second", "prompt", "response")}}
        for one in found["disagreements"]
    ]
    return (
        {"set": kind}
        | found
        | {
            "labels": list(pair.labels),
            "table": [list(row) for row in pair.table],
            "disagreements": disagreements,
        }
    )
