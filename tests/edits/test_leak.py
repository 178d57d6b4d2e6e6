"""The leak check: what the edited layers still write along the edit's directions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sombrero.edits import check_leak
from sombrero.errors import UsageError
from sombrero.records import EditParameters, LayerProfile
from tests.planned import Planned, parameters, plan
from tests.tiny_models import FAMILIES, FAMILIES_WITH_OUTPUT_BIAS

BASES = [(family, {}) for family in FAMILIES] + [
    *((family, {"attention_bias": True}) for family in FAMILIES_WITH_OUTPUT_BIAS),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
]


def leaks_of(planned: Planned, edit: Any, **options: Any) -> Any:
    return check_leak(
        planned.handle, planned.architecture, planned.writers, edit, planned.harmful_prompts[:3], **options
    )


@pytest.mark.parametrize(("family", "biases"), BASES)
@pytest.mark.parametrize("map_layer", [None, 3])
def test_project_leaves_nothing(family: str, biases: dict[str, bool], map_layer: int | None, tmp_path: Path) -> None:
    planned = plan(family, tmp_path, **biases)
    edit = planned.planner.build(parameters("project", map_layer=map_layer))
    leaks = leaks_of(planned, edit)
    assert [leak.layer for leak in leaks] == [1, 2, 3]
    assert leaks[0].writers == ("1.attention", "1.mlp")
    assert min(leak.written for leak in leaks) > 1e-2, "nothing was written, so nothing is proved"
    assert max(max(leak.ratio, leak.end_to_end) for leak in leaks) <= 1e-4
    rounded = leaks_of(planned, edit, rounded=True)
    assert max(max(leak.ratio, leak.end_to_end) for leak in rounded) <= 1e-4


@pytest.mark.parametrize("strength", [0.25, 2.0])
def test_of_another_strength_the_rest_is_left(strength: float, tmp_path: Path) -> None:
    """A layer's writers see each other: only where attention alone is edited is its share exact, so one is cut out."""
    planned = plan("llama", tmp_path)
    profile = LayerProfile(3, 3, strength)
    edit = planned.planner.build(EditParameters("project", "som", None, (0,), {"mlp": profile, "attention": profile}))
    mlp = planned.handle.model.get_submodule("model.layers.3.mlp.down_proj")
    with torch.no_grad():
        mlp.weight.zero_()
    edit = {"3.attention": edit["3.attention"]}
    (leak,) = leaks_of(planned, edit)
    assert leak.ratio == pytest.approx(abs(1 - strength), rel=1e-4)
    assert leak.end_to_end == pytest.approx(leak.ratio, rel=1e-4), "no earlier layer is edited"


def test_a_writer_that_is_not_edited_is_seen(tmp_path: Path) -> None:
    """Attention alone is edited: its layer's MLP goes on writing, and that counts as left."""
    planned = plan("qwen2", tmp_path)
    edit = planned.planner.build(parameters("project", kinds=("attention",)))
    leaks = leaks_of(planned, edit)
    assert [leak.writers for leak in leaks] == [(f"{layer}.attention",) for layer in (1, 2, 3)]
    assert min(leak.ratio for leak in leaks) > 0.05


def test_the_same_stream_holds_what_earlier_layers_change(tmp_path: Path) -> None:
    """With an identity edit in a layer after edited ones, only the end-to-end figure differs from 1."""
    planned = plan("llama", tmp_path)
    edit = dict(planned.planner.build(parameters("project")))
    for name in ("3.attention", "3.mlp"):
        edit[name] = replace(edit[name], strength=0.0)
    leak = leaks_of(planned, edit)[-1]
    assert leak.ratio == pytest.approx(1.0, abs=1e-5)
    assert abs(leak.end_to_end - 1.0) > 1e-2


def test_affine_leaves_the_harmless_mean_and_norm_puts_some_back(tmp_path: Path) -> None:
    planned = plan("llama", tmp_path, attention_bias=True, mlp_bias=True)
    build = partial(parameters, units=(0,))
    for rule in ("affine", "norm"):
        leaks = leaks_of(planned, planned.planner.build(build(rule)))  # type: ignore[arg-type]
        assert min(leak.ratio for leak in leaks) > 1e-3, rule


def test_no_edit_has_no_leak_and_no_prompt_is_an_error(tmp_path: Path) -> None:
    planned = plan("llama", tmp_path)
    assert leaks_of(planned, {}) == ()
    with pytest.raises(UsageError, match="no prompts"):
        check_leak(planned.handle, planned.architecture, planned.writers, {}, [])
    modules = planned.handle.model.modules()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
