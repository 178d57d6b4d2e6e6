"""Rules of the house that no linter holds: what importing costs, how long files get, what they are called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("src", "tests", "examples", "benchmarks", "scripts")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TEXTS = sorted(
    path
    for pattern in ("*", ".ci/*", "docs/**/*", *(f"{folder}/**/*" for folder in FOLDERS))
    for path in ROOT.glob(pattern)
    if path.suffix in {"", ".css", ".html", ".j2", ".js", ".md", ".py", ".sh", ".toml", ".txt"} and path.is_file()
)

MAX_LINES = 400
SAY_NOTHING = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
CATCH_ALL = {"Exception", "BaseException"}
HEAVY = {"datasets", "optuna", "pandas", "plotly", "scipy", "sklearn", "torch", "transformers"}
# folders of somebody's machine; "someone" stands for nobody, in examples
MACHINE_PATH = re.compile(r"(?<![\w.$}~/-])/(?:home|root|Users|work|mnt)/(?!someone\b)\w")


def show(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_house_was_found() -> None:
    assert ROOT / "src/sombrero/__init__.py" in SOURCES
    assert ROOT / "Makefile" in TEXTS


@pytest.mark.parametrize("module", ["sombrero", "sombrero.errors", "sombrero.records", "sombrero.config"])
def test_importing_is_cheap(module: str) -> None:
    """Help texts and bad configurations answer at once: these modules load none of the heavy libraries."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(result.stdout.split())


def test_importing_writes_nothing() -> None:
    result = subprocess.run([sys.executable, "-c", "import sombrero"], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_files_stay_short() -> None:
    lengths = {show(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_names_say_something() -> None:
    places = {*SOURCES, *(path.parent for path in SOURCES)}
    assert [show(path) for path in sorted(places) if SAY_NOTHING & set(path.stem.lower().split("_"))] == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(ROOT / "src")], ids=show)
def test_exceptions_are_named(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [f"{show(path)}:{line}" for line in catch_alls(tree)] == []


def test_no_paths_of_one_machine() -> None:
    found = [
        f"{show(path)}:{number}: {line.strip()}"
        for path in TEXTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def catch_alls(tree: ast.AST) -> Iterator[int]:
    """Lines that catch everything: `except:`, `except Exception`, alone or among others, and `suppress(Exception)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = [node.type]
        elif isinstance(node, ast.Call) and last_name(node.func) == "suppress":
            caught = list(node.args)
        else:
            continue
        for expression in caught:
            parts = expression.elts if isinstance(expression, ast.Tuple) else [expression]
            if any(part is None or last_name(part) in CATCH_ALL for part in parts):
                yield node.lineno


def last_name(expression: ast.expr) -> str | None:
    """`Exception` for both `Exception` and `builtins.Exception`."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else None


@pytest.mark.parametrize(
    "code",
    [
        "try: f()\nexcept: pass",
        "try: f()\nexcept Exception: pass",
        "try: f()\nexcept (OSError, builtins.BaseException): pass",
        "with suppress(Exception): f()",
        "with contextlib.suppress(OSError, Exception): f()",
    ],
)
def test_a_catch_all_is_seen(code: str) -> None:
    assert list(catch_alls(ast.parse(code))) != []


def test_a_named_exception_is_not_a_catch_all() -> None:
    assert list(catch_alls(ast.parse("try: f()\nexcept (OSError, json.JSONDecodeError): pass"))) == []


def test_a_machine_path_is_seen() -> None:
    path = "/".join(("", "home", "ada", "models"))  # put together here, as this file is searched too
    assert MACHINE_PATH.search(f"open('{path}')")
    assert not MACHINE_PATH.search("https://example.org/home/page, ./work/here, $HOME/work/there, /home/someone/models")
