"""The first contract: a live edit and a baked checkpoint are the same model, whatever the rule."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pytest
import torch
from transformers import AutoModelForCausalLM

from sombrero.checkpoints import bake
from sombrero.edits import bakeable_kinds, live_edit
from sombrero.records import ModelEdit, RuleName, WriterKind
from tests.planned import Planned, parameters, plan
from tests.tiny_models import FAMILIES, FAMILIES_WITH_OUTPUT_BIAS

RULES: tuple[RuleName, ...] = get_args(RuleName)
BIASED = (
    *((family, {"attention_bias": True}) for family in FAMILIES_WITH_OUTPUT_BIAS),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
)
WITHOUT_BIAS = tuple(rule for rule in RULES if rule != "affine")
_folders = TemporaryDirectory(prefix="sombrero-contracts-")


@cache
def base(family: str, dtype: torch.dtype = torch.float32, **biases: bool) -> tuple[Planned, torch.Tensor]:
    """A tiny model, saved, mapped, and its log-probs; shared by all tests, which leave it as it is."""
    name = "-".join([family, str(dtype), *biases])
    planned = plan(family, Path(_folders.name) / name, dtype=dtype, **biases)
    return planned, log_probs(planned.handle.model, planned)


def log_probs(model: torch.nn.Module, planned: Planned) -> torch.Tensor:
    """Last-token log-probs of all prompts, one by one, so that padding plays no part."""
    with torch.inference_mode():
        rows = [
            model(input_ids=torch.tensor([p.token_ids])).logits[0, -1]
            for p in (*planned.harmful_prompts, *planned.harmless_prompts)
        ]
    return torch.stack(rows).float().log_softmax(-1)


def baked_log_probs(planned: Planned, edit: ModelEdit, out: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Log-probs of the checkpoint with the edit baked in, loaded as a user would."""
    report = bake(planned.handle.folder, edit, planned.writers, out, provenance={"test": "contract"})
    return log_probs(AutoModelForCausalLM.from_pretrained(report.out, dtype=dtype), planned)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", WITHOUT_BIAS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_live_equals_baked(family: str, rule: RuleName, strength: float, tmp_path: Path) -> None:
    """With each layer's own directions for some strengths, with those of one layer for the others."""
    planned, untouched = base(family)
    edit = planned.planner.build(parameters(rule, strength=strength, map_layer=2 if strength == 0.5 else None))
    with live_edit(planned.handle, planned.writers, edit):
        live = log_probs(planned.handle.model, planned)
    assert (live - baked_log_probs(planned, edit, tmp_path / "baked")).abs().max() < 1e-4
    moved = (live - untouched).abs().max()
    assert moved == 0 if strength == 0 else moved > 1e-2, "the edit did nothing, so the comparison proves nothing"
    assert torch.equal(log_probs(planned.handle.model, planned), untouched), "hooks were left behind"


@pytest.mark.parametrize(("family", "biases"), BIASED)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_biases_are_edited_too(
    family: str, biases: dict[str, bool], rule: RuleName, strength: float, tmp_path: Path
) -> None:
    planned, untouched = base(family, **biases)
    kinds: tuple[WriterKind, ...] = tuple(sorted(bakeable_kinds(rule, planned.writers)))
    edit = planned.planner.build(parameters(rule, strength=strength, kinds=kinds))
    moving = [change for change in edit.values() if change.c is not None or change.row_scale is not None]
    assert bool(moving) == (rule != "guarded")
    with live_edit(planned.handle, planned.writers, edit):
        live = log_probs(planned.handle.model, planned)
    assert (live - baked_log_probs(planned, edit, tmp_path / "baked")).abs().max() < 1e-4
    assert (live - untouched).abs().max() > 1e-2


@pytest.mark.parametrize("map_layer", [None, 0, 2, 4])
@pytest.mark.parametrize("units", [(0,), (3, 1), (0, 1, 2, 3)])
def test_any_map_layer_and_any_units(map_layer: int | None, units: tuple[int, ...], tmp_path: Path) -> None:
    planned, _ = base("llama", attention_bias=True, mlp_bias=True)
    for rule in RULES:
        edit = planned.planner.build(parameters(rule, strength=0.7, map_layer=map_layer, units=units))
        with live_edit(planned.handle, planned.writers, edit):
            live = log_probs(planned.handle.model, planned)
        baked = baked_log_probs(planned, edit, tmp_path / rule)
        assert (live - baked).abs().max() < 1e-4, rule


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", WITHOUT_BIAS)
def test_rounded_live_edit_is_the_baked_bfloat16_checkpoint_to_the_bit(
    family: str, rule: RuleName, tmp_path: Path
) -> None:
    planned, _ = base(family, torch.bfloat16)
    edit = planned.planner.build(parameters(rule, strength=0.8))
    with live_edit(planned.handle, planned.writers, edit, rounded=True):
        live = log_probs(planned.handle.model, planned)
    with live_edit(planned.handle, planned.writers, edit):
        unrounded = log_probs(planned.handle.model, planned)
    baked = baked_log_probs(planned, edit, tmp_path / "baked", torch.bfloat16)
    assert torch.equal(live, baked)
    assert not torch.equal(unrounded, baked), "rounding costs something, or the comparison proves nothing"


@pytest.mark.parametrize("rule", RULES)
def test_rounded_biases_are_the_baked_ones_to_the_bit(rule: RuleName, tmp_path: Path) -> None:
    planned, _ = base("llama", torch.bfloat16, attention_bias=True, mlp_bias=True)
    edit = planned.planner.build(parameters(rule, strength=0.8))
    with live_edit(planned.handle, planned.writers, edit, rounded=True):
        live = log_probs(planned.handle.model, planned)
    assert torch.equal(live, baked_log_probs(planned, edit, tmp_path / "baked", torch.bfloat16))


@pytest.mark.parametrize("rule", RULES)
def test_rounded_live_edit_in_float32_is_the_baked_bfloat16_checkpoint_loaded_so(
    rule: RuleName, tmp_path: Path
) -> None:
    planned, _ = base("llama", torch.bfloat16, attention_bias=True, mlp_bias=True)
    edit = planned.planner.build(parameters(rule, strength=0.8))
    widened = copy.deepcopy(planned.handle.model).float()
    handle = replace(planned.handle, model=widened, stored_dtype=torch.bfloat16)
    with live_edit(handle, planned.writers, edit, rounded=True):
        live = log_probs(widened, planned)
    with live_edit(handle, planned.writers, edit):
        unrounded = log_probs(widened, planned)
    baked = baked_log_probs(planned, edit, tmp_path / "baked", torch.float32)
    assert torch.equal(live, baked)
    assert not torch.equal(unrounded, baked), "rounding costs something, or the comparison proves nothing"
