"""The adapter is the live edit: same logits in PEFT, same change of each weight; what a LoRA cannot hold is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sombrero.checkpoints import export_adapter, read_record, verify_folder
from sombrero.edits import live_edit
from sombrero.errors import CheckpointError, NumericalError
from sombrero.records import LowRankEdit, ModelHandle, Writer
from tests.checkpoints.bakes import PROVENANCE, random_edit, tiny_writers
from tests.tiny_models import FAMILIES, save_tiny, tiny_tokenizer

VLLM_FIELDS = {"bias": "none", "use_dora": False, "modules_to_save": None, "use_rslora": False}


def edit_of(writers: list[Writer]) -> dict[str, LowRankEdit]:
    """Ranks 1 and 3 on two layers; one more writer with nothing to do."""
    narrow, wide = random_edit(writers[2:4], rank=1), random_edit(writers[4:6], rank=3, strength=0.3)
    idle = {writers[6].name: replace(next(iter(narrow.values())), strength=0.0)}
    return narrow | wide | idle


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_it_and_gives_the_logits_of_the_live_edit(family: str, tmp_path: Path) -> None:
    import peft

    source = save_tiny(family, tmp_path / "base")
    writers = tiny_writers(source)
    edit = edit_of(writers)
    report = export_adapter(edit, writers, tmp_path / "adapter", base="tiny/base", provenance=PROVENANCE)
    model = AutoModelForCausalLM.from_pretrained(source)
    ids = torch.arange(24).reshape(2, 12)
    handle = ModelHandle(model, tiny_tokenizer(), "tiny", source)
    with torch.no_grad():
        plain = model(ids).logits
        with live_edit(handle, writers, edit):
            live = model(ids).logits
        adapted = peft.PeftModel.from_pretrained(model, report.out)
        found = adapted(ids).logits
        merged = adapted.merge_and_unload()(ids).logits
    assert float((live - plain).abs().max()) > 0.1
    assert torch.allclose(found, live, atol=1e-4) and torch.allclose(merged, live, atol=1e-4)


def test_the_layout_is_the_one_that_vllm_documents(tmp_path: Path) -> None:
    """vLLM itself is not run: its documented rules are read off the files."""
    source = save_tiny("llama", tmp_path / "base")
    writers = tiny_writers(source)
    edit = edit_of(writers)
    report = export_adapter(edit, writers, tmp_path / "adapter", base="tiny/base", revision="r1", provenance=PROVENANCE)
    config = json.loads((report.out / "adapter_config.json").read_text())
    assert {key: config[key] for key in VLLM_FIELDS} == VLLM_FIELDS
    assert config["r"] == 3 == report.rank and config["lora_alpha"] == config["r"]
    assert "rank_pattern" not in config and "alpha_pattern" not in config
    assert (config["base_model_name_or_path"], config["revision"]) == ("tiny/base", "r1")
    tensors = load_file(report.out / "adapter_model.safetensors")
    modules = {writer.module_path for writer in writers[2:6]}
    assert set(report.modules) == modules == set(config["target_modules"])
    assert set(tensors) == {f"base_model.model.{m}.lora_{x}.weight" for m in modules for x in "AB"}
    assert all(tensor.shape[0 if "lora_A" in name else 1] == 3 for name, tensor in tensors.items())
    for writer in writers[2:6]:
        change = edit[writer.name]
        product = (
            tensors[f"base_model.model.{writer.module_path}.lora_B.weight"]
            @ tensors[f"base_model.model.{writer.module_path}.lora_A.weight"]
        )
        assert torch.allclose(product, -change.strength * change.V @ change.A.T, atol=1e-5)
        assert torch.linalg.matrix_rank(product) == change.V.shape[1]
    record = read_record(report.out)
    assert record["kind"] == "adapter" and record["provenance"] == PROVENANCE and len(record["edited"]) == 4
    with safe_open(report.out / "adapter_model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["sombrero"]) == PROVENANCE
    assert set(verify_folder(report.out).files) == {"adapter_model.safetensors", "adapter_config.json"}


def test_what_a_lora_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    writers = tiny_writers(source, (1,))
    edit = random_edit(writers)
    first = writers[0].name
    cases: list[tuple[LowRankEdit, type[Exception], str]] = [
        (replace(edit[first], row_scale=torch.ones(32)), CheckpointError, "rescales whole rows"),
        (replace(edit[first], c=torch.ones(2)), CheckpointError, "shifts its bias"),
        (replace(edit[first], A=torch.ones(5, 2)), CheckpointError, "another model"),
        (replace(edit[first], strength=float("nan")), NumericalError, "not finite"),
    ]
    for change, error, message in cases:
        with pytest.raises(error, match=message):
            export_adapter({first: change}, writers, tmp_path / "out", base="b", provenance={})
    with pytest.raises(CheckpointError, match="changes nothing"):
        export_adapter({first: replace(edit[first], strength=0.0)}, writers, tmp_path / "out", base="b", provenance={})
    with pytest.raises(CheckpointError, match="no writers"):
        export_adapter({"9.mlp": edit[first]}, writers, tmp_path / "out", base="b", provenance={})
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    with pytest.raises(CheckpointError, match="taken"):
        export_adapter(edit, writers, source, base="b", provenance={})
