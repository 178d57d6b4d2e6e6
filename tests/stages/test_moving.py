"""Where an edit moves the prompts: nowhere if it edits nothing, and from the first edited layer on if it does."""

from __future__ import annotations

import pytest
import torch

from sombrero.directions import principal_plane
from sombrero.progress import Silent
from sombrero.records import HiddenStates, LowRankEdit
from sombrero.session import Session
from sombrero.stages.moving import MOST_PROMPTS, edited_plane
from sombrero.states import collect_states
from tests.tiny_runs import tiny_config

LAYER = 2


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(tiny_config(tmp_path_factory.mktemp("inputs")))


def states(session: Session, role: str) -> HiddenStates:
    return collect_states(session.handle, session.architecture, (), session.rendered(role, "map"))


def test_it_starts_where_the_edit_does(session: Session) -> None:
    harmful, harmless = states(session, "harmful"), states(session, "harmless")
    plane = principal_plane(harmful, harmless, torch.zeros(harmful.hidden.shape[1], 1, harmful.hidden.shape[2]))
    writer = next(w for w in session.writers if w.layer == LAYER)
    module = session.handle.model.get_submodule(writer.module_path)
    d_out, d_in = module.weight.shape
    V = torch.nn.functional.normalize(torch.ones(d_out, 1), dim=0)
    edits = {
        "nothing": LowRankEdit(V, torch.zeros(d_in, 1), None, 1.0),
        "much": LowRankEdit(V, module.weight.detach().float().T @ V, None, 3.0),
    }
    found = {
        name: edited_plane(session, {writer.name: edit}, harmful, harmless, Silent()) for name, edit in edits.items()
    }
    for role, before in (("harmful", plane.harmful), ("harmless", plane.harmless)):
        n = min(MOST_PROMPTS, before.shape[1])
        still, moved = getattr(found["nothing"], role), getattr(found["much"], role)
        assert still.shape == moved.shape == (before.shape[0], n, 2)
        assert torch.allclose(still, before[:, :n], atol=1e-4)
        assert torch.allclose(moved[: LAYER + 1], before[: LAYER + 1, :n], atol=1e-4)
        assert not torch.allclose(moved[LAYER + 1], before[LAYER + 1, :n], atol=1e-3)
