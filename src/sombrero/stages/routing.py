"""After the edit of a model with experts: which of them the map's prompts reach, and what the edit did to routers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sombrero.edits import measure_routing
from sombrero.progress import Progress
from sombrero.records import LayerRouting, ModelEdit, RenderedPrompt
from sombrero.session import Session

ROUTED_PROMPTS = 128
"""Map prompts of each role on which routers are measured."""


def routed_prompts(session: Session) -> list[RenderedPrompt]:
    """The prompts on which routers are measured."""
    return [prompt for role in ("harmful", "harmless") for prompt in session.rendered(role, "map")[:ROUTED_PROMPTS]]


def has_experts(session: Session) -> bool:
    """Whether some writer holds experts."""
    return any(writer.n_experts is not None for writer in session.writers)


def measure(session: Session, edit: ModelEdit, progress: Progress) -> list[LayerRouting]:
    """The routers before and after the edit."""
    prompts = routed_prompts(session)
    with progress.stage("routers"):
        return list(measure_routing(session.handle, session.writers, edit, prompts))


def counted(session: Session, routing: Sequence[LayerRouting]) -> dict[str, Any]:
    """What the manifest says of experts: how many no prompt reached, and what becomes of those."""
    return {
        "prompts": len(routed_prompts(session)),
        "experts": sum(entry.experts for entry in routing),
        "unreached": sum(entry.experts - entry.reached for entry in routing),
        "rule": "experts are edited by what they write, all alike, whether a prompt reached them or not",
    }
