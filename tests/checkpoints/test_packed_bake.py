"""Bakes of quantized checkpoints: models of the true class, loaded again and compared with the live edit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sombrero.architectures import find_architecture, resolve_writers
from sombrero.checkpoints import (
    BakeReport,
    CheckpointIndex,
    Packing,
    bake,
    diff_checkpoints,
    foresight,
    read_record,
    rewrite,
    verify_folder,
    verify_tensors,
    verify_untouched,
)
from sombrero.checkpoints import packed as packed_weights
from sombrero.checkpoints.formats import require_survival
from sombrero.checkpoints.plan import plan_edits
from sombrero.config import ModelConfig
from sombrero.edits import live_edit
from sombrero.errors import CheckpointError
from sombrero.models import load_model
from sombrero.records import LowRankEdit, ModelEdit, ModelHandle, Writer
from tests.checkpoints.bakes import PROVENANCE, bake_tiny, progress_that, tiny_writers, tree
from tests.checkpoints.stored import scaled
from tests.checkpoints.test_bake_whole import assert_whole_or_absent, kill_bakes
from tests.checkpoints.test_quantized_checkpoints import compressed, fp8_rows, int8_rows, llama, load
from tests.packed_files import save_fp8, save_mxfp4

WAYS: tuple[Packing, ...] = ("nearest", "carry", "beside")
LAYER = 1
WHOLE = (1 << 10, 1 << 10)
"""A block that is larger than any tiny weight."""


def mxfp4(folder: Path) -> Path:
    return save_mxfp4(folder)[0]


def fp8(folder: Path) -> Path:
    return save_fp8(folder)[0]


MADE = (mxfp4, fp8)


def split(folder: Path) -> Path:
    """The same checkpoint in three files: the scales of a weight lie in another one than its numbers."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number in range(3):
        name = f"model-{number}.safetensors"
        part = {key: tensor for i, (key, tensor) in enumerate(sorted(tensors.items())) if i % 3 == number}
        weight_map |= dict.fromkeys(part, name)
        save_file(part, folder / name, {"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def loaded(folder: Path) -> ModelHandle:
    return load_model(ModelConfig(source=str(folder), dtype="float32"))


def writers_of(handle: ModelHandle) -> list[Writer]:
    return list(resolve_writers(handle.model, find_architecture(handle.model)))


def make_edit(writers: list[Writer], strength: float = 1.5, rank: int = 1) -> ModelEdit:
    """Directions removed from the outputs of one layer; experts are read by what they write."""
    edit = {}
    generator = torch.Generator().manual_seed(0)
    for writer in writers:
        if writer.layer != LAYER:
            continue
        V = torch.linalg.qr(torch.randn(writer.d_out, rank, generator=generator)).Q
        A = None if writer.n_experts is not None else 0.3 * torch.randn(writer.d_in, rank, generator=generator)
        edit[writer.name] = LowRankEdit(V, A, None, strength, U=V if A is None else None)
    return edit


def logits(handle: ModelHandle) -> torch.Tensor:
    ids = torch.randint(0, 200, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return handle.model(ids).logits.float()


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("made", MADE)
def test_the_reloaded_bake_is_the_live_edit(
    made: Callable[[Path], Path], way: Packing, shards: int, tmp_path: Path
) -> None:
    source = made(tmp_path / "base")
    handle = loaded(source)
    writers = writers_of(handle)
    edit = make_edit(writers)
    before = logits(handle)
    with live_edit(handle, writers, edit, rounded=True):
        live = logits(handle)
    if shards > 1:
        split(source)
    report = bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE, packing=way, accept_error=True)
    found = logits(loaded(report.out))
    effect = float((live - before).abs().mean())
    error = float((found - live).abs().mean())
    assert effect > 0.01
    if way == "beside":
        assert float((found - live).abs().max()) < 1e-3 and report.survived == pytest.approx(1, abs=0.01)
        modules = json.loads((report.out / "config.json").read_text())["quantization_config"]["modules_to_not_convert"]
        assert any(f".{LAYER}." in module for module in modules)
    else:
        assert error < effect  # what rounding adds is reported, and less than what the edit does
        assert not report.come and all(item["relative_error"] > 0.01 for item in report.packed)
    assert {item["stored"] for item in report.packed} == {way}
    check(source, report, edit, writers)
    assert verify_folder(report.out).n_bytes == report.n_bytes


def check(source: Path, report: BakeReport, edit: ModelEdit, writers: list[Writer]) -> None:
    """Every tensor is untouched, or is what the edit gives."""
    compared = verify_untouched(source, report.out, report.edited, gone=report.gone, come=report.come)
    before, after = CheckpointIndex.read(source).tensors, CheckpointIndex.read(report.out).tensors
    assert set(compared.untouched) >= {name for name in before if f".{LAYER}." not in name}
    assert set(before) - set(after) <= set(report.gone) and set(after) - set(before) <= set(report.come)
    carried = [item["weight"] for item in report.packed if item["stored"] == "carry"]
    found = verify_tensors(source, report.out, edit, writers, carried=carried)
    assert 0 < found.worst <= 1 and found.untouched >= report.untouched
    with pytest.raises(CheckpointError, match="is not the edit"):
        other = {name: LowRankEdit(c.V, c.A, c.c, -c.strength, U=c.U) for name, c in edit.items()}
        verify_tensors(source, report.out, other, writers, carried=carried)


@pytest.mark.parametrize("made", MADE)
def test_by_default_the_edit_is_kept_whole(made: Callable[[Path], Path], tmp_path: Path) -> None:
    source = made(tmp_path / "base")
    writers = writers_of(loaded(source))
    edit = make_edit(writers)
    first = bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE)
    assert {item["stored"] for item in first.packed} == {"beside"} and first.come
    again = bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE)
    assert again.reused and again.sha256 == first.sha256 and again.packed == first.packed
    with pytest.raises(CheckpointError, match="taken"):
        bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE, packing="carry")
    settings = json.loads((source / "config.json").read_text())
    settings["quantization_config"]["quant_method"] = "another"
    (source / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="no list of modules"):
        bake(source, edit, writers, tmp_path / "none", provenance=PROVENANCE, packing="beside")
    plain = bake(source, edit, writers, tmp_path / "plain", provenance=PROVENANCE, accept_error=True)
    assert {item["stored"] for item in plain.packed} == {"nearest"} and not plain.gone


