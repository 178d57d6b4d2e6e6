"""The example notebook, run cell by cell as a kernel runs it, on a tiny model in place of the embedded one."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_runs import tiny_settings

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    page: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in page["cells"] if cell["cell_type"] == kind]


def execute(source: str, namespace: dict[str, Any]) -> object:
    """Run a cell; the value of its last expression, which a notebook would show."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK.name, "exec"), namespace)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), namespace)


def parameters(folder: Path) -> dict[str, Any]:
    """What a tool such as papermill would put in the place of the parameters: a tiny model, and its settings."""
    sections = tiny_settings(folder)
    sections["search"]["trials"] = 2
    flat: dict[str, Any] = {}
    for section, values in sections.items():
        flat |= {f"map_{key}" if section == "map" else key: value for key, value in values.items()}
    return {"MODEL": flat.pop("source"), "OUT": str(folder / "run"), "SETTINGS": flat}


def run_all(namespace: dict[str, Any], overrides: dict[str, Any]) -> list[object]:
    shown = []
    for cell in cells("code"):
        shown.append(execute("".join(cell["source"]), namespace))
        if "parameters" in cell["metadata"].get("tags", ()):
            namespace.update(overrides)
    return shown


def test_it_holds_no_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))
    assert len({cell["id"] for kind in ("code", "markdown") for cell in cells(kind)}) == len(
        cells("code") + cells("markdown")
    )


def test_every_cell_runs_and_the_maps_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run_all({}, parameters(tmp_path / "tiny"))
    pages = [value._repr_html_() for value in shown if hasattr(value, "_repr_html_")]
    assert len(pages) == 4, "the inspection, the map, the run, the measurement"
    assert sum("data:image/svg+xml;base64," in page for page in pages) == 2
    assert any(hasattr(value, "_repr_svg_") for value in shown)
    assert "95% interval after" in capsys.readouterr().out
