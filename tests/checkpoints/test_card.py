"""Model cards: complete, and safe whatever the strings in them are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from sombrero.checkpoints import CardData, CardEffect, measured_effects, paired_sentence, render_card, write_card
from sombrero.records import (
    Coherence,
    Divergence,
    EditParameters,
    LayerProfile,
    Measurement,
    PairedRefusals,
    Proportion,
    Spread,
)

HOSTILE = (
    'x"\n---\nlicense: evil\n# Owned <script>alert(1)</script> | `code` ``more`` [a](http://e.vil) '
    "![i](http://e.vil/p.png) "
    "{{ 7*7 }} {% raw %} \u202edesrever \u2028 \ud800 \x00 &lt; @someone www.evil.com $x$ ~~no~~ C:\\n"
)


def card(**changes: Any) -> CardData:
    parameters = EditParameters(
        rule="guarded",
        directions="som",
        map_layer=None,
        units=(0, 2),
        profiles={"attention": LayerProfile(10, 29, 1.5), "mlp": LayerProfile(12, 20, 0.4)},
    )
    values: dict[str, Any] = {
        "name": "tiny-edited",
        "base": "owner/tiny",
        "base_revision": "abc123",
        "parameters": parameters,
        "rank": 2,
        "n_edited": 40,
        "effects": (
            CardEffect("Refusals", Proportion(95, 100, 0.888, 0.978), Proportion(4, 100, 0.016, 0.098)),
            CardEffect("KL, first token", None, 0.09634, "nats"),
        ),
        "command": "sombrero run owner/tiny --config run.toml",
        "seed": 3,
        "config": "[search]\ntrials = 48\n",
        "prompts": {"harmful": "100 starter prompts"},
        "versions": {"sombrero": "0.1.0"},
    }
    return CardData(**{**values, **changes})


def front_matter(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match is not None
    return yaml.safe_load(match[1])


BASE_README = "---\nlicense: apache-2.0 # yes\ntags: [x]\n---\n# Base\n"


def test_a_card_says_what_was_done_to_which_base_with_which_effect(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(BASE_README)
    path = write_card(tmp_path, card())
    assert (tmp_path / "README.base.md").read_text() == BASE_README
    text = path.read_text()
    data = ModelCard(text).data.to_dict()
    assert data["license"] == "apache-2.0" and data["base_model"] == "owner/tiny"
    assert data["tags"] == ["sombrero", "refusal-direction"]
    for part in (
        "`abc123`",
        "`guarded`",
        "1.5 on layers 10 to 29",
        "0.4 on layers 12 to 20",
        "95/100 (95.0%; 95% interval 88.8% to 97.8%) | 4/100 (4.0%; 95% interval 1.6% to 9.8%)",
        "| - | 0.0963 nats |",
        "## What was not measured",
        "## Intended use",
        "## Misuse",
        "sombrero run owner/tiny --config run.toml",
        "trials = 48",
        "Seed 3",
    ):
        assert part in text
    assert "\n\n\n\n" not in text


def test_writing_a_card_again_keeps_the_base_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(BASE_README)
    first = write_card(tmp_path, card()).read_bytes()
    assert write_card(tmp_path, card()).read_bytes() == first
    assert (tmp_path / "README.base.md").read_text() == BASE_README
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.base.md", "README.md"]


@pytest.mark.parametrize(
    "field", ["name", "base", "base_revision", "command", "config", "prompts", "versions", "not_measured", "effects"]
)
def test_a_hostile_string_stays_text(field: str) -> None:
    values: dict[str, Any] = {
        "prompts": {HOSTILE: HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "not_measured": (HOSTILE, "- [x] <b>"),
        "effects": (CardEffect(HOSTILE, 1.0, 2.0, HOSTILE),),
    }
    text = render_card(card(**{field: values.get(field, HOSTILE)}), BASE_README)
    reference = render_card(card(), BASE_README)
    text.encode("utf-8")
    data = front_matter(text)
    assert data["license"] == "apache-2.0"
    assert set(data) - {"base_model", "base_model_relation"} == set(front_matter(reference)) - {
        "base_model",
        "base_model_relation",
    }
    bare = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", text)  # fenced blocks first, then code spans, then escapes
    bare = re.sub(r"(?s)(?<!\\)(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", bare)
    bare = re.sub(r"\\.", "", bare)
    assert "<script" not in bare and "![" not in bare and "\n# Owned" not in bare
    assert "www." not in bare and "http" not in bare.replace("http//", "") and "://" not in bare and "@" not in bare
    assert bare.count("\n#") == re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", reference).count("\n#")
    assert "49" not in bare
    assert not re.search("[\u202e\u2028\x00]", text)


@pytest.mark.parametrize("base", ["/home/someone/models/tiny", "C:\\Users\\someone\\tiny", "tiny", "a/b/c", "../x"])
def test_a_local_base_gives_no_hub_id_and_no_private_path(base: str) -> None:
    text = render_card(card(base=base))
    assert "base_model" not in front_matter(text)
    assert "someone" not in text


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("---\nlicense: mit\n---\n", {"license": "mit"}),
        ("---\r\nlicense: 'llama3.2'\r\n---\r\n", {"license": "llama3.2"}),
        ("---\nlicense:\n  - apache-2.0\n---\n", {"license": "apache-2.0"}),
        (
            "---\nlicense: other\nlicense_name: my-own\nlicense_link: LICENSE\n---\n",
            {"license": "other", "license_name": "my-own", "license_link": "LICENSE"},
        ),
        ("---\nlicense: !!python/object:os.system\n---\n", {}),
        ("---\nlicense: [a, b]\n---\n", {}),
        ("no front matter\nlicense: mit\n", {}),
        ("---\nmodel: x\n---\nlicense: mit\n---\n", {}),
        (None, {}),
    ],
)
def test_the_license_is_carried_on_from_the_base(readme: str | None, expected: dict[str, str]) -> None:
    data = front_matter(render_card(card(), readme))
    assert {key: value for key, value in data.items() if key.startswith("license")} == expected


def test_effects_come_from_two_measurements() -> None:
    def measurement(count: int, kl: float) -> Measurement:
        share = Proportion(count, 100, 0.0, 1.0)
        return Measurement(share, share, share, {}, Divergence(kl, kl, (), ()), Coherence(5.0, 0.1, 0, 1, 50), ())

    text = render_card(card(effects=measured_effects(measurement(95, 0.0), measurement(4, 0.1))))
    assert "| Refusals on harmful prompts | 95/100" in text
    assert "Nothing was measured" in render_card(card(effects=()))
    assert "| - | 0.1 nats |" in text and "| 1 of 50 | 1 of 50 |" in text
    assert "easoning" not in text and "median" not in text and "Prompt by prompt" not in text


def test_the_card_says_spread_reasoning_and_paired_tests() -> None:
    share = Proportion(4, 100, 0.016, 0.098)
    spread = Spread(median=0.02, q90=0.3, q95=0.456, low=0.08, high=0.12, infinite=2)
    divergence = Divergence(0.1, 0.05, (), (), first_token_spread=spread, sequence_spread=replace(spread, low=None))
    labels = {"refusal": 4, "answer": 93, "unfinished": 3}
    edited = Measurement(
        share, share, share, labels, divergence, Coherence(5.0, 0.1, 0, 1, 50), (), reasoning_refusals=share
    )
    pair = PairedRefusals(4, 91, 0, 5, -0.91, -0.96, -0.85, 8.1e-28)
    text = render_card(
        card(effects=measured_effects(edited, edited), pairs=(paired_sentence("Harmful prompts", pair),))
    )
    plain = text.replace("\\", "")
    for piece in (
        "| 3 of 100 | 3 of 100 |", "Reasoning that refuses", "95% interval 0.08 to 0.12", "0.02 nats", "0.456 nats",
        "infinite on 2 prompts", "91 of 100 refused by the base alone",
    ):  # fmt: skip
        assert piece in plain, piece
