"""A bake is proved row by row; a number, a tensor or a file that is not what it should be is found and named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sombrero.checkpoints import CheckpointIndex, bake, verify_folder, verify_tensors
from sombrero.checkpoints.formats import edit_slices, find_codec, low_rank_slices
from sombrero.errors import CheckpointError
from sombrero.records import Writer
from tests.checkpoints.bakes import PROVENANCE, bake_tiny, random_edit, tiny_writers
from tests.checkpoints.stored import Memory, mxfp4, scaled
from tests.tiny_models import save_tiny


def replace_tensors(path: Path, change: dict[str, torch.Tensor]) -> None:
    """Write the file again with other tensors, and its metadata kept."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path) | change, path, metadata=metadata)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_bake_is_proved_and_a_single_wrong_row_is_found(dtype: torch.dtype, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", dtype=dtype, attention_bias=True)
    writers = tiny_writers(source, (1, 2))
    edit = random_edit(writers)
    scale = torch.linspace(0.5, 2.0, 32)
    edit[writers[0].name] = replace(edit[writers[0].name], row_scale=scale)
    out = bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE).out
    found = verify_tensors(source, out, edit, writers, rows=1000)
    assert 0 < found.worst <= 1 and found.rows == 4 * 32 + 2
    assert found.untouched + len(found.edited) == len(CheckpointIndex.read(source).tensors)
    sampled = verify_tensors(source, out, edit, writers, rows=5)
    assert sampled.rows == 4 * 5 + 2

    name = writers[1].weight_name
    weights = load_file(out / "model.safetensors")
    wrong = weights[name].clone()
    wrong[7] *= 1.05
    replace_tensors(out / "model.safetensors", {name: wrong})
    with pytest.raises(CheckpointError, match=f"{name}.*row 7"):
        verify_tensors(source, out, edit, writers, rows=1000)
    replace_tensors(out / "model.safetensors", {name: weights[name], "model.norm.weight": torch.ones(32, dtype=dtype)})
    with pytest.raises(CheckpointError, match=r"changed without an edit.*model\.norm\.weight"):
        verify_tensors(source, out, edit, writers)


@pytest.mark.parametrize("kind", ["mxfp4", "fp8", "int8"])
def test_a_quantized_bake_is_proved_within_the_rounding_of_its_format(kind: str, tmp_path: Path) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    tensors = {
        "mxfp4": mxfp4(weight[None]),
        "fp8": scaled(weight, (16, 16)),
        "int8": scaled(weight, (1, 64), dtype=torch.int8, suffix="_scale"),
    }[kind]
    writer = Writer("0.mlp", 0, "mlp", "w", "w", None, "linear", 64, 64)
    edit = random_edit([writer], strength=2.0)
    memory = Memory(tensors)
    change = low_rank_slices(edit["0.mlp"], rows_are_outputs=True)
    edit_slices(find_codec(memory.entries, "w"), memory.read, memory.write, change)
    for folder, content in (("base", tensors), ("out", {name: memory.tensor(name) for name in tensors})):
        (tmp_path / folder).mkdir()
        save_file({**content, "other": torch.ones(3)}, tmp_path / folder / "model.safetensors")
    found = verify_tensors(tmp_path / "base", tmp_path / "out", edit, [writer], rows=64)
    assert 0.3 < found.worst <= 1 and found.untouched >= 1
    with pytest.raises(CheckpointError, match="not the edit"):
        verify_tensors(tmp_path / "base", tmp_path / "out", random_edit([writer], strength=2.0, seed=1), [writer])


def test_the_hashes_of_a_folder_are_computed_again(tmp_path: Path) -> None:
    out = bake_tiny(save_tiny("qwen3", tmp_path / "base", max_shard_size="60KB"), tmp_path / "out").out
    (out / "notes.txt").write_text("mine")
    report = verify_folder(out)
    assert report.unrecorded == ("notes.txt",) and set(report.files) >= {"config.json", "tokenizer.json"}
    assert report.n_bytes == sum((out / name).stat().st_size for name in report.files)
    record = json.loads((out / "sombrero.json").read_text())
    (out / "sombrero.json").write_text(json.dumps(record | {"provenance": {"base": "another"}}))
    with pytest.raises(CheckpointError, match="another provenance"):
        verify_folder(out)
    (out / "sombrero.json").write_text(json.dumps(record))
    shard = sorted(out.glob("*.safetensors"))[0]
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    (out / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing") as failure:
        verify_folder(out)
    assert f"{shard.name} has another hash" in str(failure.value)
    with pytest.raises(CheckpointError, match="no baked checkpoint"):
        verify_folder(tmp_path / "base")
