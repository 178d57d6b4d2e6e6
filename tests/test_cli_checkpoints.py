"""What the command line does with checkpoints of a finished run: adapters, proofs, hashes, differences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType
from huggingface_hub import constants
from safetensors import safe_open

from tests.checkpoints.bakes import tree
from tests.checkpoints.test_gguf import write_gguf
from tests.checkpoints.test_push import COMMIT, Hub, hub  # noqa: F401 - a fixture
from tests.commands import Command, Tiny, finished_run


@pytest.fixture
def sombrero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return finished_run(tmp_path_factory.mktemp("tiny"))


def trial_without(tiny: Tiny, rules: tuple[str, ...]) -> int:
    """The first trial of another rule."""
    lines = (Path(tiny.run) / "trials.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return next(row["number"] for row in rows if row["parameters"]["rule"] not in rules)


def test_a_trial_becomes_an_adapter_with_a_card(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    trial = trial_without(tiny, ("norm", "affine"))
    for _ in range(2):  # asked for again, it is written again
        out = sombrero("bake", tiny.run, "--adapter", "--trial", trial, "--out", tmp_path / "adapter", "--json").out
    found = json.loads(out)
    assert found["trial"] == trial and found["rank"] >= found["edit"]["rank"] > 0 and found["modules"] > 0
    folder = tmp_path / "adapter"
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert 'library_name: "peft"' in card or "library_name: peft" in card
    assert "A LoRA adapter that edits" in card and "--max-lora-rank" in card and "bit-identical" not in card
    assert str(tmp_path) not in (folder / "adapter_config.json").read_text()
    verified = json.loads(sombrero("verify", folder, "--json").out)
    assert verified["verified"] == 2 and "README.md" in verified["unrecorded"]


def test_a_bake_is_proved_hashed_and_told_from_its_base(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    trial = trial_without(tiny, ("norm",))
    flags = ("--trial", trial, "--verify", "tensors", "--out", tmp_path / "baked", "--json")
    baked = json.loads(sombrero("bake", tiny.run, *flags).out)
    assert 0 < baked["verified"]["worst"] <= 1 and baked["verified"]["untouched"] > 0
    verified = json.loads(sombrero("verify", tmp_path / "baked", "--json").out)
    assert verified["verified"] >= 3
    found = json.loads(sombrero("diff", tiny.model, tmp_path / "baked", "--json").out)
    assert {change["name"] for change in found["changes"]} == set(baked["verified"]["edited"])
    assert {change["kind"] for change in found["changes"]} <= {"low-rank", "vector"}
    shown = sombrero("diff", tiny.model, tmp_path / "baked").out
    assert "low-rank" in shown and "weights are the same" in shown

    with safe_open(tmp_path / "baked" / "model.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["sombrero"])
    assert set(facts) >= {"base", "revision", "base_hash", "directions_hash", "parameters", "measured", "license"}
    assert set(facts) >= {"intended_use", "not_measured", "goal", "seed"} and len(facts["directions_hash"]) == 64
    assert 0 <= facts["measured"]["search_prompts"]["refusals_low"] <= 1

    (tmp_path / "baked" / "config.json").write_text("{}")
    failed = sombrero("verify", tmp_path / "baked")
    assert failed.code == 1 and "config.json has" in failed.err


def test_a_trial_goes_into_a_gguf_file_of_the_model(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", GGMLQuantizationType.F16)
    flags = ("--trial", trial_without(tiny, ("affine",)), "--gguf", source, "--out", tmp_path / "out", "--json")
    found = json.loads(sombrero("bake", tiny.run, *flags).out)
    assert found["survived"] == pytest.approx(1, abs=0.05) and found["retyped"] == {}
    assert (tmp_path / "out" / "tiny.gguf").stat().st_size > source.stat().st_size
    assert json.loads(sombrero("verify", tmp_path / "out", "--json").out)["verified"] == 1


def test_a_bake_is_pushed_whole(
    hub: Hub,  # noqa: F811
    sombrero: Command,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    wrong = sombrero("bake", tiny.run, "--out", tmp_path / "baked", "--push", "a/b/c")
    assert wrong.code == 1 and "owner/name" in wrong.err and not (tmp_path / "baked").exists()
    hub.takes = 0
    refused = sombrero("bake", tiny.run, "--out", tmp_path / "baked", "--push", "me/edited")
    assert refused.code == 1 and "complete in" in refused.err and not hub.files
    hub.takes = 10**6
    found = json.loads(sombrero("bake", tiny.run, "--out", tmp_path / "baked", "--push", "me/edited", "--json").out)
    assert found["pushed"] == COMMIT and hub.files == tree(tmp_path / "baked")
    assert hub.created[-1]["visibility"] == "private"


def test_wrong_usage_is_refused(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    both = sombrero("bake", tiny.run, "--adapter", "--verify", "tensors", "--out", tmp_path / "x")
    assert both.code == 2 and "cannot be combined" in both.err and not (tmp_path / "x").exists()
    assert sombrero("bake", tiny.run, "--verify", "magic").code == 2
    assert sombrero("verify", tmp_path).code == 1
    assert sombrero("diff", tmp_path, tiny.model).code == 1
