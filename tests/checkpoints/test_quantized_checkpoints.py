"""Quantized checkpoints that transformers itself loads: edited in their format, or kept in bfloat16 beside the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, PreTrainedModel

from sombrero.checkpoints import CheckpointIndex
from sombrero.checkpoints.formats import (
    Requantization,
    dense_forms,
    edit_slices,
    find_codec,
    leave_out,
    low_rank_slices,
    pieces,
    reads_of_outputs,
)
from sombrero.checkpoints.formats.mxfp4 import encode_blocks
from sombrero.checkpoints.reading import TensorReader, stored_weights
from sombrero.edits.kernels import edit_weight
from sombrero.errors import CheckpointError
from sombrero.records import LowRankEdit
from tests.checkpoints.stored import Memory, scaled
from tests.tiny_models import tiny_model

Tensors = dict[str, torch.Tensor]
LAYER = "model.layers.1.mlp"


def save(folder: Path, model: PreTrainedModel, tensors: Tensors, quantization: dict[str, Any]) -> Path:
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"quantization_config": quantization, "architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def gpt_oss(folder: Path) -> Path:
    """A tiny gpt-oss as it is published: experts in MXFP4, the rest in bfloat16."""
    config = GptOssConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=3,
        num_experts_per_tok=2,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = GptOssForCausalLM(config)
    tensors: Tensors = {}
    for name, weight in model.state_dict().items():
        values = torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(tensors))) * 0.1
        if name.endswith(("gate_up_proj", "down_proj")):
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = encode_blocks(values.transpose(1, 2).contiguous())
        else:
            tensors[name] = values.bfloat16()
    return save(folder, model, tensors, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})


def llama(folder: Path, quantize: Callable[[torch.Tensor], Tensors], quantization: dict[str, Any]) -> Path:
    """The tiny llama with the linear layers of its blocks quantized; ``quantize`` gives ``w`` and its scales."""
    model = tiny_model("llama")
    tensors: Tensors = {}
    for name, weight in model.state_dict().items():
        if weight.dim() == 2 and ".layers." in name:
            tensors |= {name + key.removeprefix("w"): tensor for key, tensor in quantize(weight).items()}
        else:
            tensors[name] = weight.bfloat16()
    return save(folder, model, tensors, quantization)


def compressed(kind: str, strategy: str) -> dict[str, Any]:
    numbers = {"num_bits": 8, "type": kind, "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**numbers, "strategy": strategy, "dynamic": False},
        "input_activations": {**numbers, "strategy": "token", "dynamic": True},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized" if kind == "float" else "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


def fp8_blocks(folder: Path) -> Path:
    settings = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    return llama(folder, lambda w: scaled(w, (16, 16)), settings)


def fp8_rows(folder: Path) -> Path:
    return llama(folder, lambda w: scaled(w, (1, w.shape[1]), suffix="_scale"), compressed("float", "channel"))


def int8_rows(folder: Path) -> Path:
    quantize = lambda w: scaled(w, (1, w.shape[1]), suffix="_scale", dtype=torch.int8)  # noqa: E731
    return llama(folder, quantize, compressed("int", "channel"))


FORMATS = (gpt_oss, fp8_blocks, fp8_rows, int8_rows)
SAVED = {
    "U8": torch.uint8,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
}


def tensors_of(folder: Path) -> Tensors:
    index = CheckpointIndex.read(folder)
    with TensorReader(index) as reader:
        return {
            name: torch.frombuffer(reader.read(name, 0, entry.n_bytes), dtype=torch.uint8)
            .view(SAVED[entry.dtype])
            .reshape(entry.shape)
            for name, entry in index.tensors.items()
        }


def written(folder: Path) -> tuple[str, torch.Tensor]:
    """The writer to edit, and its decoded weight ``(matrices, outputs, inputs)``."""
    index = CheckpointIndex.read(folder)
    name = f"{LAYER}.experts.down_proj" if "gpt" in folder.name else f"{LAYER}.down_proj.weight"
    codec = find_codec(index.tensors, name)
    with TensorReader(index) as reader:
        rows = [codec.decode(codec.read(reader.read, piece)) for piece in pieces(codec, 1 << 20)]
    return name, torch.cat(rows).reshape(codec.n_matrices, codec.n_rows, codec.n_columns)


def bake(folder: Path, out: Path, edits: list[LowRankEdit], *, dense: bool) -> Requantization:
    """Edit the writer of ``folder`` in its own format, or store it dense."""
    name, _ = written(folder)
    tensors = tensors_of(folder)
    source = Memory(tensors)
    change = low_rank_slices(edits, rows_are_outputs=True)
    config = json.loads((folder / "config.json").read_text())
    if dense:
        forms = dense_forms(source.entries, name)
        results = {}
        for form in forms:
            target = Memory({form.weight_name: torch.zeros(form.into.tensors[0].shape, dtype=torch.bfloat16)})
            this = change if form.weight_name == name else lambda rows, piece: rows.clone()
            results[form.weight_name] = edit_slices(
                form.codec, source.read, target.write, this, into=form.into, max_elements=1
            )
            tensors = {key: t for key, t in tensors.items() if key not in form.replaced}
            tensors[form.weight_name] = target.tensor(form.weight_name)
        found = results[name]
        config = leave_out(config, [form.module for form in forms])
    else:
        target = Memory(tensors)
        found = edit_slices(find_codec(source.entries, name), source.read, target.write, change)
        tensors = {key: target.tensor(key) for key in tensors}
    out.mkdir()
    (out / "config.json").write_text(json.dumps(config))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return found


def load(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert bool(torch.isfinite(model(torch.arange(9)[None]).logits).all())  # compressed-tensors decompresses here
    return model


@pytest.mark.parametrize("made", FORMATS)
@pytest.mark.parametrize("dense", [False, True])
def test_transformers_loads_the_edited_weight(made: Callable[[Path], Path], dense: bool, tmp_path: Path) -> None:
    source = made(tmp_path / made.__name__)
    name, weight = written(source)
    V = torch.linalg.qr(torch.randn(weight.shape[1], 1, generator=torch.Generator().manual_seed(1))).Q
    edits = [LowRankEdit(V, W.T @ V, None, 1.0) for W in weight]
    found = bake(source, tmp_path / "out", edits, dense=dense)
    before, after = load(source).state_dict(), load(tmp_path / "out").state_dict()
    assert set(before) - set(after) <= {f"{name}_scale"}  # compressed-tensors keeps a layer's scales once loaded
    loaded = after[name].float()
    loaded = loaded.transpose(1, 2) if made is gpt_oss else loaded[None]
    wanted = torch.stack([edit_weight(W, edit, "linear") for W, edit in zip(weight, edits, strict=True)])
    assert float((loaded - wanted).norm() / (wanted - weight).norm()) == pytest.approx(found.relative_error, abs=0.05)
    assert found.relative_error < (0.03 if dense else 1.0) and found.survived > (0.99 if dense else 0.15)
    others = [key for key in before if not key.startswith(name.rpartition(".")[0])]
    assert all(torch.equal(before[key], after[key]) for key in others)


def test_what_an_edit_reads_off_the_outputs_is_found_expert_by_expert(tmp_path: Path) -> None:
    source = gpt_oss(tmp_path / "gpt_oss")
    name, weight = written(source)
    U = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    index = CheckpointIndex.read(source)
    with TensorReader(index) as reader:
        found = reads_of_outputs(find_codec(index.tensors, name), reader.read, U, max_elements=500)
    assert all(torch.allclose(A, W.T @ U, atol=1e-4) for A, W in zip(found, weight, strict=True))


def test_every_stored_tensor_belongs_to_one_weight(tmp_path: Path) -> None:
    for made in FORMATS:
        index = CheckpointIndex.read(made(tmp_path / made.__name__))
        names = [entry.name for weight in stored_weights(index) for entry in weight.tensors]
        assert sorted(names) == sorted(index.tensors)


def test_a_method_without_a_list_of_modules_is_refused() -> None:
    with pytest.raises(CheckpointError, match="gptq"):
        leave_out({"quantization_config": {"quant_method": "gptq"}}, ["m"])
    with pytest.raises(CheckpointError, match="None"):
        leave_out({}, ["m"])
    config = {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["a"]}}
    assert leave_out(config, ["b", "b", "a"])["quantization_config"]["modules_to_not_convert"] == ["a", "b"]
    assert config["quantization_config"]["modules_to_not_convert"] == ["a"]
