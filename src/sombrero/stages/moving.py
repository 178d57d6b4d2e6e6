"""After the edit: where it moved the prompts, in the plane in which figures show their states."""

from __future__ import annotations

import torch

from sombrero.directions import principal_plane
from sombrero.edits import live_edit
from sombrero.progress import Progress
from sombrero.records import EditedPlane, HiddenStates, ModelEdit
from sombrero.session import Session
from sombrero.states import collect_states

MOST_PROMPTS = 32
"""Of each role: enough for a picture, a few seconds for the demo's model."""


def edited_plane(
    session: Session, edit: ModelEdit, harmful: HiddenStates, harmless: HiddenStates, progress: Progress
) -> EditedPlane:
    """States of the first map prompts of both roles in the live-edited model, on the basis of the untouched states."""
    prompts = [session.rendered(role, "map")[:MOST_PROMPTS] for role in ("harmful", "harmless")]
    together = [*prompts[0], *prompts[1]]
    settings = session.config.states
    with (
        progress.stage("states after the edit", len(together)) as advance,
        live_edit(session.handle, session.writers, edit),
    ):
        moved = collect_states(
            session.handle,
            session.architecture,
            (),
            together,
            batch_tokens=settings.batch_tokens,
            winsorize=settings.winsorize,
            on_progress=advance,
        )
    return on_the_plane(harmful, harmless, moved.hidden, len(prompts[0]), session.config.seed)


def on_the_plane(
    harmful: HiddenStates, harmless: HiddenStates, moved: torch.Tensor, n_harmful: int, seed: int
) -> EditedPlane:
    """``moved`` ``(n, L + 1, d)``, harmful prompts first, on the basis of ``harmful`` and ``harmless``."""
    placed = principal_plane(harmful, harmless, moved.transpose(0, 1), seed=seed).codebook
    return EditedPlane(*(part.contiguous() for part in placed.split([n_harmful, len(moved) - n_harmful], dim=1)))
