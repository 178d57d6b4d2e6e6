from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sombrero.edits import account_residuals, live_edit
from sombrero.errors import ArchitectureError, CoverageError
from tests.planned import parameters, plan
from tests.tiny_models import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_writers_account_for_every_layer(family: str, tmp_path: Path) -> None:
    planned = plan(family, tmp_path)
    result = account_residuals(planned.handle, planned.architecture, planned.writers, planned.harmful_prompts[:3])
    assert len(result) == 4
    assert max(entry.relative_error for entry in result) < 1e-5
    assert result[2].writers == ("2.attention", "2.mlp")


def test_bfloat16_rounding_is_allowed_for(tmp_path: Path) -> None:
    planned = plan("llama", tmp_path, dtype=torch.bfloat16)
    result = account_residuals(planned.handle, planned.architecture, planned.writers, planned.harmful_prompts[:3])
    assert 1e-5 < max(entry.relative_error for entry in result) < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_missing_writer_is_noticed_and_its_layer_named(dtype: torch.dtype, tmp_path: Path) -> None:
    planned = plan("qwen2", tmp_path, dtype=dtype)
    lacking = [w for w in planned.writers if w.name != "2.mlp"]
    with pytest.raises(CoverageError, match=r"1 of 4 layers.*layer 2"):
        account_residuals(planned.handle, planned.architecture, lacking, planned.harmful_prompts[:3])


def test_a_module_that_is_no_writer_is_noticed(tmp_path: Path) -> None:
    planned = plan("llama", tmp_path)
    wrong = [
        replace(w, module_path=w.module_path.replace("o_proj", "q_proj")) if w.name == "1.attention" else w
        for w in planned.writers
    ]
    with pytest.raises(CoverageError, match="layer 1"):
        account_residuals(planned.handle, planned.architecture, wrong, planned.harmful_prompts[:3])


def test_an_edit_for_an_unknown_writer_is_refused(tmp_path: Path) -> None:
    planned = plan("llama", tmp_path)
    edit = dict(planned.planner.build(parameters("project")))
    edit["99.mlp"] = edit["1.mlp"]
    with pytest.raises(ArchitectureError, match=r"99\.mlp"), live_edit(planned.handle, planned.writers, edit):
        pass


def test_hooks_are_removed_when_the_model_fails(tmp_path: Path) -> None:
    planned = plan("llama", tmp_path)
    edit = planned.planner.build(parameters("project"))
    with pytest.raises(IndexError), live_edit(planned.handle, planned.writers, edit):
        planned.handle.model(input_ids=torch.tensor([[10**6]]))
    assert not any(module._forward_hooks for module in planned.handle.model.modules())
