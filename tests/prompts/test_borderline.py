"""The borderline set and its harmful twins: complete pairs that the surface of a text does not tell apart."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from itertools import product
from typing import get_args

import pytest

from sombrero.prompts import StarterName, check_disjoint, normalised, starter_prompts
from sombrero.records import Prompt, SplitName

SIZES: dict[SplitName, int] = {"map": 304, "search": 32, "report": 64}


def read(name: str) -> list[dict[str, str]]:
    resource = files("sombrero.prompts").joinpath("data", f"{name}.jsonl")
    return [json.loads(line) for line in resource.read_text(encoding="utf-8").splitlines()]


def twins() -> list[tuple[Prompt, Prompt]]:
    return [
        twin
        for split in SIZES
        for twin in zip(starter_prompts("borderline", split), starter_prompts("contrast", split), strict=True)
    ]


@pytest.mark.parametrize("name", ["borderline", "contrast"])
def test_rows_have_their_shape(name: str) -> None:
    rows = read(name)
    assert len(rows) == sum(SIZES.values())
    for number, row in enumerate(rows, 1):
        assert list(row) == ["id", "pair", "text", "category", "split"]
        assert (row["id"], row["pair"]) == (f"{name}-{number:03d}", f"pair-{number:03d}")
        assert row["text"] == " ".join(row["text"].split())
        assert 4 <= len(row["text"].split()) <= 16
    assert len({normalised(row["text"]) for row in rows}) == len(rows)


@pytest.mark.parametrize("name", ["borderline", "contrast"])
def test_splits_have_their_sizes_and_every_category(name: StarterName) -> None:
    by_split = {split: starter_prompts(name, split) for split in SIZES}
    assert {split: len(prompts) for split, prompts in by_split.items()} == SIZES
    counts = {split: Counter(prompt.category for prompt in prompts) for split, prompts in by_split.items()}
    assert counts["map"].keys() == counts["search"].keys() == counts["report"].keys()
    for count in counts.values():
        assert len(set(count.values())) == 1, "each category has the same share of a split"


def test_twins_are_alike_on_the_surface() -> None:
    for borderline, contrast in twins():
        safe, harmful = borderline.text.split(), contrast.text.split()
        assert (borderline.pair, borderline.category) == (contrast.pair, contrast.category)
        assert safe[0] == harmful[0], borderline.id
        assert borderline.text[-1] == contrast.text[-1] and borderline.text[-1] in ".?", borderline.id
        assert abs(len(safe) - len(harmful)) <= 2, borderline.id


def test_no_length_tells_the_sets_apart() -> None:
    pairs = twins()
    n_words = [len(b.text.split()) - len(c.text.split()) for b, c in pairs]
    n_characters = [len(b.text) - len(c.text) for b, c in pairs]
    assert abs(sum(n_words)) / len(pairs) < 0.25
    assert abs(sum(n_characters)) / len(pairs) < 1.0


def test_starter_sets_and_their_splits_are_disjoint() -> None:
    names = product(get_args(StarterName), SIZES)
    check_disjoint({f"{name} {split}": starter_prompts(name, split) for name, split in names})
