"""The page as a reader gets it: one file, the run's own figures, nothing that a string from outside could do."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from sombrero.errors import RunError
from sombrero.records import RefusalMap
from sombrero.reports import write_report
from sombrero.reports.run_files import read_run
from sombrero.tensor_records import load_record, save_record
from tests.reports.run_folders import HOSTILE, STAGES, refusal_map, trials, write, write_map_records, write_run

MOST_BYTES = 6 * 10**6
VOID = {"meta", "input", "br", "img", "link", "hr"}
FETCHING = {
    "src",
    "srcset",
    "href",
    "action",
    "formaction",
    "data",
    "poster",
    "background",
    "ping",
    "xlink:href",
    "srcdoc",
}
SECTIONS = [
    "verdict",
    "map",
    "manifold",
    "sizes",
    "layers",
    "controls",
    "trials",
    "samples",
    "pairs",
    "proof",
    "origin",
]


class Page(HTMLParser):
    """Parses a page strictly enough to see unbalanced tags; keeps elements, attributes, texts and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]

    @property
    def data(self) -> dict[str, Any]:
        """What the page's own script reads."""
        (found,) = [text for attributes, text in self.scripts if attributes.get("type") == "application/json"]
        data: dict[str, Any] = json.loads(found)
        return data


def read(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return read(run)


def test_the_page_asks_nothing_of_the_network(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"link", "iframe", "object", "embed", "base", "form", "img", "audio", "video"})
    targets = {value for _, attributes in page.elements for name, value in attributes.items() if name in FETCHING}
    assert targets and all(str(target).startswith("#") for target in targets)
    assert {str(target)[1:] for target in targets} <= set(page.ids)
    (policy,) = [a["content"] or "" for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split("script-src")[1].split(";")[0]


def test_styles_fetch_nothing_and_know_dark_and_print(run: Path) -> None:
    style = (run / "report.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style


def test_the_policy_allows_exactly_the_scripts_of_the_page(page: Page) -> None:
    import base64
    import hashlib

    (policy,) = [a["content"] or "" for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    code = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code} == allowed


def test_size(run: Path, page: Page, tmp_path: Path) -> None:
    assert page.ids
    assert (run / "report.html").stat().st_size < MOST_BYTES
    long = write_run(tmp_path / "long", n_trials=3000, texts=tuple(f"{i} " + "漢字" * 5000 for i in range(100)))
    large = refusal_map(20, 20)
    save_record(large, long / "map/map.safetensors")
    write_map_records(long, large)
    assert write_report(long).stat().st_size < MOST_BYTES


def test_sections_in_order_and_ids_unique(page: Page) -> None:
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    assert len(page.ids) == len(set(page.ids))
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), tag


def test_figures_are_those_of_the_summary(run: Path, page: Page) -> None:
    summary = json.loads((run / "summary.json").read_bytes())
    for model in ("base", "edited", "baked"):
        for key in ("refusals", "false_refusals", "harmless_refusals"):
            value = summary[model][key]
            assert f"{value['count']}/{value['n']}" in page.words
            assert f"{100 * value['low']:.1f}–{100 * value['high']:.1f}%" in page.words
        assert f"{summary[model]['coherence']['perplexity']:.2f}" in page.words
    base, baked = summary["base"]["refusals"], summary["baked"]["refusals"]
    sentence = page.words[page.words.index("The base model refuses") :]
    assert sentence.startswith(f"The base model refuses {base['count']}/{base['n']} ({base['count'] / base['n']:.1%};")
    assert f"the edited and baked model refuses {baked['count']}/{baked['n']}" in sentence
    assert f"at a first-token KL of {summary['baked']['kl']['first_token']:.3f} nats" in sentence


def test_the_verdict_counts_directions_beside_their_control(run: Path, page: Page) -> None:
    found, state = read_run(run).quality, read_run(run).shown_state
    assert found is not None and state is not None
    interval = f"(95% interval {int(found.chosen_low[state])}–{int(found.chosen_high[state])})"
    said = page.words[page.words.index("How many directions? ") :]
    assert said.startswith(f"How many directions? At state {state}, after layer {state - 1}, the harmful prompts")
    assert interval in said[:200] and "the control, " in said[:250]
    kl = json.loads((run / "summary.json").read_bytes())["baked"]["kl"]["first_token"]
    assert f"(95% interval {kl * 0.8:.3g}" in page.words


def test_the_verdict_tells_of_a_limit_that_was_missed(tmp_path: Path, page: Page) -> None:
    assert "kept to every limit" not in page.words
    run = write_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_bytes())
    limits = {"max_refusals": {"limit": 0.05, "value": 0.094, "met": False}}
    limits["max_kl"] = {"limit": 0.15, "value": 0.12, "met": True}
    (run / "summary.json").write_text(json.dumps(summary | {"constraints": {"reached": False, "trial": 3, **limits}}))
    said = read(run).words
    assert "9.4% not answered (refused, deflected or broken; at most 5.0% was asked for)." in said
    assert "(at most 0.15 was asked for)" not in said


def test_proof_and_origin(page: Page) -> None:
    for said in (
        "1 of 96 harmful prompts: harmful-9",
        "max |Δ| 0.0123, mean |Δ| 4.50e−4",
        "24 edited, 110 untouched",
        "24 writers in 12 layers",
        "sombrero run embedded --config run.toml",
        "[search]",
        "3.00 GiB",
        "dropped: they are neither on this page nor in the run folder",
    ):
        assert said in page.words


