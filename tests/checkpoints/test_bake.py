"""Bakes: equal to the edit in memory, bit-identical elsewhere, whole or absent, and the same bytes every time."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sombrero.checkpoints import CheckpointIndex, bake, read_record, rewrite, slices, transfer, verify_untouched
from sombrero.checkpoints.index import INDEX_NAME, SINGLE_NAME
from sombrero.edits.kernels import edit_bias, edit_weight
from sombrero.errors import CheckpointError, NumericalError
from sombrero.records import LowRankEdit, Writer
from tests.checkpoints.bakes import PROVENANCE, bake_tiny, random_edit, tiny_writers, tree
from tests.tiny_models import FAMILIES, FAMILIES_WITH_OUTPUT_BIAS, save_tiny, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shard", [None, "60KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_baked_model_is_the_edited_model(family: str, shard: str | None, dtype: torch.dtype, tmp_path: Path) -> None:
    bias = family in FAMILIES_WITH_OUTPUT_BIAS
    source = save_tiny(
        family, tmp_path / "base", max_shard_size=shard, dtype=dtype, tie=family == "qwen2", attention_bias=bias
    )
    writers = tiny_writers(source)
    edit = random_edit(writers[2:6])
    report = bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE)

    model = AutoModelForCausalLM.from_pretrained(source)
    modules = dict(model.named_modules())
    expected = set()
    with torch.no_grad():
        for writer in writers[2:6]:
            linear = modules[writer.module_path]
            linear.weight.copy_(edit_weight(linear.weight, edit[writer.name], "linear"))
            expected.add(writer.weight_name)
            if writer.bias_name:
                linear.bias.copy_(edit_bias(linear.bias, edit[writer.name]))
                expected.add(writer.bias_name)
    baked = AutoModelForCausalLM.from_pretrained(report.out)
    assert baked.dtype == dtype
    baked_state, state = baked.state_dict(), model.state_dict()
    assert set(baked_state) == set(state)
    for name, tensor in state.items():
        assert torch.equal(baked_state[name], tensor), name

    assert set(report.edited) == expected == set(report.energy) and not report.rounded_away
    assert report.untouched == len(CheckpointIndex.read(source).tensors) - len(expected)
    assert set(verify_untouched(source, report.out, report.edited).edited) == expected
    original = AutoModelForCausalLM.from_pretrained(source).state_dict()
    for name, energy in report.energy.items():
        before, after = original[name].double(), state[name].double()
        assert energy == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-6)
    assert AutoTokenizer.from_pretrained(report.out)("a b").input_ids == tiny_tokenizer()("a b").input_ids


@pytest.mark.parametrize("shard", [None, "60KB"])
def test_files_keep_their_order_format_and_companions(shard: str | None, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", max_shard_size=shard)
    (source / "licences" / "deep").mkdir(parents=True)
    (source / "licences" / "deep" / "LICENSE").write_text("free")
    (source / "README.md").write_text("# Base")
    (source / "pytorch_model.bin").write_bytes(b"the unedited model")
    (source / "original").mkdir()
    save_file({"x": torch.ones(2)}, source / "original" / "consolidated.safetensors")
    report = bake_tiny(source, tmp_path / "out")
    assert report.left_out == ("original/consolidated.safetensors", "pytorch_model.bin")
    before, after = tree(source), tree(report.out)
    weights = {file.name for file in CheckpointIndex.read(source).files}
    assert set(after) == set(before) - set(report.left_out) - {"README.md"} | {"README.base.md", "sombrero.json"}
    assert after["README.base.md"] == before["README.md"]
    assert all(after[name] == before[name] for name in after if name in before and name not in weights)
    assert {name: after[name] for name in report.sha256} == report.sha256
    assert set(report.sha256) == set(after) - {"sombrero.json"}
    for name in weights:
        with safe_open(source / name, "pt") as old, safe_open(report.out / name, "pt") as new:
            assert new.metadata()["format"] == "pt"
            assert json.loads(new.metadata()["sombrero"]) == PROVENANCE
            assert old.offset_keys() == new.offset_keys()
    record = read_record(report.out)
    assert record["provenance"] == PROVENANCE
    assert {name: item["bytes"] for name, item in record["source"].items()} == {
        name: (source / name).stat().st_size for name in weights
    }
    assert {item["tensor"] for item in record["edited"]} == set(report.edited)
    assert str(tmp_path) not in (report.out / "sombrero.json").read_text()


def test_a_snapshot_of_links_bakes_to_files(tmp_path: Path) -> None:
    plain = save_tiny("qwen3", tmp_path / "plain", max_shard_size="60KB")
    repository = tmp_path / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "rev", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in plain.iterdir():
        (blobs / f"blob-{path.name}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob-{path.name}")
    report = bake_tiny(snapshot, tmp_path / "out")
    assert not any(path.is_symlink() for path in report.out.rglob("*"))
    assert tree(report.out) == tree(bake_tiny(plain, tmp_path / "out2").out)


@pytest.mark.parametrize("name", ["tokenizer.json", "nested"])
def test_a_link_out_of_the_source_is_not_published(name: str, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    private = tmp_path / "private"
    private.mkdir()
    (private / "key").write_text("secret")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(private / "key" if name == "tokenizer.json" else private)
    with pytest.raises(CheckpointError, match="link"):
        bake_tiny(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_transposed_weight_and_a_foreign_tensor(tmp_path: Path) -> None:
    source = tmp_path / "base"
    source.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "h.0.attn.c_proj.weight": torch.randn(6, 4, generator=generator),
        "h.0.attn.c_proj.bias": torch.randn(4, generator=generator),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "ids": torch.arange(5),
        "packed": torch.arange(7, dtype=torch.uint8),
    }
    save_file(tensors, source / SINGLE_NAME)  # no metadata at all
    weight, bias = "h.0.attn.c_proj.weight", "h.0.attn.c_proj.bias"
    writer = Writer("0.attention", 0, "attention", "h.0.attn.c_proj", weight, bias, "conv1d", 6, 4)
    edit = random_edit([writer])
    report = bake(source, edit, [writer], tmp_path / "out", provenance={})
    baked = load_file(report.out / SINGLE_NAME)
    assert torch.equal(baked[weight], edit_weight(tensors[weight], edit[writer.name], "conv1d"))
    assert torch.equal(baked[bias], edit_bias(tensors[bias], edit[writer.name]))
    assert all(torch.equal(baked[name], tensors[name]) for name in ("scalar", "empty", "ids", "packed"))

    packed = replace(writer, weight_name="packed", bias_name=None, d_in=7, d_out=1, layout="linear")
    save_file({"packed": torch.zeros(1, 7, dtype=torch.uint8)}, source / SINGLE_NAME)
    with pytest.raises(CheckpointError, match="stored as U8"):
        bake(source, random_edit([packed], rank=1), [packed], tmp_path / "out2", provenance={})


def test_an_edit_that_does_nothing_touches_nothing(tmp_path: Path) -> None:
    source = save_tiny("mistral", tmp_path / "base", dtype=torch.bfloat16)
    writers = tiny_writers(source, (1,))
    edit = random_edit(writers)
    none = {name: replace(change, strength=0.0) for name, change in edit.items()}
    report = bake(source, none, writers, tmp_path / "none", provenance=PROVENANCE)
    assert report.edited == () == report.rounded_away
    faint = {name: replace(change, strength=1e-9) for name, change in edit.items()}
    report = bake(source, faint, writers, tmp_path / "faint", provenance=PROVENANCE)
    assert report.edited == () and len(report.rounded_away) == 2
    verify_untouched(source, report.out, report.edited)


def test_rows_are_rescaled_where_nothing_is_removed(tmp_path: Path) -> None:
    """A writer's weight and bias, and no other tensor; two edits that differ in nothing else are two bakes."""
    source = save_tiny("llama", tmp_path / "base", attention_bias=True)
    writers = tiny_writers(source, (1,))
    scale = torch.linspace(0.5, 2.0, 32)
    edit = {name: replace(change, strength=0.0, row_scale=scale) for name, change in random_edit(writers).items()}
    report = bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, report.out))
    assert set(report.edited) == {w.weight_name for w in writers} | {w.bias_name for w in writers if w.bias_name}
    for name in report.edited:
        rows = scale[:, None] if name.endswith("weight") else scale
        assert torch.equal(after[name], before[name] * rows)
    verify_untouched(source, report.out, report.edited)
    other = {name: replace(change, row_scale=scale.flip(0)) for name, change in edit.items()}
    with pytest.raises(CheckpointError, match="holds another bake"):
        bake(source, other, writers, tmp_path / "out", provenance=PROVENANCE)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", dtype=torch.float16)
    writers = tiny_writers(source, (1,))
    edit = random_edit(writers)
    first = writers[0]
    cases: list[tuple[dict[str, LowRankEdit], list[Writer], type[Exception], str]] = [
        ({"9.mlp": edit[first.name]}, writers, CheckpointError, r"9\.mlp.*no writers"),
        (edit, [replace(first, weight_name="gone.weight"), writers[1]], CheckpointError, r"gone\.weight"),
        (edit, [replace(first, bias_name="gone.bias"), writers[1]], CheckpointError, r"gone\.bias"),
        (edit, [*writers, first], CheckpointError, "given twice"),
        (edit, [replace(first, d_in=64), writers[1]], CheckpointError, "expects"),
        (edit, [first, replace(first, name="twin")], CheckpointError, "no writers"),
        ({first.name: edit["1.mlp"]}, writers, CheckpointError, "another model"),
        ({first.name: replace(edit[first.name], c=torch.ones(2))}, writers, CheckpointError, "has no bias"),
        ({first.name: replace(edit[first.name], A=edit[first.name].A / 0)}, writers, NumericalError, "not finite"),
        (
            {first.name: replace(edit[first.name], row_scale=torch.ones(3))},
            writers,
            CheckpointError,
            "rescales rows by",
        ),
        (
            {first.name: replace(edit[first.name], row_scale=torch.full((32,), torch.inf))},
            writers,
            NumericalError,
            "not finite",
        ),
        ({first.name: replace(edit[first.name], strength=float("nan"))}, writers, NumericalError, "not finite"),
        ({first.name: replace(edit[first.name], strength=1e7)}, writers, NumericalError, "not finite after"),
    ]
    for change, known, error, message in cases:
        with pytest.raises(error, match=message):
            bake(source, change, known, tmp_path / "out", provenance=PROVENANCE)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
    twins = [first, replace(first, name="twin")]
    with pytest.raises(CheckpointError, match="both are edited"):
        bake(source, random_edit(twins), twins, tmp_path / "out", provenance=PROVENANCE)
    with pytest.raises(CheckpointError, match="plain JSON"):
        bake(source, edit, writers, tmp_path / "out", provenance={"x": object()})
    zero = {first.name: replace(edit[first.name], c=torch.zeros(2))}
    assert len(bake(source, zero, writers, tmp_path / "out", provenance=PROVENANCE).edited) == 1


