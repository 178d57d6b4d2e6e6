"""After the edit: how much of the component along its directions is still written, and what the run says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sombrero.edits import check_leak
from sombrero.progress import Progress
from sombrero.records import LayerLeak, ModelEdit
from sombrero.session import Session
from sombrero.stages.mapping import PROBE_PROMPTS


def measure_leak(session: Session, edit: ModelEdit, progress: Progress) -> list[LayerLeak]:
    """The leak check on a few harmful map prompts, of the edit as the checkpoint will store it.

    An edit that leaves more than ``search.max_leak`` of the component is said to, and is no failure: only ``project``
    at strength 1 of all writers means to remove it whole.
    """
    with progress.stage("leak check"):
        probe = session.rendered("harmful", "map")[:PROBE_PROMPTS]
        found = list(check_leak(session.handle, session.architecture, session.writers, edit, probe, rounded=True))
    sentence = leak_sentence(found, session.config.search.max_leak)
    if sentence is not None:
        progress.say(sentence)
    return found


def summarize_leak(leaks: Sequence[LayerLeak], bound: float) -> dict[str, Any]:
    """``coverage.leak`` of the summary."""
    worst = max(leaks, key=lambda leak: leak.ratio, default=None)
    return {
        "max": None if worst is None else worst.ratio,
        "layer": None if worst is None else worst.layer,
        "max_end_to_end": max((leak.end_to_end for leak in leaks), default=None),
        "layers": len(leaks),
        "bound": bound,
        "within_bound": worst is None or worst.ratio <= bound,
    }


def leak_sentence(leaks: Sequence[LayerLeak], bound: float) -> str | None:
    """What a run says whose edit leaves more than the stated part; None when it does not."""
    above = [leak for leak in leaks if leak.ratio > bound]
    if not above:
        return None
    worst = max(above, key=lambda leak: leak.ratio)
    return (
        f"{len(above)} of {len(leaks)} edited layers still write more than {bound:.0%} of the component along the "
        f"edit's directions (most: layer {worst.layer}, {worst.ratio:.0%}): the edit moves it, and does not remove it"
    )
