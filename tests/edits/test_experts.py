"""Edits of experts that one module holds, of writers behind norms, and what routers make of an edit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sombrero.checkpoints import bake
from sombrero.edits import edit_bias, edit_output, edit_weight, live_edit, measure_routing
from sombrero.edits.contributions import gain, in_stream
from sombrero.errors import UsageError
from sombrero.records import Layout, LowRankEdit
from sombrero.tensor_records import load_edit, save_edit
from tests.planned import Planned, parameters, plan_model
from tests.tiny_architectures import TINY, save_tiny_architecture

E, D, D_IN, K = 3, 8, 5, 2


def planned(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Planned:
    save_tiny_architecture(name, folder)
    model = TINY[name].model_class.from_pretrained(folder, dtype=torch.float32)
    if dtype != torch.float32:
        model.to(dtype).save_pretrained(folder)
        model = TINY[name].model_class.from_pretrained(folder, dtype=dtype)
    return plan_model(model, folder)


@pytest.fixture
def edit() -> LowRankEdit:
    generator = torch.Generator().manual_seed(0)
    V = torch.linalg.qr(torch.randn(D, K, generator=generator)).Q
    return LowRankEdit(V, None, None, 0.7, U=V @ torch.randn(K, K, generator=generator))


@pytest.mark.parametrize("layout", ["experts_out_in", "experts_in_out"])
def test_a_weighted_sum_of_experts_is_edited_as_each_of_them_is(layout: Layout, edit: LowRankEdit) -> None:
    generator = torch.Generator().manual_seed(1)
    W, b = torch.randn(E, D, D_IN, generator=generator), torch.randn(E, D, generator=generator)
    x, gates = torch.randn(E, D_IN, generator=generator), torch.rand(E, 1, generator=generator)

    def write(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return (gates * (torch.einsum("edi,ei->ed", weight, x) + bias)).sum(0)

    stored = W if layout == "experts_out_in" else W.transpose(1, 2)
    edited = edit_weight(stored.contiguous(), edit, layout)
    assert edited.shape == stored.shape
    back = edited if layout == "experts_out_in" else edited.transpose(1, 2)
    live = edit_output(write(W, b), None, edit)
    assert torch.allclose(write(back, edit_bias(b, edit)), live, atol=1e-5)
    assert (live - write(W, b)).abs().max() > 0.1


def test_an_edit_that_reads_the_output_is_stored(tmp_path: Path, edit: LowRankEdit) -> None:
    save_edit({"0.experts": edit}, tmp_path / "edit.safetensors")
    found = load_edit(tmp_path / "edit.safetensors")["0.experts"]
    assert found.A is None and found.c is None and found.U is not None and edit.U is not None
    assert torch.equal(found.V, edit.V) and torch.equal(found.U, edit.U) and found.strength == edit.strength


@pytest.mark.parametrize("name", ["gpt_oss", "mixtral", "granitemoe"])
def test_rounded_experts_are_the_baked_bfloat16_ones_to_the_bit(name: str, tmp_path: Path) -> None:
    found = planned(name, tmp_path / "base", torch.bfloat16)
    edit = found.planner.build(parameters("project", strength=0.8, n_layers=3))
    before = {key: value.clone() for key, value in found.handle.model.state_dict().items()}
    report = bake(found.handle.folder, edit, found.writers, tmp_path / "baked", provenance={})
    baked = AutoModelForCausalLM.from_pretrained(report.out, dtype=torch.bfloat16).eval()
    ids = torch.tensor([found.harmful_prompts[0].token_ids])
    with torch.inference_mode(), live_edit(found.handle, found.writers, edit, rounded=True):
        live = found.handle.model(input_ids=ids).logits
        assert torch.equal(live, baked(input_ids=ids).logits)
    after = found.handle.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items()), "the experts were not put back"


@pytest.mark.parametrize("name", ["gemma3", "gemma4 (experts)", "glm4"])
def test_behind_norms_the_stream_loses_the_directions_themselves(name: str, tmp_path: Path) -> None:
    found = planned(name, tmp_path)
    writer = found.writers[-1]
    edit = found.planner.build(parameters("project", n_layers=3))[writer.name]
    g = gain(found.handle.model, writer)
    assert (g - 1).abs().max() > 0.05
    R = found.directions["som"].vectors[writer.layer + 1, [0, 1]].T
    span = torch.linalg.qr(R).Q
    lost = torch.linalg.qr(in_stream(edit.V, found.handle.model, writer)).Q
    assert torch.allclose(span @ span.T, lost @ lost.T, atol=1e-4)
    assert not torch.allclose(span @ span.T, edit.V @ edit.V.T, atol=1e-2)


def test_routers_are_measured_before_and_after(tmp_path: Path) -> None:
    found = planned("deepseek_v3", tmp_path)
    edit = found.planner.build(parameters("project", n_layers=3))
    strong = measure_routing(found.handle, found.writers, edit, found.harmful_prompts[:3])
    assert [entry.writer for entry in strong] == ["1.experts", "2.experts"]
    assert all(entry.experts == 4 and 2 <= entry.reached <= 4 for entry in strong)
    assert strong[1].logit_change > 1e-3 and 0 < strong[1].switched <= 1
    none = measure_routing(found.handle, found.writers, {}, found.harmful_prompts[:3])
    assert all(entry.logit_change == 0 and entry.switched == 0 for entry in none)
    with pytest.raises(UsageError, match="there are none"):
        measure_routing(found.handle, found.writers, edit, [])


def test_a_model_without_experts_has_no_routers(tmp_path: Path) -> None:
    found = planned("llama", tmp_path)
    assert measure_routing(found.handle, found.writers, {}, found.harmful_prompts[:1]) == ()
