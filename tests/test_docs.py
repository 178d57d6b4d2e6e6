"""The guide: links lead somewhere, the menu names every page, quoted errors exist, and the tutorial's commands run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import tomli_w
import yaml

from sombrero.config import load_config
from sombrero.reports.page import SECTIONS
from tests.commands import Command
from tests.tiny_runs import tiny_settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md"])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"^### `(.+)`$", re.MULTILINE)


class _AnyTag(yaml.SafeLoader):
    """A menu may hold tags of the site's generator."""


_AnyTag.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text(encoding="utf-8")))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as Python-Markdown and GitHub make them for plain headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return frozenset(re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    missing = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            missing.append(target)
    assert missing == []


def test_a_broken_link_and_a_broken_anchor_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One title\n\n[a](gone.md) [b](#one-title) [c](#other)\n\n```sh\n[d](code.md)\n```\n")
    with pytest.raises(AssertionError, match=r"gone.md.*#other"):
        test_every_link_leads_somewhere(page)


def test_the_menu_names_every_page_once() -> None:
    menu = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_AnyTag)["nav"]
    assert sorted(leaves(menu)) == sorted(page.name for page in DOCS.glob("*.md"))


def leaves(menu: object) -> Iterator[str]:
    if isinstance(menu, str):
        yield menu
    elif isinstance(menu, dict):
        for below in menu.values():
            yield from leaves(below)
    elif isinstance(menu, list):
        for entry in menu:
            yield from leaves(entry)


@pytest.mark.slow
def test_the_site_is_built_and_its_links_lead_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``make docs`` builds it: what the generator complains of fails it. Then what it wrote, docstrings too."""
    pytest.importorskip("mkdocs", reason="MkDocs is not installed (pip install .[docs])")
    pytest.importorskip("material", reason="the theme is not installed (pip install .[docs])")
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path: Links.of(path) for path in tmp_path.glob("*.html") if path.name != "404.html"}
    assert {path.stem for path in pages} == {page.stem for page in DOCS.glob("*.md")}
    assert [loaded for page in pages.values() for loaded in page.loaded if re.match(r"([a-z]+:)?//", loaded)] == []
    missing = []
    for path, page in pages.items():
        for target in (link for link in page.links + page.loaded if not re.match(r"[a-z]+:", link)):
            name, _, anchor = unquote(target).partition("#")
            file = (path.parent / name).resolve() if name else path
            if not file.exists() or (anchor and file in pages and anchor not in pages[file].ids | {"__skip"}):
                missing.append(f"{path.name}: {target}")
    assert missing == []


class Links(HTMLParser):
    """What a page of the site leads to, what it loads, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()

    @classmethod
    def of(cls, path: Path) -> Links:
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        self.ids |= {found["id"]} if "id" in found else set()
        if tag == "a":
            self.links += [found["href"]] if "href" in found else []
        else:
            self.loaded += [found[name] for name in ("src", "href") if name in found]


@cache
def messages() -> str:
    """All texts in the source, their values as …"""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
    return "\n".join(found)


def test_quoted_errors_are_those_of_the_source() -> None:
    quoted = QUOTED.findall((DOCS / "faq.md").read_text(encoding="utf-8"))
    assert len(quoted) >= 15
    assert [error for error in quoted if error not in messages()] == []


def test_every_section_of_the_report_is_explained() -> None:
    explained = re.findall(r"^## (.+)$", (DOCS / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [title for _, title, _ in SECTIONS if title not in explained] == []


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its commands, in its order, with a tiny model in place of the embedded one and a budget that fits it."""
    sombrero = Command(monkeypatch, capsys)
    settings = tiny_settings(tmp_path / "tiny")
    model = str(settings["model"].pop("source"))
    settings["search"]["trials"] = 2
    write_settings(tmp_path / "examples" / "tutorial.toml", settings)
    monkeypatch.chdir(tmp_path)
    blocks = FENCE.findall((DOCS / "tutorial.md").read_text(encoding="utf-8"))
    commands = [line for kind, body in blocks if kind == "sh" for line in body.splitlines()]
    assert len(commands) >= 6
    for line in commands:
        words = [model if word == "embedded" else word for word in line.split()]
        assert words.pop(0) == "sombrero"
        outcome = sombrero(*words)
        assert outcome.code == 0, f"{line}\n{outcome.err}"
    for kind, body in blocks:
        if kind == "python":
            exec(compile(body, "tutorial.md", "exec"), {})
    assert "'count'" in capsys.readouterr().out
    assert (tmp_path / "runs/tutorial/report.html").is_file()


def write_settings(path: Path, settings: dict[str, dict[str, Any]]) -> None:
    """The tutorial's own settings, with these laid over them."""
    own = tomllib.loads((ROOT / "examples" / "tutorial.toml").read_text(encoding="utf-8"))
    path.parent.mkdir()
    path.write_text(tomli_w.dumps({name: {**own.get(name, {}), **settings.get(name, {})} for name in own | settings}))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_example_settings_are_valid(path: Path) -> None:
    assert load_config(path).model_dump(exclude_unset=True).keys() == tomllib.loads(path.read_text()).keys()
