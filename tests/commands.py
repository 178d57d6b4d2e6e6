"""Commands of the command line, run as the entry point runs them, and a finished run to give them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sombrero import cli, verbs
from sombrero.config import load_config
from tests.tiny_runs import tiny_settings

ROOT = Path(__file__).parents[1]


class Outcome(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


class Command:
    """Runs ``sombrero ARGUMENTS`` in this process, as the entry point does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Outcome:
        self._monkeypatch.setattr(sys, "argv", ["sombrero", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = self._capsys.readouterr()
        return Outcome(int(stop.value.code or 0), out, err)


class Tiny(NamedTuple):
    """A tiny checkpoint, the flags that a run of it takes, and a finished run."""

    model: Path
    flags: tuple[str, ...]
    run: Path
    summary: dict[str, Any]


def finished_run(base: Path) -> Tiny:
    """A tiny model below ``base``, and a run of it."""
    settings = tiny_settings(base)
    settings["search"]["trials"] = 3
    model = Path(settings["model"].pop("source"))
    flags = as_flags(settings)
    configuration = {**settings, "model": {**settings["model"], "source": str(model)}}
    summary = verbs.run(load_config(None, configuration), base / "run")
    return Tiny(model, flags, base / "run", summary)


def as_flags(sections: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """Settings as the command line spells them."""
    found: list[str] = []
    for section, values in sections.items():
        for name, value in values.items():
            flag = f"--{'map-' if section == 'map' else ''}{name.replace('_', '-')}"
            for item in value if isinstance(value, list) else [value]:
                found += [flag] if item is True else [flag, str(item)]
    return tuple(found)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), **more}