def test_verify_names_what_is_not_as_claimed(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", max_shard_size="60KB")
    report = bake_tiny(source, tmp_path / "out")
    with pytest.raises(CheckpointError, match=rf"without an edit \['{report.edited[0]}'\]"):
        verify_untouched(source, report.out, report.edited[1:])
    with pytest.raises(CheckpointError, match=r"the same \['model\.norm\.weight'\]"):
        verify_untouched(source, report.out, [*report.edited, "model.norm.weight"])
    with pytest.raises(CheckpointError, match="ghost"):
        verify_untouched(source, report.out, [*report.edited, "ghost"])
    with pytest.raises(CheckpointError, match="BF16"):
        verify_untouched(source, save_tiny("llama", tmp_path / "half", dtype=torch.bfloat16), report.edited)
    assert verify_untouched(source, save_tiny("llama", tmp_path / "one"), ()).edited == ()
    file = CheckpointIndex.read(report.out).tensors["model.norm.weight"]
    content = bytearray((report.out / file.file).read_bytes())
    content[file.begin] ^= 1
    (report.out / file.file).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"without an edit \['model\.norm\.weight'\]"):
        verify_untouched(source, report.out, report.edited)


def test_progress_counts_up_to_all_bytes(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", max_shard_size="60KB")
    calls: list[tuple[int, int]] = []
    bake_tiny(source, tmp_path / "out", on_progress=lambda done, total: calls.append((done, total)))
    total = json.loads((source / INDEX_NAME).read_text())["metadata"]["total_size"]
    assert calls == sorted(calls) and calls[-1] == (total, total)


def test_memory_holds_slices_and_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer that bytes of a file pass through: a few slices, however large the tensors and runs of them are."""
    monkeypatch.setattr(slices, "SLICE_ELEMENTS", 1 << 13)
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1 << 15)
    monkeypatch.setattr(rewrite, "RUN_BYTES", 1 << 20)
    source = tmp_path / "base"
    source.mkdir()
    tensors = {name: torch.randn(1024, 2048) for name in ("edited.weight", "untouched")}  # 8 MiB each
    save_file(tensors, source / SINGLE_NAME)
    writer = Writer("0.mlp", 0, "mlp", "edited", "edited.weight", None, "linear", 2048, 1024)
    edit = random_edit([writer])
    tracemalloc.start()
    try:
        report = bake(source, edit, [writer], tmp_path / "out", provenance={})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    baked = load_file(report.out / SINGLE_NAME)
    assert torch.equal(baked["untouched"], tensors["untouched"])
    torch.testing.assert_close(baked["edited.weight"], edit_weight(tensors["edited.weight"], edit["0.mlp"], "linear"))
