"""The first contract: a live edit and a baked checkpoint are the same model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sombrero.checkpoints import bake
from sombrero.edits import live_edit
from sombrero.records import RuleName
from tests.planned import Planned, parameters, plan
from tests.tiny_models import FAMILIES, FAMILIES_WITH_OUTPUT_BIAS

RULES: tuple[RuleName, ...] = ("project", "compose", "guarded")


def log_probs(model: torch.nn.Module, planned: Planned) -> torch.Tensor:
    """Last-token log-probs of all prompts, one by one, so that padding plays no part."""
    with torch.inference_mode():
        rows = [
            model(input_ids=torch.tensor([p.token_ids])).logits[0, -1]
            for p in (*planned.harmful_prompts, *planned.harmless_prompts)
        ]
    return torch.stack(rows).float().log_softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("map_layer", [None, 2])
def test_live_equals_baked(family: str, rule: RuleName, map_layer: int | None, tmp_path: Path) -> None:
    planned = plan(family, tmp_path / "base")
    edit = planned.planner.build(parameters(rule, strength=0.8, map_layer=map_layer))
    base = log_probs(planned.handle.model, planned)
    with live_edit(planned.handle, planned.writers, edit):
        live = log_probs(planned.handle.model, planned)
    report = bake(tmp_path / "base", edit, planned.writers, tmp_path / "baked", provenance={"test": rule})
    baked = log_probs(AutoModelForCausalLM.from_pretrained(report.out, dtype=torch.float32), planned)
    assert (live - baked).abs().max() < 1e-4
    assert (live - base).abs().max() > 1e-2, "the edit did nothing, so the comparison proves nothing"
    assert torch.equal(log_probs(planned.handle.model, planned), base), "hooks were left behind"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", RULES)
def test_rounded_live_edit_is_the_baked_bfloat16_checkpoint_to_the_bit(
    family: str, rule: RuleName, tmp_path: Path
) -> None:
    planned = plan(family, tmp_path / "base", dtype=torch.bfloat16)
    edit = planned.planner.build(parameters(rule, strength=0.8))
    with live_edit(planned.handle, planned.writers, edit, rounded=True):
        live = log_probs(planned.handle.model, planned)
    with live_edit(planned.handle, planned.writers, edit):
        unrounded = log_probs(planned.handle.model, planned)
    report = bake(tmp_path / "base", edit, planned.writers, tmp_path / "baked", provenance={"test": rule})
    baked = log_probs(AutoModelForCausalLM.from_pretrained(report.out, dtype=torch.bfloat16), planned)
    assert torch.equal(live, baked)
    assert not torch.equal(unrounded, baked), "rounding costs something, or the comparison proves nothing"


@pytest.mark.parametrize("family", FAMILIES_WITH_OUTPUT_BIAS)
@pytest.mark.parametrize("rule", RULES)
def test_biases_are_edited_too(family: str, rule: RuleName, tmp_path: Path) -> None:
    planned = plan(family, tmp_path / "base", attention_bias=True)
    edit = planned.planner.build(parameters(rule))
    assert any(low_rank.c is not None for low_rank in edit.values()) == (rule != "guarded")
    with live_edit(planned.handle, planned.writers, edit):
        live = log_probs(planned.handle.model, planned)
    report = bake(tmp_path / "base", edit, planned.writers, tmp_path / "baked", provenance={"test": rule})
    baked = log_probs(AutoModelForCausalLM.from_pretrained(report.out, dtype=torch.float32), planned)
    assert (live - baked).abs().max() < 1e-4
