"""The Python face: lazy names, settings by the names of their flags, results that notebooks show, an edit at work."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import sombrero
from sombrero import Result, RunConfig, Sombrero, measure
from sombrero.api import setting_places
from sombrero.config import load_config
from sombrero.errors import UsageError
from sombrero.flags import ALL_SECTIONS, SKIPPED, with_flags
from sombrero.tables import print_mapping
from tests.commands import environment
from tests.tiny_runs import tiny_settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model and its settings, flat, as a caller writes them."""
    sections = tiny_settings(tmp_path_factory.mktemp("api"))
    sections["search"]["trials"] = 3
    flat = {}
    for section, values in sections.items():
        flat |= {f"map_{key}" if section == "map" else key: value for key, value in values.items()}
    return flat


@pytest.fixture(scope="module")
def tiny(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sombrero]:
    model, rest = settings["source"], {key: value for key, value in settings.items() if key != "source"}
    yield Sombrero(model, out=tmp_path_factory.mktemp("runs") / "run", **rest)


@pytest.fixture(scope="module")
def ran(tiny: Sombrero) -> Result:
    return tiny.run()


class Tags(HTMLParser):
    """Names of the elements, the kinds of their images, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        if tag == "img":
            self.images.append((dict(attrs)["src"] or "").partition(",")[0])

    def handle_data(self, data: str) -> None:
        self.text += data


def test_importing_is_quick_and_the_names_are_there() -> None:
    code = (
        "import sys, time; t = time.process_time(); import sombrero; t = time.process_time() - t; "
        "from sombrero import Sombrero, measure; print(t, 'torch' in sys.modules); "
        "from sombrero import SelfOrganizingMap; print(SelfOrganizingMap.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
    ).stdout.split()
    assert float(done[0]) < 0.3
    assert done[1:] == ["False", "SelfOrganizingMap"]


def test_every_offered_name_can_be_fetched() -> None:
    assert set(sombrero.__all__) <= set(dir(sombrero))
    assert all(getattr(sombrero, name) is not None for name in sombrero.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Fez'"):
        sombrero.Fez  # noqa: B018


def test_a_setting_has_the_name_of_its_flag() -> None:
    """One name for the command line and for Python, and none that means two things."""

    @with_flags(*ALL_SECTIONS, "bake", "compare")
    def command(config: Any) -> None: ...

    options = [p.annotation.__metadata__[0] for p in inspect.signature(command).parameters.values()]
    flags = [str(option.default).lstrip("-").partition("/")[0].replace("-", "_") for option in options]
    assert len(flags) == len(set(flags))
    without_flag = {name for _, name in SKIPPED} - {"source"}
    assert set(flags) - {"config"} | without_flag == set(setting_places())


def test_settings_may_be_flat_in_sections_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[search]\ntrials = 7\nfinalists = 2\n")
    found = Sombrero("m", config=file, trials=9, map_n_rows=2, seed=3, evaluation={"max_new_tokens": 5}).config
    assert found == load_config(
        None,
        {
            "": {"seed": 3},
            "model": {"source": "m"},
            "search": {"trials": 9, "finalists": 2},
            "map": {"n_rows": 2},
            "evaluation": {"max_new_tokens": 5},
        },
    )
    assert Sombrero("m", config=found, trials=8).config.search.trials == 8
    assert isinstance(found, RunConfig)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trails": 3}, "no setting trails .*did you mean trials"),
        ({"trials": 0}, "search.trials"),
        ({"search": 3}, "no setting search"),
        ({"source": "other"}, "no setting source"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_loaded(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sombrero("m", **wrong)


def test_a_run_returns_its_summary_and_shows_what_the_terminal_shows(tiny: Sombrero, ran: Result) -> None:
    assert json.loads((tiny.out / "summary.json").read_bytes()) == {k: v for k, v in ran.items() if k != "run"}
    assert "refusals on harmful prompts" in repr(ran)
    shown = Tags(ran._repr_html_())
    assert "refusals on harmful prompts" in shown.text
    assert shown.images == ["data:image/svg+xml;base64"] * 2


def test_the_map_and_the_search_are_read_from_the_same_folder(tiny: Sombrero, ran: Result) -> None:
    before = (tiny.out / "run.json").read_bytes()
    found = tiny.map()
    assert "Units of the map" in Tags(found._repr_html_()).text
    front = tiny.search()["front"]
    assert {score["number"] for score in front} <= {0, 1, 2}
    assert (tiny.out / "run.json").read_bytes() == before, "no stage is made again"


def test_an_edit_works_inside_its_block_alone(tiny: Sombrero, ran: Result) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    with tiny.edit() as edited:
        inside = edited.model(ids).logits
    outside = edited.model(ids).logits
    assert not torch.allclose(inside, outside)
    with Sombrero(tiny.out).edit(ran["edit"]["trial"]) as again:
        assert torch.allclose(again.model(ids).logits, inside, atol=1e-4)
        assert again.tokenizer.chat_template
    with pytest.raises(UsageError, match="no trial 99"), tiny.edit(99):
        pass


def test_bake_measure_and_report(tiny: Sombrero, ran: Result, tmp_path: Path, settings: dict[str, Any]) -> None:
    baked = tiny.bake(tmp_path / "baked", trial=1)
    assert baked["trial"] == 1
    rest = {key: value for key, value in settings.items() if key != "source"}
    found = measure(baked["model"], against=tiny.config.model.source, report_limit=4, **rest)
    assert found["refusals"]["n"] == 4
    assert found["base"] is not None
    assert "<table" not in found._repr_html_()
    assert tiny.report() == tiny.out / "report.html"


def test_an_earlier_run_brings_its_settings(tiny: Sombrero, ran: Result) -> None:
    again = Sombrero(tiny.out, trials=4)
    assert again.out == tiny.out
    assert again.config.search.trials == 4
    assert again.config.evaluation == tiny.config.evaluation
    with pytest.raises(UsageError, match="run folder"):
        Sombrero(tiny.out, out="elsewhere")


def test_foreign_text_stays_text_and_a_missing_picture_is_said(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b[2J"
    shown = Tags(Result({"model": hostile}, print_mapping, (tmp_path / "map.svg",))._repr_html_())
    assert "script" not in shown.names
    assert "alert(1)" in shown.text
    assert "no picture map.svg" in shown.text
