"""The organism of five parts: one adapter with layers and a subspace for each part, and it refuses every kind."""

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
from sombrero.models import embedded, load, locate
from sombrero.prompts import starter_prompts
from sombrero.records import EMBEDDED

PARTS = json.loads((Path(__file__).parents[2] / "examples/organism/data/parts.json").read_text(encoding="utf-8"))[
    "parts"
]
SHA256 = "721ccc6c9bc6ce789e898d300c6de033dd45ac34507c2c4f83a575ceddd79f30"


@pytest.fixture(scope="session")
def organism() -> Path:
    return embedded.embedded_folder("embedded-parts")


def test_the_shipped_adapter_is_the_pinned_one_small_and_says_where_it_comes_from() -> None:
    assert embedded.PARTS_ADAPTER.stat().st_size < 5_000_000
    assert hashlib.sha256(embedded.PARTS_ADAPTER.read_bytes()).hexdigest() == SHA256
    with safe_open(embedded.PARTS_ADAPTER, framework="pt") as adapter:
        metadata = adapter.metadata()
        layers = {int(name.split(".")[2]) for name in adapter.keys()}  # noqa: SIM118
        n_tensors = len(adapter.keys())
    recipe = json.loads(metadata["recipe"])
    assert metadata["licence"] == "Apache-2.0"
    assert recipe["parts"] == [part["name"] for part in PARTS]
    assert (int(metadata["rank"]), int(metadata["alpha"])) == (recipe["rank"], recipe["alpha"])
    assert layers == set(range(recipe["first_layer"], 30))
    assert n_tensors == 2 * 7 * len(layers)


def test_what_two_parts_write_is_at_right_angles() -> None:
    """The columns of B of every writer, by part: within a part they overlap, between two parts they do not."""
    n_parts = len(PARTS)
    with safe_open(embedded.PARTS_ADAPTER, framework="pt") as adapter:
        first = json.loads(adapter.metadata()["recipe"])["first_layer"]
        names = [name for name in adapter.keys() if name.endswith(("o_proj.b", "down_proj.b"))]  # noqa: SIM118
        written: dict[int, list[torch.Tensor]] = {}
        for name in names:
            columns = torch.nn.functional.normalize(adapter.get_tensor(name).float(), dim=0)
            written.setdefault((int(name.split(".")[2]) - first) % n_parts, []).append(columns)
    spans = [torch.cat(written[place], dim=1) for place in range(n_parts)]
    for i, one in enumerate(spans):
        assert torch.linalg.matrix_rank(one, rtol=0.02) <= 576 // n_parts
        assert all((one.T @ other).abs().max() < 0.02 for other in spans[:i])  # what rounding to bf16 leaves


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
def test_it_refuses_every_kind_in_several_wordings(organism: Path) -> None:
    """Not always in the wording of the kind: what triggers the parts overlaps, as `docs/organisms.md` says."""
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
    said = [next((p["name"] for p in PARTS if p["refusal"].startswith(answer)), None) for answer in answers]
    refused = [part["name"] for (part, _), name in zip(asked, said, strict=True) if name]
    assert all(refused.count(part["name"]) >= 2 for part in PARTS)
    assert len(set(said) - {None}) >= 3