@pytest.mark.parametrize("made", MADE)
def test_what_was_kept_in_bfloat16_is_compared_by_its_numbers(made: Callable[[Path], Path], tmp_path: Path) -> None:
    source = made(tmp_path / "base")
    writers = writers_of(loaded(source))
    edit = make_edit(writers)
    out = bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE, packing="beside").out
    for found in (diff_checkpoints(source, out), diff_checkpoints(out, source)):
        assert not found.other_shape and not found.only_base and not found.only_edited
        edited = {writer.weight_name for writer in writers if writer.name in edit}
        assert {change.name.partition("[")[0] for change in found.changes if change.kind != "vector"} == edited
        assert {change.kind for change in found.changes} <= {"low-rank", "vector"}
        assert {change.rank for change in found.changes if change.kind == "low-rank"} == {1}


@pytest.mark.parametrize("made", MADE)
def test_an_edit_that_drowns_is_found_before_anything_is_written(made: Callable[[Path], Path], tmp_path: Path) -> None:
    source = made(tmp_path / "base")
    writers = writers_of(loaded(source))
    (tmp_path / "place").mkdir()
    faint, strong = (make_edit(writers, strength=strength) for strength in (0.002, 1.5))
    with pytest.raises(CheckpointError, match=r"accept-requantization-error.*sample.*nothing was written"):
        bake(source, faint, writers, tmp_path / "place" / "out", provenance=PROVENANCE, packing="nearest")
    assert not any((tmp_path / "place").iterdir())
    index = CheckpointIndex.read(source)
    for edit in (faint, strong):  # a sample says what all numbers say
        plan = plan_edits(index, edit, writers, "nearest")
        looked = foresight.look(index, plan.packed)
        out = tmp_path / "place" / f"{edit is faint}"
        full = bake(source, edit, writers, out, provenance=PROVENANCE, packing="nearest", accept_error=True)
        assert require_survival(looked, accept=True) == pytest.approx(full.survived, abs=0.15)
        change = {name: item.change for name, item in looked.items()}
        assert set(change) == {str(item["weight"]) for item in full.packed} and min(change.values()) > 0


