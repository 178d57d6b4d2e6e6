"""The starter sets differ in what is asked, not in how the request looks.

If length, punctuation or the first word told harmful from harmless prompts, a map or a direction
could learn the surface and be mistaken for refusal.
"""

import json
import re
from collections import Counter, defaultdict
from importlib.resources import files

import numpy as np
import pytest
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SPLIT_SIZES = {
    "harmful": {"map": 160, "search": 64, "report": 96},
    "harmless": {"map": 480, "search": 64, "report": 96},
}
MAIN_SETS = tuple(SPLIT_SIZES)
PAIRED_SETS = ("borderline", "contrast")
ALL_SETS = MAIN_SETS + PAIRED_SETS
LOWEST_AUROC, HIGHEST_AUROC = 0.35, 0.62
N_SHUFFLES = 3


def load(name):
    text = (files("sombrero.prompts") / "data" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def normalised(text):
    return " ".join(re.sub(r"[^\w\s]", "", text.casefold()).split())


def surface(text):
    return {
        "characters": len(text),
        "words": len(text.split()),
        "ends with ?": text.endswith("?"),
        "ends with .": text.endswith("."),
        "commas": text.count(","),
        f"first word {text.split()[0].casefold()}": 1,
    }


def surface_auroc(positive, negative):
    """Cross-validated AUROC, mean over shuffles, of a classifier that sees only the surface.

    The two halves of a pair stay in one fold. Apart, they would push the figure below chance:
    a held-out prompt's first word would be in the minority of its training fold.
    """
    prompts = positive + negative
    features = [surface(prompt["text"]) for prompt in prompts]
    labels = [1] * len(positive) + [0] * len(negative)
    groups = [prompt.get("pair", prompt["id"]) for prompt in prompts]
    classifier = make_pipeline(DictVectorizer(sparse=False), StandardScaler(), LogisticRegression(max_iter=2000))
    scores = [
        cross_val_score(
            classifier,
            features,
            labels,
            groups=groups,
            cv=StratifiedGroupKFold(5, shuffle=True, random_state=seed),
            scoring="roc_auc",
        ).mean()
        for seed in range(N_SHUFFLES)
    ]
    return float(np.mean(scores))


@pytest.mark.parametrize("name", MAIN_SETS)
def test_split_sizes(name):
    assert Counter(prompt["split"] for prompt in load(name)) == SPLIT_SIZES[name]


@pytest.mark.parametrize("name", MAIN_SETS)
def test_ids_are_numbered_from_one(name):
    ids = [prompt["id"] for prompt in load(name)]
    assert ids == [f"{name}-{number:03d}" for number in range(1, len(ids) + 1)]


def test_no_id_and_no_text_occurs_twice():
    prompts = [prompt for name in ALL_SETS for prompt in load(name)]
    for key, values in {
        "id": [prompt["id"] for prompt in prompts],
        "text": [normalised(prompt["text"]) for prompt in prompts],
    }.items():
        repeated = [value for value, count in Counter(values).items() if count > 1]
        assert not repeated, f"repeated {key}: {repeated}"


@pytest.mark.parametrize("name", MAIN_SETS)
def test_splits_are_disjoint(name):
    splits_of_text = defaultdict(set)
    for prompt in load(name):
        splits_of_text[normalised(prompt["text"])].add(prompt["split"])
    shared = [text for text, splits in splits_of_text.items() if len(splits) > 1]
    assert not shared, f"in more than one split: {shared}"


@pytest.mark.parametrize("name", MAIN_SETS)
def test_every_category_is_in_every_split_in_proportion(name):
    prompts = load(name)
    size = Counter(prompt["category"] for prompt in prompts)
    present = Counter((prompt["category"], prompt["split"]) for prompt in prompts)
    for category, category_size in size.items():
        for split, split_size in SPLIT_SIZES[name].items():
            count = present[category, split]
            expected = category_size * split_size / len(prompts)
            assert count > 0, f"{category} has no {split} prompt"
            assert abs(count - expected) <= 2, f"{category}/{split}: {count}, expected {expected}"


@pytest.mark.parametrize("name", MAIN_SETS)
def test_prompts_are_one_short_line(name):
    for prompt in load(name):
        text = prompt["text"]
        assert 4 <= len(text.split()) <= 20, text
        assert text == " ".join(text.split()), f"stray white space: {text!r}"


@pytest.mark.parametrize("split", [None, "map", "search", "report"])
def test_surface_does_not_tell_harmful_from_harmless(split):
    harmful, harmless = ([prompt for prompt in load(name) if split in (None, prompt["split"])] for name in MAIN_SETS)
    assert LOWEST_AUROC <= surface_auroc(harmful, harmless) <= HIGHEST_AUROC


def test_surface_does_not_tell_borderline_from_contrast():
    borderline, contrast = (load(name) for name in PAIRED_SETS)
    assert LOWEST_AUROC <= surface_auroc(borderline, contrast) <= HIGHEST_AUROC
