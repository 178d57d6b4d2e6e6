"""GGUF in and out: the edit is in the writers, every other byte and all metadata as they were, loaders read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM

from sombrero.checkpoints import read_record, verify_folder
from sombrero.checkpoints.formats import MIN_SURVIVED
from sombrero.checkpoints.gguf import bake_gguf
from sombrero.checkpoints.gguf.codec import TARGETS, bits, target_kind
from sombrero.edits.kernels import edit_bias, edit_weight
from sombrero.errors import CheckpointError
from sombrero.records import LowRankEdit, Writer
from tests.checkpoints.bakes import PROVENANCE, random_edit, tiny_writers
from tests.tiny_models import N_LAYERS, WIDTH, save_tiny, tiny_model

Kind = GGMLQuantizationType
HEADS, KV_HEADS = 4, 2


def write_gguf(path: Path, kind: GGMLQuantizationType, extra: dict[str, np.ndarray] | None = None) -> Path:
    """A tiny llama in GGUF, its matrices in one type, with metadata of several kinds."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    state = tiny_model("llama").state_dict()
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, N_LAYERS)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(N_LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(state["model.embed_tokens.weight"].shape[0])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(state["model.embed_tokens.weight"].shape[0])])
    writer.add_array("numbers", [1.5, 2.5])
    writer.add_bool("flag", True)
    for name, tensor in state.items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None
        values = tensor.float().numpy()
        if values.ndim == 1 or "embed" in name or "lm_head" in name:
            writer.add_tensor(stored, values)
        else:
            writer.add_tensor(stored, quantize(values, kind), raw_dtype=kind)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def writers_and_edit(tmp_path: Path, **options: Any) -> tuple[list[Writer], dict[str, LowRankEdit]]:
    writers = tiny_writers(save_tiny("llama", tmp_path / "hf"))
    return writers, random_edit(writers[2:6], **options)


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata, and of each tensor its type and bytes."""
    reader = GGUFReader(path)
    fields = {
        name: (field.contents(), field.types) for name, field in reader.fields.items() if not name.startswith("GGUF.")
    }
    return fields, {t.name: (t.tensor_type, np.array(t.data)) for t in reader.tensors}


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q5_1, Kind.Q5_0, Kind.Q4_1, Kind.Q4_0])
def test_only_the_writers_change_and_by_the_edit(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf", kind)
    writers, edit = writers_and_edit(tmp_path, strength=0.5)
    report = bake_gguf(source, edit, writers, tmp_path / "out", provenance=PROVENANCE)
    (fields, before), (new_fields, after) = contents(source), contents(report.out)
    assert new_fields.pop("sombrero.provenance")[0].startswith("{") and new_fields == fields
    assert list(new_fields) == list(fields) and list(after) == list(before) and not report.retyped
    expected = {
        f"blk.{w.layer}.{'attn_output' if w.kind == 'attention' else 'ffn_down'}.weight": w for w in writers[2:6]
    }
    assert set(report.edited) == set(expected)
    for name, (stored, data) in before.items():
        assert after[name][0] == stored
        if name not in expected:
            assert data.tobytes() == after[name][1].tobytes()
            continue
        base = torch.from_numpy(dequantize(data, stored).astype(np.float32))
        wanted = edit_weight(base, edit[expected[name].name], "linear")
        found = torch.from_numpy(dequantize(after[name][1], stored).astype(np.float32))
        assert torch.equal(
            found, torch.from_numpy(dequantize(quantize(wanted.numpy(), stored), stored).astype(np.float32))
        )
        error = float((found - wanted).norm() / (wanted - base).norm())
        assert report.edited[name].relative_error == pytest.approx(error, rel=1e-3, abs=1e-6)
    assert report.survived > MIN_SURVIVED and report.untouched == len(before) - 4
    assert set(verify_folder(report.out.parent).files) == {"model.gguf"}

    plain, edited = (
        AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).state_dict()
        for path in (source, report.out)
    )
    changed = {name for name in plain if not torch.equal(plain[name], edited[name])}
    assert changed == {writer.weight_name for writer in writers[2:6]}


def test_a_type_that_can_be_read_alone_takes_the_next_larger() -> None:
    for kind in Kind:
        if kind.name.startswith(("Q", "IQ", "F", "BF")) and kind not in TARGETS:
            found = target_kind(kind, 256)
            assert found in TARGETS and (bits(found) > bits(kind) or found == Kind.F32)
    assert target_kind(Kind.Q4_K, 256) == Kind.Q4_1 and target_kind(Kind.Q6_K, 256) == Kind.Q8_0
    assert target_kind(Kind.Q6_K, 100) in (Kind.F16, Kind.BF16)
    assert all(target_kind(kind, 64) == kind for kind in TARGETS)


def test_k_quants_are_stored_in_another_type_and_that_is_said(tmp_path: Path) -> None:
    """A file of which one writer is Q6_K: 256 numbers a block, of which the package reads and does not write any."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (32, 210), dtype=np.uint8)
    blocks[:, 208:] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    path = tmp_path / "k.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("blk.0.ffn_down.weight", blocks, raw_dtype=Kind.Q6_K)
    writer.add_tensor("blk.0.ffn_norm.weight", np.ones(7, np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    target = Writer("0.mlp", 0, "mlp", "m", "model.layers.0.mlp.down_proj.weight", None, "linear", 256, 32)
    edit = random_edit([target])
    report = bake_gguf(path, edit, [target], tmp_path / "out", provenance={})
    assert dict(report.retyped) == {"blk.0.ffn_down.weight": ("Q6_K", "Q8_0")}
    assert read_record(tmp_path / "out")["retyped"] == {"blk.0.ffn_down.weight": ["Q6_K", "Q8_0"]}
    stored = contents(report.out)[1]
    base = torch.from_numpy(dequantize(blocks, Kind.Q6_K).astype(np.float32))
    found = torch.from_numpy(dequantize(stored["blk.0.ffn_down.weight"][1], Kind.Q8_0).astype(np.float32))
    wanted = edit_weight(base, edit["0.mlp"], "linear")
    assert (
        float((found - wanted).abs().max()) <= float(wanted.abs().max()) / 127 * 0.53
    )  # the scale of a block is a float16
    assert np.array_equal(stored["blk.0.ffn_norm.weight"][1], np.ones(7, np.float32))


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.BF16])
def test_experts_are_edited_each_by_what_it_writes(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(3, 32, 64, generator=generator), torch.randn(3, 32, generator=generator)
    path = tmp_path / "experts.gguf"
    writer = GGUFWriter(path, "gpt-oss")
    writer.add_block_count(1)
    stored = quantize(weight.numpy(), kind)
    writer.add_tensor("blk.0.ffn_down_exps.weight", stored, raw_dtype=kind)
    writer.add_tensor("blk.0.ffn_down_exps.bias", bias.numpy())
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    at = "model.layers.0.mlp.experts.down_proj"
    experts = Writer("0.experts", 0, "mlp", "m", at, f"{at}_bias", "experts_in_out", 64, 32, n_experts=3)
    V = torch.linalg.qr(torch.randn(32, 2, generator=generator)).Q
    edit = {"0.experts": LowRankEdit(V, None, None, 1.0, U=V)}
    report = bake_gguf(path, edit, [experts], tmp_path / "out", provenance={})
    found = contents(report.out)[1]
    base = torch.from_numpy(dequantize(stored, kind).astype(np.float32))
    numbers = torch.from_numpy(dequantize(found["blk.0.ffn_down_exps.weight"][1], kind).astype(np.float32))
    wanted = torch.stack([edit_weight(one, edit["0.experts"], "linear") for one in base])
    assert float((numbers - wanted).abs().max()) < 0.02 and float((wanted - base).abs().max()) > 0.5
    edited = torch.from_numpy(found["blk.0.ffn_down_exps.bias"][1].copy())
    assert torch.allclose(edited, edit_bias(bias, edit["0.experts"]), atol=1e-6)


def test_biases_a_second_bake_and_what_does_not_fit(tmp_path: Path) -> None:
    bias = np.linspace(-1, 1, WIDTH, dtype=np.float32)
    source = write_gguf(tmp_path / "model.gguf", Kind.Q8_0, {"blk.1.attn_output.bias": bias})
    writers, _ = writers_and_edit(tmp_path)
    first = replace(writers[2], bias_name="model.layers.1.self_attn.o_proj.bias")
    edit = {first.name: replace(random_edit([first])[first.name], c=torch.ones(2))}
    report = bake_gguf(source, edit, [first], tmp_path / "out", provenance={})
    found = contents(report.out)[1]["blk.1.attn_output.bias"][1]
    assert np.allclose(found, edit_bias(torch.from_numpy(bias), edit[first.name]).numpy())
    again = bake_gguf(report.out, edit, [first], tmp_path / "again", provenance={"base": "edited"})
    assert contents(again.out)[0]["sombrero.provenance"][0] == '{"base":"edited"}'
    assert bake_gguf(source, edit, [first], tmp_path / "out", provenance={}, overwrite=True).out == report.out

    cases: list[tuple[dict[str, LowRankEdit], Writer, str]] = [
        (edit, replace(first, weight_name="model.layers.9.self_attn.o_proj.weight"), "no tensor for"),
        (edit, replace(first, d_in=64), "expects"),
        (edit, replace(first, bias_name=None), "moves its bias"),
        ({"9.mlp": edit[first.name]}, first, "no writers"),
        ({first.name: replace(edit[first.name], c=None, strength=1e-7)}, first, "of the edit"),
    ]
    for change, writer, message in cases:
        with pytest.raises(CheckpointError, match=message):
            bake_gguf(source, change, [writer], tmp_path / "none", provenance={})
    assert not (tmp_path / "none").exists()
    faint = bake_gguf(source, cases[-1][0], [first], tmp_path / "faint", provenance={}, accept_error=True)
    assert faint.survived < MIN_SURVIVED
    (tmp_path / "bad.gguf").write_bytes(source.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"bad\.gguf"):
        bake_gguf(tmp_path / "bad.gguf", edit, [first], tmp_path / "none", provenance={})
    with pytest.raises(CheckpointError, match="taken"):
        bake_gguf(source, edit, [first], tmp_path, provenance={})
