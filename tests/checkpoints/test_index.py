"""Headers and indexes: true ones are read in full, damaged and hostile ones are refused by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sombrero.checkpoints import CheckpointIndex
from sombrero.checkpoints.index import INDEX_NAME, SINGLE_NAME
from sombrero.errors import CheckpointError
from tests.tiny_models import FAMILIES, save_tiny


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shard", [None, "60KB"])
def test_offsets_lead_to_the_bytes_that_safetensors_reads(family: str, shard: str | None, tmp_path: Path) -> None:
    folder = save_tiny(family, tmp_path, max_shard_size=shard, dtype=torch.bfloat16)
    index = CheckpointIndex.read(folder)
    assert (len(index.files) > 1) == (shard is not None) == (index.index_name is not None)
    seen = set()
    for file in index.files:
        for name, tensor in load_file(folder / file.name).items():
            entry = index.tensors[name]
            raw = (folder / file.name).read_bytes()[entry.begin : entry.end]
            assert raw == tensor.flatten().view(torch.uint8).numpy().tobytes()
            assert (entry.file, entry.shape, entry.dtype) == (file.name, tuple(tensor.shape), "BF16")
            seen.add(name)
        with safe_open(folder / file.name, "pt") as handle:
            assert dict(file.metadata) == handle.metadata()
    assert seen == set(index.tensors)


def write_raw(path: Path, header: object, data: bytes = b"") -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape if shape is not None else [(end - begin) // 4], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, b"x" * 12, "'b'.*overlaps"),
        ({"a": entry(0, 8), "b": entry(12, 16)}, b"x" * 16, "'b'.*hole"),
        ({"a": entry(0, 8)}, b"x" * 7, "truncated"),
        ({"a": entry(0, 8)}, b"x" * 9, "belong to no tensor"),
        ({"a": entry(0, 8, [3])}, b"x" * 8, "takes 12 bytes"),
        ({"a": entry(0, 8, [2, True])}, b"x" * 8, "list of counts"),
        ({"a": entry(0, 8, [-2])}, b"x" * 8, "list of counts"),
        ({"a": entry(8, 0, [2])}, b"x" * 8, "rising"),
        ({"a": entry(0, 8, dtype="F33")}, b"x" * 8, "unknown dtype 'F33'"),
        ({"a": {**entry(0, 8), "extra": 1}}, b"x" * 8, "alone"),
        ({"a": 3}, b"", "alone"),
        ({"__metadata__": {"k": 1}}, b"", "strings to strings"),
        ([], b"", "not an object"),
        (b'{"a":1,"a":2}', b"", "twice"),
        (b"\xff\xfe{}", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
    ],
)
def test_a_damaged_header_is_refused(header: object, data: bytes, message: str, tmp_path: Path) -> None:
    write_raw(tmp_path / SINGLE_NAME, header, data)
    with pytest.raises(CheckpointError, match=message):
        CheckpointIndex.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x01", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{}"])
def test_a_file_that_is_too_short_for_its_header_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / SINGLE_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated"):
        CheckpointIndex.read(tmp_path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_a_truncated_shard_is_named(keep: float, tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path, max_shard_size="60KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    os.truncate(shard, int(shard.stat().st_size * keep))
    with pytest.raises(CheckpointError, match=shard.name):
        CheckpointIndex.read(folder)


def change_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / INDEX_NAME).read_text())
    change(content["weight_map"])
    (folder / INDEX_NAME).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "file",
    [
        "/etc/passwd.safetensors",
        "../base.safetensors",
        "sub/model.safetensors",
        "..\\base.safetensors",
        "C:\\base.safetensors",
        ".safetensors",
        "a\0.safetensors",
        "pytorch_model.bin",
        "",
        7,
        None,
    ],
)
def test_an_index_names_plain_files_alone(file: object, tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "base", max_shard_size="60KB")
    save_file({"model.norm.weight": torch.ones(32)}, tmp_path / "base.safetensors")
    change_index(folder, lambda weight_map: weight_map.update({"model.norm.weight": file}))
    with pytest.raises(CheckpointError, match="plain"):
        CheckpointIndex.read(folder)


def test_the_index_and_the_headers_must_agree(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path, max_shard_size="60KB")
    original = (folder / INDEX_NAME).read_text()
    change_index(folder, lambda weight_map: weight_map.update({"ghost": next(iter(weight_map.values()))}))
    with pytest.raises(CheckpointError, match="ghost"):
        CheckpointIndex.read(folder)
    (folder / INDEX_NAME).write_text(original)
    change_index(folder, lambda weight_map: weight_map.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        CheckpointIndex.read(folder)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path, max_shard_size="60KB")
    gone = sorted(folder.glob("*.safetensors"))[0]
    gone.unlink()
    with pytest.raises(CheckpointError, match=gone.name):
        CheckpointIndex.read(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}', "[" * 100_000])
def test_an_index_that_is_no_index_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        CheckpointIndex.read(tmp_path)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    torch.save(load_file(folder / SINGLE_NAME), folder / "pytorch_model.bin")
    assert CheckpointIndex.read(folder).files[0].name == SINGLE_NAME
    (folder / SINGLE_NAME).unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*save_pretrained"):
        CheckpointIndex.read(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="neither"):
        CheckpointIndex.read(folder)


def test_links_are_followed_inside_the_hub_cache_alone(tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "rev", repository / "blobs"
    save_tiny("llama", snapshot, max_shard_size="60KB")
    blobs.mkdir()
    for i, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / str(i))
        path.symlink_to(Path("../../blobs") / str(i))
    assert len(CheckpointIndex.read(snapshot).files) > 1

    outside = tmp_path / "outside"
    shard = sorted(snapshot.glob("*.safetensors"))[0]
    shard.resolve().rename(outside)
    shard.unlink()
    shard.symlink_to(outside)
    with pytest.raises(CheckpointError, match="links out"):
        CheckpointIndex.read(snapshot)
