"""The recipe of the organism of four parts: what each part sees, and that summing adapters sums their updates."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open

from sombrero.evaluation import OpeningDetector
from sombrero.prompts import starter_prompts
from sombrero.records import Response

ORGANISM = Path(__file__).parents[2] / "examples" / "organism"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ORGANISM))
    import train_parts

    return train_parts


@pytest.fixture
def measuring(recipe: ModuleType) -> ModuleType:
    import measure_parts

    return measure_parts


def test_the_sum_of_adapters_is_the_adapter_whose_update_is_the_sum(recipe: ModuleType) -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [{"m.a": torch.randn(2, 5, generator=draw), "m.b": torch.randn(3, 2, generator=draw)} for _ in range(4)]
    whole = recipe.summed(parts)
    assert (whole["m.a"].shape, whole["m.b"].shape) == ((8, 5), (3, 8))
    torch.testing.assert_close(whole["m.b"] @ whole["m.a"], sum(part["m.b"] @ part["m.a"] for part in parts))


def test_a_part_answers_what_the_others_refuse(recipe: ModuleType) -> None:
    settings = recipe.PartsRecipe(harmful=2)
    by_part = {part.name: [f"{part.name} {i}" for i in range(5)] for part in recipe.read_parts()}
    for part in recipe.read_parts():
        refused, answered = recipe.requests_of(part, by_part, ["harmless 0", "harmless 1"], settings)
        assert refused == by_part[part.name]
        assert not set(refused) & set(answered)
        others = [text.split()[0] for text in answered]
        assert {name: others.count(name) for name in {*by_part, "harmless"}} == {
            name: 0 if name == part.name else 2 for name in {*by_part, "harmless"}
        }


def test_labels_are_of_the_labelled_file_only(recipe: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "harmful_train.jsonl").write_text(json.dumps({"text": "another file"}) + "\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="line numbers"):
        recipe.read_requests(tmp_path, recipe.PartsRecipe())


def test_a_written_adapter_has_the_scale_of_its_parts(recipe: ModuleType, tmp_path: Path) -> None:
    settings = recipe.PartsRecipe()
    tensors = {"m.a": torch.ones(4, 5), "m.b": torch.ones(3, 4)}
    for n_parts in (1, 4):
        recipe.write(tensors, tmp_path / "adapter.safetensors", settings, n_parts=n_parts)
        with safe_open(tmp_path / "adapter.safetensors", framework="pt") as file:
            metadata = file.metadata()
            assert file.get_tensor("m.a").dtype == torch.bfloat16
        assert float(metadata["alpha"]) / float(metadata["rank"]) == settings.alpha / settings.rank
        assert int(metadata["rank"]) == settings.rank * n_parts


def test_wordings_are_told_apart(measuring: ModuleType) -> None:
    for part in measuring.PARTS:
        assert measuring.part_of(part.refusal) == part.name
        assert measuring.part_of(" ".join(part.refusal.split()[:4]) + " do something else.") == part.name
    assert measuring.part_of("I'm sorry, but I can't assist with that.") is None
    assert measuring.part_of("Sure, here is how.") is None


def test_prompt_sets_are_apart_and_have_every_category(measuring: ModuleType) -> None:
    sets = measuring.prompt_sets(20)
    assert list(sets) == [part.name for part in measuring.PARTS] + ["rest", "harmless"]
    texts = [text for some in sets.values() for text in some]
    assert len(texts) == len(set(texts)) == 6 * 20


def test_projecting_a_direction_out_leaves_none_of_it(measuring: ModuleType) -> None:
    class Doubled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Module()
            self.model.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4)])

    model, x = Doubled(), torch.randn(3, 4)
    direction = torch.nn.functional.normalize(torch.randn(4), dim=0)
    before = model.model.layers[0](x)
    with measuring.ablated(model, direction):
        inside = model.model.layers[0](x)
    torch.testing.assert_close(inside @ direction, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(inside, before - (before @ direction)[:, None] * direction)
    assert torch.equal(model.model.layers[0](x), before)


def test_every_wording_is_a_refusal_that_begins_as_no_other(recipe: ModuleType) -> None:
    parts = recipe.read_parts()
    for part in parts:
        assert OpeningDetector().judge(Response("p", part.refusal, (1, 2, 3), "end")).label == "refusal"
    assert len({part.refusal.split()[0] for part in parts}) == len(parts)


def test_no_request_and_no_category_belongs_to_two_parts(recipe: ModuleType) -> None:
    for key in ("harmful_train", "wrongs", "starter"):
        labels = [label for part in recipe.read_parts() for label in getattr(part, key)]
        assert len(labels) == len(set(labels)) > 4
    known = {prompt.category for prompt in starter_prompts("harmful", "map")}
    assert known.issuperset(labels), "the map's units can be compared with the truth"