def test_a_run_that_keeps_responses_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", until="baseline")
    write(run / "run.json", json.loads((run / "run.json").read_bytes()) | {"keeps_responses": True})
    words = read(run).words
    assert "responses.jsonl" in words and "neither on this page nor" not in words


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_strings_stay_text(tmp_path: Path, hostile: str) -> None:
    run = write_run(
        tmp_path / "run",
        texts=(hostile,),
        model={"source": hostile, "revision": hostile},
        prompts={"system_prompt": hostile},
    )
    manifest = json.loads((run / "run.json").read_bytes())
    manifest["versions"][hostile] = manifest["identity"][hostile] = manifest["created"] = hostile
    write(run / "run.json", manifest)
    lines = trials(48)
    for line in lines:
        line |= {"error": hostile} if line["state"] == "failed" else {}
        line["parameters"]["directions"] = hostile
        line["parameters"]["profiles"] = {"mlp": line["parameters"]["profiles"]["mlp"]}
    (run / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    verification = json.loads((run / "verification.json").read_bytes()) | {"flips": [hostile]}
    write(run / "verification.json", verification)
    plain = write_run(tmp_path / "plain")
    page, usual = read(run), read(plain)
    # nothing was added to the page but text
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in usual.elements}
    assert len(page.scripts) == len(usual.scripts) == 4
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    shown = "".join(c if c.isprintable() else f"⟨U+{ord(c):04X}⟩" for c in hostile)
    assert page.words.count(" ".join(shown.split())) >= 6
    assert "<" not in "".join(page.data["charts"]["trials"]["data"][1]["hovertext"]).replace("<br>", "")


def test_control_characters_are_shown_and_never_sent(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path / "run", texts=HOSTILE[-1:])).read_text(encoding="utf-8")
    own = html.split('<script type="application/json"')[0]
    assert "⟨U+202E⟩" in own and "⟨U+0000⟩" in own and "⟨U+2028⟩" in own
    assert not set(own) & set("\u2028\u202e\x00\x07\x1b\x7f")


def test_lone_surrogates_can_be_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", until="baseline")
    write(run / "run.json", json.loads((run / "run.json").read_bytes()) | {"created": "\ud800"})
    assert "⟨U+D800⟩" in read(run).words


def test_passwords_and_folders_of_the_maker_stay_at_home(tmp_path: Path) -> None:
    storage = "postgresql://ada:se@cret@db.example:5432/studies"
    run = write_run(
        tmp_path / "run", until="map", search={"storage": storage}, model={"source": "/srv/ada/models/Tiny-1B"}
    )
    page = read(run)
    assert "cret" not in page.words and "postgresql://***@db.example:5432/studies" in page.words
    assert ("title", {}) in page.elements and "Tiny-1B: a map of refusal" in page.words


@pytest.mark.parametrize("until", STAGES)
def test_partial_runs_show_what_is_there(tmp_path: Path, until: str) -> None:
    run = write_run(tmp_path / "run", until=until)
    page = read(run)
    there = STAGES[: STAGES.index(until) + 1]
    needs = {
        "verdict": "baseline",
        "map": "directions",
        "manifold": "directions",
        "layers": "directions",
        "sizes": "directions",
        "controls": "directions",
        "trials": "search",
        "samples": "effect",
        "pairs": "effect",
        "proof": "coverage",
        "origin": "coverage",
    }
    assert [a["id"] for tag, a in page.elements if tag == "section"] == [s for s in SECTIONS if needs[s] in there]
    assert ("This run is not finished." in page.words) == (until != "summary")
    assert (run / "map.png").is_file() == ("directions" in there)
    missing = [stage for stage in STAGES if stage not in there and stage != "edit"]
    assert f"Not there yet: {', '.join(missing)}." in page.words or until == "summary"


def test_a_search_that_is_still_going(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", until="directions")
    (run / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in trials(17)), encoding="utf-8")
    assert "The search has made 17 of 48 trials." in read(run).words


def test_a_search_that_went_on_after_the_result(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in trials(50)), encoding="utf-8")
    assert "picked from the first 48 trials; there are 50 by now" in read(run).words


@pytest.mark.parametrize(
    "name",
    [
        "coverage.json",
        "baseline.json",
        "map/map.safetensors",
        "map/directions-single.safetensors",
        "trials.jsonl",
        "effect.json",
        "verification.json",
        "summary.json",
    ],
)
def test_a_finished_stage_needs_its_file(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(b"{ damaged")
    with pytest.raises(RunError, match=re.escape(Path(name).name)):
        write_report(run)
    (run / name).unlink()
    with pytest.raises(RunError, match=rf"is finished, but {re.escape(name)} is missing"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run in"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("[]", encoding="utf-8")
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        write_report(tmp_path)


def test_a_sample_of_a_harmful_prompt_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    effect = json.loads((run / "effect.json").read_bytes())
    effect["samples"][0]["kind"] = "harmful"
    write(run / "effect.json", effect)
    with pytest.raises(RunError, match=r"effect\.json cannot be read"):
        write_report(run)


def test_same_files_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    first = [(write_report(run).read_bytes(), (run / "map.png").read_bytes()) for _ in range(2)]
    assert first[0] == first[1]
    assert not list(run.rglob("*.partial"))


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    """A layer whose states blew up is a gap in the chart; the page still opens."""
    run = write_run(tmp_path / "run")
    path = run / "map/map.safetensors"
    found = load_record(RefusalMap, path)
    found.u_matrix[2] = torch.nan
    found.u_matrix[8, 3] = torch.nan
    found.quantization_error[4] = torch.inf
    save_record(found, path)
    page = read(run)
    assert page.data["map"]["states"][2]["u"] == [None] * 16
    assert page.data["map"]["states"][8]["u"][3] is None
