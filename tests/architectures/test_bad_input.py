"""What is wrong with a model, an entry or a checkpoint is said before anything is edited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sombrero.architectures import Architecture, find_architecture, get_layers, resolve_writers
from sombrero.architectures.spec import WriterSpec
from sombrero.checkpoints import bake
from sombrero.edits import account_residuals
from sombrero.errors import ArchitectureError, CheckpointError, CoverageError
from sombrero.records import LowRankEdit, ModelEdit, ModelHandle, Writer
from tests.planned import HARMFUL, rendered
from tests.tiny_architectures import save_tiny_architecture, tiny_architecture
from tests.tiny_models import WIDTH, tiny_model, tiny_tokenizer


def changed(entry: Architecture, index: int, **fields: Any) -> Architecture:
    """The entry with a writer that says something else."""
    writer = WriterSpec.model_validate(entry.writers[index].model_dump() | fields)
    return entry.model_copy(update={"writers": (*entry.writers[:index], writer, *entry.writers[index + 1 :])})


def account(name: str, entry: Architecture) -> float:
    """Largest error of the accounting with this entry."""
    model = tiny_architecture(name)
    handle = ModelHandle(model, tiny_tokenizer(), name, Path())
    found = account_residuals(handle, entry, resolve_writers(model, entry), rendered(HARMFUL, "h")[:2])
    return max(layer.relative_error for layer in found)


def entry_of(name: str) -> Architecture:
    return find_architecture(tiny_architecture(name))


def everywhere(writers: tuple[Writer, ...]) -> ModelEdit:
    """An edit of every writer that reads the output."""
    V = torch.linalg.qr(torch.randn(WIDTH, 2)).Q
    return {writer.name: LowRankEdit(V, None, None, 1.0, U=V) for writer in writers}


def test_an_entry_that_claims_what_is_no_writer_is_named() -> None:
    entry = entry_of("llama")
    extra = WriterSpec(
        kind="attention", name="value", module="self_attn.q_proj", layout="linear",
        weight="model.layers.{layer}.self_attn.q_proj.weight", bias="model.layers.{layer}.self_attn.q_proj.bias",
    )  # fmt: skip
    with pytest.raises(CoverageError, match=r"claims \d\.value, which is no writer"):
        account("llama", entry.model_copy(update={"writers": (*entry.writers, extra)}))


def test_a_writer_that_is_left_out_is_missed() -> None:
    entry = entry_of("qwen3_next")
    without = entry.model_copy(update={"writers": tuple(w for w in entry.writers if w.label != "shared_experts")})
    with pytest.raises(CoverageError, match="misses a writer"):
        account("qwen3_next", without)


@pytest.mark.parametrize(
    ("name", "index", "fields"),
    [
        ("gemma3", 0, {"post_norms": [{"module": "post_attention_layernorm"}]}),
        ("olmo2", 0, {"post_norms": [{"module": "post_attention_layernorm", "offset": 1.0}]}),
        ("granite", 1, {"scale": None}),
        ("qwen3_next", 4, {"gate": None}),
    ],
)
def test_a_wrong_norm_scale_or_gate_does_not_account(name: str, index: int, fields: dict[str, Any]) -> None:
    with pytest.raises(CoverageError):
        account(name, changed(entry_of(name), index, **fields))


def test_a_layer_scale_that_is_left_out_does_not_account() -> None:
    name = "gemma4 (multimodal)"
    with pytest.raises(CoverageError):
        account(name, entry_of(name).model_copy(update={"layer_scale": None}))


def test_a_writer_that_its_layer_lacks_is_named() -> None:
    model = tiny_architecture("qwen3_5")
    entry = changed(find_architecture(model), 0, where=[])
    with pytest.raises(ArchitectureError, match=r"2 writers cannot be found: .*layers\.0\.self_attn\.o_proj"):
        resolve_writers(model, entry)


def test_a_condition_on_a_list_that_is_too_short_is_an_error() -> None:
    model = tiny_architecture("qwen3_5")
    model.config.layer_types = model.config.layer_types[:2]
    with pytest.raises(ArchitectureError, match="layer_types has 2 entries and says nothing of layer 2"):
        resolve_writers(model, find_architecture(model))


def test_a_layer_count_that_disagrees_in_a_wrapper_is_an_error() -> None:
    model = tiny_architecture("qwen3_5 (multimodal)")
    del model.model.language_model.layers[2]
    with pytest.raises(ArchitectureError, match="says 3 layers, the model has 2"):
        get_layers(model, find_architecture(model))


def test_tied_embeddings_are_not_edited() -> None:
    model = tiny_model("llama", tie=True)
    model.model.layers[1].self_attn.o_proj = model.lm_head
    with pytest.raises(ArchitectureError, match="is that of the embeddings"):
        resolve_writers(model, find_architecture(model))


def test_two_writers_of_one_name_are_an_error() -> None:
    entry = entry_of("llama")
    with pytest.raises(ArchitectureError, match="same name"):
        resolve_writers(tiny_architecture("llama"), changed(entry, 1, kind="attention"))


def test_a_scale_that_the_configuration_lacks_is_an_error() -> None:
    with pytest.raises(ArchitectureError, match="no number at nothing"):
        resolve_writers(tiny_architecture("granite"), changed(entry_of("granite"), 0, scale="nothing"))


@pytest.mark.parametrize("cut", ["shape", "missing", "extra"])
def test_experts_that_are_not_alike_are_named(cut: str, tmp_path: Path) -> None:
    folder = save_tiny_architecture("qwen3_moe", tmp_path / "base")
    model = tiny_architecture("qwen3_moe")
    writers = resolve_writers(model, find_architecture(model))
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.experts.2.down_proj.weight"
    if cut == "shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    elif cut == "missing":
        del tensors[name]
    else:
        name = "model.layers.1.mlp.experts.4.down_proj.weight"
        tensors[name] = tensors["model.layers.1.mlp.experts.0.down_proj.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        bake(folder, everywhere(writers), writers, tmp_path / "out", provenance={})


def test_an_edit_that_reads_inputs_does_not_fit_experts(tmp_path: Path) -> None:
    folder = save_tiny_architecture("gpt_oss", tmp_path / "base")
    model = tiny_architecture("gpt_oss")
    writers = resolve_writers(model, find_architecture(model))
    experts = next(writer for writer in writers if writer.n_experts)
    edit = {experts.name: LowRankEdit(torch.ones(WIDTH, 1), torch.ones(experts.d_in, 1), None, 1.0)}
    with pytest.raises(CheckpointError, match="its 4 experts have each their own"):
        bake(folder, edit, writers, tmp_path / "out", provenance={})


def test_other_spellings_of_a_checkpoint_are_found(tmp_path: Path) -> None:
    """Experts joined in one tensor, under the prefix of the multimodal wrapper."""
    folder = save_tiny_architecture("qwen3_5_moe", tmp_path / "base")
    model = tiny_architecture("qwen3_5_moe")
    writers = resolve_writers(model, find_architecture(model))
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensors[name.replace("model.layers", "model.language_model.layers")] = tensor
    for layer in range(3):
        base = f"model.language_model.layers.{layer}.mlp.experts."
        parts = [tensors.pop(f"{base}{expert}.down_proj.weight") for expert in range(4)]
        tensors[base + "down_proj"] = torch.stack(parts)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    report = bake(folder, everywhere(writers), writers, tmp_path / "out", provenance={})
    assert len(report.edited) == len(writers) == 9
    edited = load_file(tmp_path / "out" / "model.safetensors")
    for layer in range(3):
        name = f"model.language_model.layers.{layer}.mlp.experts.down_proj"
        assert edited[name].shape == tensors[name].shape and not torch.equal(edited[name], tensors[name])


@pytest.mark.parametrize(
    "fields",
    [
        {"where": [{}]},
        {"where": [{"key": "a", "module": "b"}]},
        {"where": [{"module": "b", "values": ["c"]}]},
        {"layout": "experts_out_in"},
        {"router": "mlp.gate"},
    ],
)
def test_an_entry_that_contradicts_itself_fails(fields: dict[str, Any]) -> None:
    entry = json.loads(entry_of("llama").writers[0].model_dump_json(exclude_none=True))
    with pytest.raises(ValueError, match=r"condition names either|needs a router"):
        WriterSpec.model_validate(entry | fields)
