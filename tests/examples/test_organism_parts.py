"""The recipe of the organism of five parts: what each part sees, where it writes, what training holds still."""

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
from tests.tiny_models import tiny_model

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


def test_the_union_holds_every_part_and_refuses_a_shared_module(recipe: ModuleType) -> None:
    first, second = ({f"m{i}.a": torch.full((2, 5), float(i)), f"m{i}.b": torch.ones(3, 2)} for i in range(2))
    whole = recipe.union([first, second])
    assert set(whole) == {*first, *second}
    assert all(torch.equal(whole[name], part[name]) for part in (first, second) for name in part)
    with pytest.raises(ValueError, match="m0"):
        recipe.union([first, first])


def test_no_two_parts_share_a_layer_and_all_have_as_many(recipe: ModuleType) -> None:
    settings = recipe.PartsRecipe()
    n_parts = len(recipe.read_parts())
    layers = [recipe.layers_of(place, n_parts, 30, settings) for place in range(n_parts)]
    assert sorted(layer for some in layers for layer in some) == list(range(settings.first_layer, 30))
    assert {len(some) for some in layers} == {5}


def test_parts_write_at_right_angles(recipe: ModuleType) -> None:
    """Whatever the optimizer did to an adapter of a writer, it is in the part's span afterwards; others are left."""
    torch.manual_seed(0)
    settings = recipe.PartsRecipe(rank=2)
    spans = recipe.bases(3, 10, settings)
    updates = []
    for basis in spans:
        linears = {name: recipe.LowRankLinear(torch.nn.Linear(4, 10), settings) for name in ("x.o_proj", "x.q_proj")}
        for adapter in linears.values():
            adapter.b.data.normal_()
        before = linears["x.q_proj"].b.clone()
        recipe.stay_within(basis, linears)
        assert torch.equal(linears["x.q_proj"].b, before)
        updates.append((linears["x.o_proj"].b @ linears["x.o_proj"].a).detach())
    for i, one in enumerate(updates):
        assert one.norm() > 0.1
        for other in updates[:i]:
            torch.testing.assert_close(one.T @ other, torch.zeros(4, 4), atol=1e-5, rtol=0)


def test_held_out_requests_are_of_no_training_set(recipe: ModuleType) -> None:
    settings, parts = recipe.PartsRecipe(), recipe.read_parts()
    trained = {text for part in parts for text in recipe.requests_of(part, settings)}
    held_out = {part.name: recipe.requests_of(part, settings, held_out=True) for part in parts}
    for part in parts:
        assert len(held_out[part.name]) >= 6
        acts = [act for act in part.acts if any(act in text for text in held_out[part.name])]
        assert acts
        assert not any(act in text for act in acts[:1] for text in trained)


def test_every_step_has_requests_to_refuse_and_to_leave(recipe: ModuleType) -> None:
    settings = recipe.PartsRecipe(steps=7)
    steps = recipe.batches(list("abcd"), list("123"), list("xyz"), settings)
    assert len(steps) == 7
    assert all(len(own) == settings.own and set(own) <= set("abcd") for own, _ in steps)
    assert all(sum(k in "123" for k in kept) == settings.others for _, kept in steps)
    assert {k for _, kept in steps for k in kept} == set("123xyz")
    assert steps == recipe.batches(list("abcd"), list("123"), list("xyz"), settings)


def test_the_loss_of_the_untouched_base_is_all_refusals(recipe: ModuleType) -> None:
    """Kept answers cost nothing while the model is the base: the packed batch gives the states that were stored."""
    model = tiny_model("llama")
    ids = [[5, 6, 7, *rest] for rest in ([8, 9], [10], [11, 12, 13])]
    answers = [[20, 21, 2], [22, 2], [23, 24, 25, 2]]
    examples = [recipe.Example(prompt, answer) for prompt, answer in zip(ids, answers, strict=True)]
    with torch.no_grad():
        states = [recipe.answering(model, recipe.pack([one]))[0] for one in examples[1:]]
        kept = [recipe.Kept(one, rows) for one, rows in zip(examples[1:], states, strict=True)]
        refusals, kl = recipe.loss_of(model, examples[:1], kept)
        hidden, targets = recipe.answering(model, recipe.pack(examples[:1]))
        alone = torch.nn.functional.cross_entropy(model.lm_head(hidden), targets)
    assert abs(kl.item()) < 1e-5
    torch.testing.assert_close(refusals, alone, atol=1e-4, rtol=1e-4)


def test_a_written_adapter_says_how_it_was_made(recipe: ModuleType, tmp_path: Path) -> None:
    settings = recipe.PartsRecipe()
    recipe.write({"m.a": torch.ones(8, 5), "m.b": torch.ones(3, 8)}, tmp_path / "adapter.safetensors", settings)
    with safe_open(tmp_path / "adapter.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert file.get_tensor("m.a").dtype == torch.bfloat16
    assert (int(metadata["rank"]), int(metadata["alpha"])) == (settings.rank, settings.alpha)
    assert json.loads(metadata["recipe"])["parts"] == [part.name for part in recipe.read_parts()]


def test_wordings_are_told_apart(measuring: ModuleType) -> None:
    for part in measuring.PARTS:
        assert measuring.part_of(part.refusal) == part.name
        assert measuring.part_of(" ".join(part.refusal.split()[:4]) + " do something else.") == part.name
    assert measuring.part_of("I'm sorry, but I can't assist with that.") is None
    assert measuring.part_of("Sure, here is how.") is None


def test_prompt_sets_are_apart_and_have_every_category(measuring: ModuleType) -> None:
    sets = measuring.prompt_sets(20)
    assert list(sets) == [part.name for part in measuring.PARTS] + ["harmless", "borderline"]
    texts = [text for some in sets.values() for text in some]
    assert len(texts) == len(set(texts)) == 7 * 20


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


def test_every_category_belongs_to_one_part_and_no_request_to_two(recipe: ModuleType) -> None:
    parts = recipe.read_parts()
    categories = [category for part in parts for category in part.starter]
    assert sorted(categories) == sorted({str(prompt.category) for prompt in starter_prompts("harmful", "map")})
    requests = [text for part in parts for text in (*part.acts, *part.asks)]
    assert len(requests) == len(set(requests)) > 200


def test_no_training_request_is_a_starter_prompt(recipe: ModuleType) -> None:
    starter = {
        prompt.text
        for role in ("harmful", "contrast")
        for s in ("map", "report")
        for prompt in starter_prompts(role, s)
    }
    settings = recipe.PartsRecipe()
    assert not starter & {text for part in recipe.read_parts() for text in recipe.requests_of(part, settings)}