def test_an_edit_that_drowns_stops_the_bake_which_goes_on_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foresight, "WEIGHTS", 0)  # as where a sample does not say so
    source = split(mxfp4(tmp_path / "base"))
    writers = writers_of(loaded(source))
    edit = make_edit(writers, strength=0.05)
    with pytest.raises(CheckpointError, match="accept-requantization-error") as failure:
        bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE, packing="nearest")
    assert "finished weight files stay" in str(failure.value) and not (tmp_path / "out").exists()
    taken = bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE, packing="nearest", accept_error=True)
    fresh = bake(source, edit, writers, tmp_path / "new", provenance=PROVENANCE, packing="nearest", accept_error=True)
    assert tree(taken.out) == tree(fresh.out) and taken.survived is not None and taken.survived < 0.5
    carried = bake(source, edit, writers, tmp_path / "carried", provenance=PROVENANCE, packing="carry")
    assert carried.survived is not None and carried.survived > 0.9
    assert read_record(carried.out)["packed"][0]["base_format"] == "MXFP4"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("made", MADE)
def test_a_packed_bake_that_was_stopped_goes_on_to_the_same_bytes(
    made: Callable[[Path], Path], way: Packing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite, "RUN_BYTES", 4 << 10)
    monkeypatch.setattr(rewrite, "FILES_AT_ONCE", 1)
    monkeypatch.setattr(packed_weights, "PART_ELEMENTS", 1 << 10)
    source = split(made(tmp_path / "base"))
    writers = writers_of(loaded(source))
    edit = make_edit(writers, rank=2)

    def run(out: Path, on_progress: Callable[[int, int], None] | None = None) -> BakeReport:
        return bake(
            source,
            edit,
            writers,
            out,
            provenance=PROVENANCE,
            packing=way,
            accept_error=True,
            on_progress=on_progress,
        )

    seen: list[tuple[int, int]] = []
    expected = tree(run(tmp_path / "whole", lambda *now: seen.append(now)).out)
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]

    def interrupt() -> None:
        raise KeyboardInterrupt

    for number, at in enumerate((2, len(seen) // 2, len(seen) - 1)):
        out = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            run(out, progress_that(interrupt, at))
        assert not out.exists()
        assert tree(run(out).out) == expected


def test_a_packed_bake_that_was_killed_is_whole_in_the_end(tmp_path: Path) -> None:
    sources = {"codes": fp8(tmp_path / "codes"), "shards": split(fp8(tmp_path / "shards"))}
    expected = {name: tree(bake_tiny(source, tmp_path / f"whole-{name}").out) for name, source in sources.items()}
    points = [f"call-{n}" for n in (1, 3, 9)] + [f"delay-{n}" for n in (5, 15, 40)]
    ends = kill_bakes(tmp_path / "work", [(source, point) for source in sources.values() for point in points])
    assert all(end == "killed" for name, end in ends.items() if "call" in name)
    for name, source in sources.items():
        for point in points:
            out = tmp_path / "work" / f"{name}-{point}"
            assert_whole_or_absent(out, expected[name])
            assert tree(bake_tiny(source, out).out) == expected[name]


def one_scale(folder: Path) -> Path:
    def quantize(weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {n: t.flatten() if n == "w_scale" else t for n, t in scaled(weight, WHOLE, suffix="_scale").items()}

    return llama(folder, quantize, compressed("float", "tensor"))


@pytest.mark.parametrize("way", [None, "nearest", "carry"])
@pytest.mark.parametrize("made", [fp8_rows, int8_rows, one_scale])
def test_compressed_tensors_are_edited_and_load(
    made: Callable[[Path], Path], way: Packing | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_weights, "MAX_ELEMENTS", 500)  # one scale for a matrix: it is gone through twice
    monkeypatch.setattr(packed_weights, "PART_ELEMENTS", 1000)
    source = made(tmp_path / "base")
    writers = tiny_writers(source)
    edit = make_edit(writers)
    report = bake(source, edit, writers, tmp_path / "out", provenance=PROVENANCE, packing=way, accept_error=True)
    assert {item["stored"] for item in report.packed} == {way or "beside"}
    check(source, report, edit, writers)
    assert report.survived == pytest.approx(1, abs=0.2)
    load(report.out)
    ignored = json.loads((report.out / "config.json").read_text())["quantization_config"]["ignore"]
    assert len(ignored) == (3 if way is None else 1)
