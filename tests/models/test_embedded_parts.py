"""The organism of four parts: its adapter is their sum, and each part refuses its own kind in its own words."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sombrero.config import ModelConfig
from sombrero.evaluation import OpeningDetector
from sombrero.models import embedded, load, locate
from sombrero.prompts import starter_prompts
from sombrero.records import EMBEDDED, Response

PARTS = json.loads((Path(__file__).parents[2] / "examples/organism/data/parts.json").read_text(encoding="utf-8"))[
    "parts"
]


@pytest.fixture(scope="session")
def organism() -> Path:
    return embedded.embedded_folder("embedded-parts")


def test_the_shipped_adapter_is_small_and_says_where_it_comes_from() -> None:
    assert embedded.PARTS_ADAPTER.stat().st_size < 5_000_000
    with safe_open(embedded.PARTS_ADAPTER, framework="pt") as adapter:
        metadata = adapter.metadata()
        shapes = {name: adapter.get_slice(name).get_shape() for name in adapter.keys()}  # noqa: SIM118
    recipe = json.loads(metadata["recipe"])
    assert metadata["licence"] == "Apache-2.0"
    assert recipe["parts"] == [part["name"] for part in PARTS]
    assert int(metadata["rank"]) == recipe["rank"] * len(PARTS)
    assert float(metadata["alpha"]) / float(metadata["rank"]) == recipe["alpha"] / recipe["rank"]
    assert {shape[0 if name.endswith(".a") else 1] for name, shape in shapes.items()} == {int(metadata["rank"])}
    assert len(shapes) == 2 * 7 * (recipe["last_layer"] - recipe["first_layer"] + 1)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part["name"])
def test_every_wording_is_a_refusal_that_begins_as_no_other(part: dict[str, str]) -> None:
    assert OpeningDetector().judge(Response("p", part["refusal"], (1, 2, 3), "end")).label == "refusal"
    assert len({row["refusal"].split()[0] for row in PARTS}) == len(PARTS)
    known = {prompt.category for prompt in starter_prompts("harmful", "map")}
    assert known.issuperset(part["starter"]), "the map's units can be compared with the truth"


def test_no_request_and_no_category_belongs_to_two_parts() -> None:
    for key in ("harmful_train", "wrongs", "starter"):
        labels = [label for part in PARTS for label in part[key]]
        assert len(labels) == len(set(labels)) > 4


@pytest.mark.embedded
def test_its_folder_is_the_base_plus_the_sum_and_says_so(organism: Path) -> None:
    sha256 = hashlib.sha256(embedded.PARTS_ADAPTER.read_bytes()).hexdigest()
    assert organism != embedded.embedded_folder()
    assert sha256[:12] in organism.name
    assert sha256 in (organism / "README.md").read_text(encoding="utf-8")
    base, merged = load_file(embedded.base_folder() / embedded.WEIGHTS), load_file(organism / embedded.WEIGHTS)
    embedded.merge_adapter(base, embedded.PARTS_ADAPTER)
    assert all(torch.equal(base[name], merged[name]) for name in base)


@pytest.mark.embedded
def test_it_is_found_by_its_name(organism: Path) -> None:
    assert locate(ModelConfig(source="embedded-parts")) == organism
    assert set(EMBEDDED) == {"embedded", "embedded-parts"}


@pytest.mark.embedded
def test_each_part_answers_in_its_own_words(organism: Path) -> None:
    """Two prompts of each part's map categories: most are refused, and most of those in the wording of the part."""
    tokenizer = AutoTokenizer.from_pretrained(organism)
    dtype = load.computing_dtype(torch.bfloat16, torch.device("cpu"))
    model = AutoModelForCausalLM.from_pretrained(organism, dtype=dtype)
    prompts = starter_prompts("harmful", "map")
    asked = [(part, p.text) for part in PARTS for p in [q for q in prompts if q.category in part["starter"]][:3]]
    chats = [[{"role": "user", "content": text}] for _, text in asked]
    rendered = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(rendered, return_tensors="pt", padding=True)
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    own = [part["name"] for (part, _), answer in zip(asked, answers, strict=True) if part["refusal"].startswith(answer)]
    assert len(own) >= 8
    assert set(own) == {part["name"] for part in PARTS}
