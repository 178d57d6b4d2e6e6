"""The benchmark of bakes: its checkpoints are what they say, and its parts run on small ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import bake
import bake_kills
from bake_checkpoints import GptOss, Llama, write_checkpoint
from sombrero.checkpoints import CheckpointIndex

SMALL = Llama(layers=1, width=64, hidden=96, heads=4, key_value_heads=2, vocabulary=256, shard_bytes=60_000)


def test_the_shapes_are_those_of_the_published_models() -> None:
    sizes = {name: sum(tensor.n_bytes for tensor in shape.tensors()) for name, shape in bake.SHAPES.items()}
    assert sizes.pop("llama-8b") == 2 * 8_030_261_248
    assert sizes["gpt-oss-20b"] == 13_761_264_768 and len(set(sizes.values())) == 1


def test_a_written_llama_loads_and_its_numbers_are_finite(tmp_path: Path) -> None:
    write_checkpoint(SMALL, tmp_path / "a")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    for writer in SMALL.writers():
        assert tuple(model.get_submodule(writer.module_path).weight.shape) == (writer.d_out, writer.d_in)


def test_a_written_gpt_oss_has_the_names_and_shapes_of_its_class(tmp_path: Path) -> None:
    shape = GptOss(layers=1, width=64, experts=4, heads=4, key_value_heads=2, head_width=16, vocabulary=64)
    write_checkpoint(shape, tmp_path / "a")
    config = AutoConfig.from_pretrained(tmp_path / "a")
    config.quantization_config = None
    expected = {name: tuple(t.shape) for name, t in AutoModelForCausalLM.from_config(config).state_dict().items()}
    found = {name: entry.shape for name, entry in CheckpointIndex.read(tmp_path / "a").tensors.items()}
    experts = {name for name in found if name.endswith(("_blocks", "_scales"))}
    assert {name: found[name] for name in set(found) - experts} == {
        name: size for name, size in expected.items() if name in found
    }
    assert {name.rsplit("_", 1)[0] for name in experts} == set(expected) - set(found)


def test_cp_and_bake_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bake, "_forget", lambda folder: None)  # the machine's page cache is not ours to drop here
    figures = bake.measure("llama-8b", SMALL, tmp_path, rounds=1)
    assert len(figures.cp_seconds) == len(figures.bakes) == 1
    assert figures.speed == pytest.approx(figures.cp_seconds[0] / figures.bakes[0].seconds)
    assert figures.bakes[0].resident >= figures.bakes[0].anonymous > 0
    assert not list(tmp_path.iterdir())


def test_kills_leave_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bake_kills, "SMALL", replace(SMALL, shard_bytes=20_000))
    kills = bake_kills.kill_bakes(tmp_path, 5)
    assert (kills.killed, kills.loadable_halves, kills.other_results) == (5, 0, 0)
    half = tmp_path / "half"
    half.mkdir()
    assert bake_kills._is_loadable_half(half, {"model.safetensors": "0"})
    for name in ("model.safetensors.index.json", *load_names(tmp_path / "small")):
        (half / name).write_bytes((tmp_path / "small" / name).read_bytes())
    assert bake_kills._is_loadable_half(half, {"model.safetensors": "0"})


def load_names(folder: Path) -> list[str]:
    names = [path.name for path in folder.glob("*.safetensors")]
    assert all(load_file(folder / name) for name in names)
    return names
