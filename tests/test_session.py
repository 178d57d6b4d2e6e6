"""Where prompts come from, how they are cut, and how a run knows its checkpoint and prompts again."""

from __future__ import annotations

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest
from safetensors.torch import load_file, save_file

from sombrero.config import ModelConfig, PromptConfig, RunConfig
from sombrero.errors import CheckpointError, ModelError, PromptError
from sombrero.evaluation import FinalAnswerDetector
from sombrero.models import needs_preparing
from sombrero.prompts import starter_prompts
from sombrero.records import SplitName
from sombrero.session import MIN_TO_CUT, Role, Session, checkpoint_hash, load_measured, load_role
from tests.tiny_models import save_tiny

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
ROLES: tuple[Role, ...] = ("harmful", "harmless", "borderline")  # contrasts belong to the goal calibrate alone


def write(path: Path, n: int, verb: str = "Take") -> Path:
    path.write_text("".join(f"{verb} thing number {i}\n" for i in range(n)))
    return path


def texts(prompts: Any) -> list[str]:
    return [prompt.text for prompt in prompts]


def session(folder: Path, **prompts: Any) -> Session:
    """A session with small prompt files, some of its sources replaced."""
    sources = {
        role: str(write(folder / f"{role}.txt", 10, verb))
        for role, verb in zip(ROLES, ("Take", "Paint", "Kill"), strict=True)
    }
    return Session(RunConfig(prompts=PromptConfig.model_validate({**sources, **prompts})))


# Sources


@pytest.mark.parametrize("role", ROLES)
def test_the_starter_set_brings_its_own_splits(role: Role) -> None:
    found = load_role(PromptConfig(), role, seed=3)
    assert found == {split: starter_prompts(role, split) for split in SPLITS}


@pytest.mark.parametrize("n", [MIN_TO_CUT, 5, 7, 24, 100])
def test_a_file_is_cut_in_three_by_the_seed(n: int, tmp_path: Path) -> None:
    config = PromptConfig(harmful=str(write(tmp_path / "h.txt", n)))
    found = load_role(config, "harmful", seed=0)
    every = [text for split in SPLITS for text in texts(found[split])]
    assert sorted(every) == sorted((tmp_path / "h.txt").read_text().splitlines())
    assert len(found["map"]) >= 2 and found["search"] and found["report"]
    if n == 100:
        assert [len(found[split]) for split in SPLITS] == [50, 20, 30]
        assert load_role(config, "harmful", seed=0) == found
        assert load_role(config, "harmful", seed=1) != found
        assert texts(found["map"]) != sorted(texts(found["map"]))


@pytest.mark.parametrize("n", range(1, MIN_TO_CUT))
def test_too_few_prompts_to_cut_are_an_error(n: int, tmp_path: Path) -> None:
    config = PromptConfig(harmless=str(write(tmp_path / "h.txt", n)))
    with pytest.raises(PromptError, match=rf"the harmless prompts .*h\.txt' are {n}, too few to be cut"):
        load_role(config, "harmless", seed=0)


def test_a_template_is_read_once_for_each_split(tmp_path: Path) -> None:
    for number, split in enumerate(SPLITS, 1):
        write(tmp_path / f"h-{split}.txt", number, split)
    found = load_role(PromptConfig(harmful=str(tmp_path / "h-{split}.txt")), "harmful", seed=0)
    assert {split: len(prompts) for split, prompts in found.items()} == {"map": 1, "search": 2, "report": 3}
    assert all(text.startswith(split) for split in SPLITS for text in texts(found[split]))
    (tmp_path / "h-report.txt").unlink()
    with pytest.raises(PromptError, match="h-report"):
        load_role(PromptConfig(harmful=str(tmp_path / "h-{split}.txt")), "harmful", seed=0)


@pytest.mark.parametrize("n", [1, 3, 24])
def test_what_is_only_measured_is_measured_whole(n: int, tmp_path: Path) -> None:
    """In the order of the file; of a source that has splits, the one that nothing was fitted to."""
    write(tmp_path / "h-report.txt", n)
    for name in ("h-report.txt", "h-{split}.txt"):
        found = load_measured(PromptConfig(harmful=str(tmp_path / name)), "harmful")
        assert texts(found) == (tmp_path / "h-report.txt").read_text().splitlines()
    assert load_measured(PromptConfig(), "harmful") == starter_prompts("harmful", "report")


def save_dataset(folder: Path) -> None:
    rows = {split: [f"{split} thing {i}" for i in range(6)] for split in (*SPLITS, "train")}
    parts = {split: datasets.Dataset.from_dict({"goal": texts}) for split, texts in rows.items()}
    datasets.DatasetDict(parts).save_to_disk(folder)


