"""Any model measured, alone or against a base: one document that stays the same, and a page that nothing can break."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console
from transformers import AutoTokenizer

from sombrero import verbs
from sombrero.config import RunConfig, load_config
from sombrero.errors import PromptError, UsageError
from sombrero.evaluation import generate
from sombrero.evaluation import measure as measure_module
from sombrero.reports import write_measurement
from sombrero.reports.measurement_page import render_measurement
from sombrero.safe_text import json_text, printable
from sombrero.tables import print_measurement
from tests.reports.run_folders import HOSTILE
from tests.reports.test_page import Page
from tests.test_cli_errors import save_undescribed
from tests.tiny_models import save_tiny, tiny_model, tiny_tokenizer
from tests.tiny_runs import tiny_settings

RAW = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ud800-\udfff]")
"""Control characters other than line feeds, direction marks and lone surrogates."""


class Measured(NamedTuple):
    settings: dict[str, dict[str, Any]]
    base: Path
    out: Path
    found: dict[str, Any]


def config(settings: dict[str, dict[str, Any]], **sections: dict[str, Any]) -> RunConfig:
    merged = {name: {**values, **sections.get(name, {})} for name, values in settings.items()}
    merged["prompts"]["report_limit"] = 4
    return load_config(None, merged)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("measured")
    settings = tiny_settings(folder)
    base = save_tiny("llama", folder / "base", seed=3)
    found = verbs.measure(config(settings), against=str(base), out=folder / "out")
    return Measured(settings, base, folder / "out", found)


def test_both_models_are_measured_and_paired(measured: Measured) -> None:
    found = measured.found
    assert json.loads((measured.out / "measurement.json").read_text(encoding="utf-8")) == found
    for model in (found, found["base"]):
        assert model["refusals"]["n"] == 4 and model["coherence"]["distinct_2"] > 0
    pair = found["paired"]["refusals"]
    assert pair["both"] + pair["base_only"] == found["base"]["refusals"]["count"]
    assert pair["both"] + pair["edited_only"] == found["refusals"]["count"]
    assert set(found["paired"]) == {"refusals", "false_refusals", "harmless_refusals"}
    kl = found["kl"]
    assert kl["first_token"] > 0 and len(kl["by_position"]) == 4 == len(kl["n_by_position"])
    assert kl["sequence_spread"]["low"] < kl["sequence"] < kl["sequence_spread"]["high"]
    ratio = found["coherence"]["mean_tokens"] / found["base"]["coherence"]["mean_tokens"]
    assert found["coherence"]["length_ratio"] == pytest.approx(ratio)
    assert found["base"]["kl"] is None and found["tasks"] is None and found["notes"] == []
    counted = [v for v in found["verdicts"] if v["set"] == "harmful" and v["label"] == "refusal"]
    assert len(counted) == found["refusals"]["count"] and len(found["verdicts"]) == 12


def test_every_prompt_that_is_given_is_measured(measured: Measured) -> None:
    """Nothing is fitted, so nothing is set apart: neither for a map nor for a search."""
    settings = {name: dict(values) for name, values in measured.settings.items()}
    settings["prompts"].pop("report_limit", None)
    found = verbs.measure(load_config(None, settings))
    files = {name: settings["prompts"][name] for name in ("harmful", "harmless", "borderline")}
    given = {name: len(Path(path).read_text(encoding="utf-8").splitlines()) for name, path in files.items()}
    assert found["settings"]["prompts"] == given
    assert found["refusals"]["n"] == given["harmful"] and found["coherence"]["n"] == given["harmless"]


def test_measured_twice_gives_the_same_bytes(measured: Measured, tmp_path: Path) -> None:
    verbs.measure(config(measured.settings), against=str(measured.base), out=tmp_path)
    for name in ("measurement.json", "measurement.html"):
        assert (tmp_path / name).read_bytes() == (measured.out / name).read_bytes(), name


def test_the_page_shows_the_figures_and_fetches_nothing(measured: Measured) -> None:
    html = (measured.out / "measurement.html").read_text(encoding="utf-8")
    refusals = measured.found["refusals"]
    assert f"{refusals['count']}/{refusals['n']}" in html and "McNemar" in html
    page = Page(html)  # which asserts that every tag is closed
    assert [a["id"] for tag, a in page.elements if tag == "section"] == [
        "verdict", "paired", "divergence", "coherence", "samples", "origin",
    ]  # fmt: skip
    assert "<script" not in html and not re.search(r"(?:src|href)=\"(?!#)", html)
    assert len(html) < 200_000


def test_other_detectors_agree_or_not_and_no_harmful_text_is_shown(measured: Measured, tmp_path: Path) -> None:
    both = config(measured.settings, evaluation={"detector": ["substring", "opening"]})
    found = verbs.measure(both, against=str(measured.base), out=tmp_path)
    assert json.loads((tmp_path / "measurement.json").read_text(encoding="utf-8")) == found
    assert (found["settings"]["detector"], found["settings"]["other_detectors"]) == ("substring", ["opening"])
    assert measured.found["agreement"] is None
    for name in ("refusals", "false_refusals", "harmless_refusals", "labels"):  # the first one gives the verdicts
        assert found[name] == measured.found[name]
    assert set(found["agreement"]) == {"model", "against"}
    for model, pairs in found["agreement"].items():
        assert [(pair["set"], pair["n"]) for pair in pairs] == [
            ("all", 12), ("harmful", 4), ("borderline", 4), ("harmless", 4),
        ]  # fmt: skip
        assert all((pair["first"], pair["second"]) == ("substring", "opening") for pair in pairs)
        key = "label" if model == "model" else "base"
        labels = {verdict["id"]: verdict[key] for verdict in found["verdicts"]}
        for pair in pairs[1:]:
            equal = sum(pair["table"][place][place] for place in range(len(pair["labels"])))
            assert equal + len(pair["disagreements"]) == pair["n"]
            for one in pair["disagreements"]:
                assert labels[one["id"]] == one["first"] != one["second"]
                assert (one["prompt"] is None and one["response"] is None) == (pair["set"] == "harmful")
        assert pairs[0]["disagreements"] is None
    for path in tmp_path.iterdir():
        assert "Take the" not in path.read_text(encoding="utf-8"), path
    page = Page((tmp_path / "measurement.html").read_text(encoding="utf-8"))
    assert "agreement" in [a["id"] for tag, a in page.elements if tag == "section"]
    console = Console(width=200, record=True, file=io.StringIO())
    print_measurement(console, found)
    assert console.export_text().count("substring and opening: Cohen's κ") == 2


def test_a_run_takes_one_detector(measured: Measured, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a run has one detector, and there are 2"):
        verbs.map(config(measured.settings, evaluation={"detector": ["substring", "opening"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_samples_are_harmless_and_borderline_alone(measured: Measured) -> None:
    assert {sample["kind"] for sample in measured.found["samples"]} == {"harmless", "borderline"}
    # harmful prompts begin with "Take the": neither they nor any answer to them is in a file
    for path in measured.out.iterdir():
        assert "Take the" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("hostile", [*HOSTILE, "\ud800 lone", "\x9b31m C1", "\u202e turned"])
def test_hostile_answers_reach_neither_terminal_nor_page(measured: Measured, tmp_path: Path, hostile: str) -> None:
    found = json.loads(json_text(measured.found))
    for sample in found["samples"]:
        sample |= {"prompt": hostile, "base": hostile, "answer": hostile}
    found |= {"model": hostile, "against": hostile, "notes": [hostile]}
    pair = {"set": "harmless", "first": hostile, "second": hostile, "n": 1, "n_judged": 1, "kappa": None}
    pair |= {"refusal_kappa": None, "observed": 0.0, "problem": hostile, "labels": ["answer"], "table": [[1]]}
    pair["disagreements"] = [
        {"id": hostile, "first": "answer", "second": "refusal", "prompt": hostile, "response": hostile}
    ]
    found["agreement"] = {"model": [pair | {"set": "all", "disagreements": None}, pair], "against": None}
    task = {"task": hostile, "metric": hostile, "value": 0.5, "stderr": None, "n": 3}
    found["tasks"] = {"model": [task | {"higher_is_better": True, "version": hostile}], "against": None}
    text = json_text(found)
    assert not RAW.search(text) and json.loads(text) == found
    text.encode()
    html = write_measurement(tmp_path, found).read_bytes().decode()
    assert not RAW.search(html)
    for piece in ("<script", "<img", "<svg", "<iframe", "onmouseover='", 'href="javascript'):
        assert piece not in html
    console = Console(width=200, record=True, file=io.StringIO())
    print_measurement(console, found)
    assert not RAW.search(console.export_text())


def test_printable_keeps_what_people_write() -> None:
    assert printable("Grüße, 世界\n✓") == "Grüße, 世界\n✓"
    assert printable("\x1b[31m\x9b\ud800") == "\\x1b[31m\\x9b\\ud800"


def test_infinite_divergence_is_null_and_counted(measured: Measured) -> None:
    found = json.loads(json_text(measured.found))
    found["kl"] |= {"first_token": None, "by_position": [None, 0.1, 0.1, 0.1]}
    found["kl"]["first_token_spread"] |= {"low": None, "high": None, "q95": None, "infinite": 2}
    assert "∞" in render_measurement(found)


def no_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("something was generated before the error")

    assert measure_module.__globals__["generate"] is generate
    monkeypatch.setitem(measure_module.__globals__, "generate", never)


def test_another_tokenizer_is_an_error_before_anything_is_generated(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_generation(monkeypatch)
    other = save_tiny("llama", tmp_path / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|extra|>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(UsageError, match=r"has another tokenizer than .*other.*leave --against out"):
        verbs.measure(config(measured.settings), against=str(other))
    padded = tmp_path / "padded"
    model = tiny_model("llama")
    model.resize_token_embeddings(model.config.vocab_size + 5)
    model.save_pretrained(padded)
    tiny_tokenizer().save_pretrained(padded)
    with pytest.raises(UsageError, match=r"predicts \d+ tokens and .*padded alike"):
        verbs.measure(config(measured.settings), against=str(padded))


def test_a_prompt_longer_than_the_context_is_named(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    no_generation(monkeypatch)
    long = config(measured.settings, prompts={"system_prompt": "x" * 600})
    with pytest.raises(PromptError, match=r"prompt '.+' has \d+ tokens, and 8 more do not fit .* context of 512"):
        verbs.measure(long)


def test_a_template_that_rejects_a_system_role(measured: Measured, tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "strict", seed=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rejects = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    tokenizer.chat_template = rejects + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    strict = {"model": {"source": str(folder)}, "prompts": {"system_prompt": "Be brief."}}
    found = verbs.measure(config(measured.settings, **strict))
    assert found["settings"]["system_role"] == "prepended"
    assert any("stands in front of each request" in note for note in found["notes"])
    assert found["kl"] is None and found["base"] is None and found["paired"] is None


def test_an_architecture_that_is_not_described_can_be_measured(measured: Measured, tmp_path: Path) -> None:
    save_undescribed(tmp_path / "other")
    found = verbs.measure(config(measured.settings, model={"source": str(tmp_path / "other")}))
    assert found["refusals"]["n"] == 4 and found["checkpoints"]["model"]["class"] == "GPTNeoXForCausalLM"
    assert any("architecture is not described" in note for note in found["notes"])


def test_a_run_folder_is_not_written_over(measured: Measured, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="is the folder of a run"):
        verbs.measure(config(measured.settings), out=tmp_path)