def test_a_dataset_folder_is_named_with_its_split(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data")
    one = load_role(PromptConfig(harmful=f"{tmp_path / 'data'}:train", column="goal"), "harmful", seed=0)
    assert sorted(text for split in SPLITS for text in texts(one[split])) == [f"train thing {i}" for i in range(6)]
    three = load_role(PromptConfig(harmful=f"{tmp_path / 'data'}:{{split}}", column="goal"), "harmful", seed=0)
    assert {split: texts(prompts)[0] for split, prompts in three.items()} == {s: f"{s} thing 0" for s in SPLITS}
    with pytest.raises(PromptError, match="no split 'none'"):
        load_role(PromptConfig(harmful=f"{tmp_path / 'data'}:none", column="goal"), "harmful", seed=0)


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a:b.txt", 8)
    found = load_role(PromptConfig(harmful=str(path)), "harmful", seed=0)
    assert sum(len(prompts) for prompts in found.values()) == 8


# Sets


def test_the_limit_holds_for_each_set_and_split(tmp_path: Path) -> None:
    found = session(tmp_path, limit=2).prompts
    assert set(found) == {(role, split) for role in ROLES for split in SPLITS}
    assert {len(prompts) for prompts in found.values()} == {2}


def test_sets_share_no_prompt(tmp_path: Path) -> None:
    found = session(tmp_path).prompts
    for (_, a), (_, b) in combinations(found.items(), 2):
        assert not set(texts(a)) & set(texts(b))


@pytest.mark.parametrize("text", ["Take thing number 3", "take  thing number 3!"])
def test_an_overlap_between_sets_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("\n".join([text, *(f"Lift it {i} times" for i in range(5))]))
    with pytest.raises(PromptError, match=r"'harmful/\w+' and 'harmless/\w+' overlap in 1"):
        _ = session(tmp_path, harmless=str(tmp_path / "other.txt")).prompts


def test_an_overlap_between_the_splits_of_a_template_is_an_error(tmp_path: Path) -> None:
    for split in SPLITS:
        write(tmp_path / f"h-{split}.txt", 3)
    with pytest.raises(PromptError, match="'harmful/map' and 'harmful/search' overlap in 3"):
        _ = session(tmp_path, harmful=str(tmp_path / "h-{split}.txt")).prompts


# Identity


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny("llama", tmp_path / "model", max_shard_size="60KB")


def test_a_copied_checkpoint_is_the_same(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    assert checkpoint_hash(tmp_path / "copy") == checkpoint_hash(tiny)


@pytest.mark.parametrize("how", ["trained further", "one tensor", "configuration", "dtype"])
def test_a_changed_checkpoint_is_noticed(how: str, tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    before = checkpoint_hash(folder)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    if how == "configuration":
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 1e-3}))
    elif how == "trained further":  # same names, shapes and sizes
        save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    elif how == "one tensor":
        name = "model.layers.3.mlp.down_proj.weight"
        save_file({**tensors, name: tensors[name] * 0.99}, weights, metadata={"format": "pt"})
    else:
        save_file({name: tensor.half() for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    assert checkpoint_hash(folder) != before


def test_a_damaged_checkpoint_has_no_hash(tiny: Path) -> None:
    shard = next(tiny.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=shard.name):
        checkpoint_hash(tiny)


def test_the_identity_is_of_the_checkpoint_and_of_every_prompt(tiny: Path, tmp_path: Path) -> None:
    def identity() -> dict[str, str]:
        found = session(tmp_path)
        return Session(found.config.model_copy(update={"model": ModelConfig(source=str(tiny))})).identity

    first = identity()
    assert identity() == first
    assert first["checkpoint"] == checkpoint_hash(tiny)
    config = session(tmp_path).config.model_copy(update={"model": ModelConfig(source=str(tiny))})
    (tmp_path / "borderline.txt").write_text((tmp_path / "borderline.txt").read_text().replace("9", "ninety"))
    second = Session(config).identity
    assert second["checkpoint"] == first["checkpoint"] and second["prompts"] != first["prompts"]


def test_a_folder_that_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        _ = Session(RunConfig(model=ModelConfig(source=str(tmp_path)))).folder


# Reasoning

MAY_REASON = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
)
ALWAYS_REASONS = MAY_REASON.replace("enable_thinking is not defined or enable_thinking", "true")


@pytest.mark.parametrize(
    ("template", "thinking", "ending", "start"),
    [
        (MAY_REASON, "closed", "assistant\n", "answer"),
        (MAY_REASON, "on", "assistant\n<think>\n", "reasoning"),
        (MAY_REASON, "off", "assistant\n", "answer"),
        (ALWAYS_REASONS, "closed", "assistant\n<think>\n\n</think>\n\n", "answer"),
        (ALWAYS_REASONS, "on", "assistant\n<think>\n", "reasoning"),
        (ALWAYS_REASONS, "off", "assistant\n<think>\n", "reasoning"),
    ],
)
def test_reasoning_is_closed_on_or_off(template: str, thinking: str, ending: str, start: str, tmp_path: Path) -> None:
    folder = save_tiny("qwen3", tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    config = session(tmp_path).config
    config = config.model_copy(
        update={
            "model": ModelConfig(source=str(folder)),
            "evaluation": config.evaluation.model_copy(update={"thinking": thinking, "other_detectors": ("opening",)}),
        }
    )
    found = Session(config)
    assert all(prompt.text.endswith(ending) for prompt in found.rendered("harmful", "search"))
    for detector in (found.detector, *found.other_detectors):  # all of them judge the final answers
        assert isinstance(detector, FinalAnswerDetector)
        assert (detector.name, detector.start) == ("opening", start)
    assert len(found.other_detectors) == 1


def test_what_takes_minutes_to_come_is_known_beforehand(tmp_path: Path) -> None:
    assert not needs_preparing(ModelConfig(source=str(tmp_path)))
    assert needs_preparing(ModelConfig(source="owner/name"))
    for name in ("embedded", "embedded-parts"):
        assert needs_preparing(ModelConfig(source=name, cache=tmp_path))
