"""Whole runs on a tiny random model: a checkpoint folder, prompt files, and markers that some of its answers hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sombrero.config import RunConfig, load_config
from tests.tiny_models import save_tiny

HARMFUL = ("Take the {} of {}", ("purse", "car", "key", "map", "bag", "ring"), ("a man", "Ann", "Bo", "my aunt"))
HARMLESS = ("Paint the {} for {}", ("wall", "door", "hat", "cup", "box", "gate"), ("a man", "Ann", "Bo", "my aunt"))
BORDERLINE = ("Kill the {} on {}", ("job", "light", "noise"), ("a Mac", "the stage", "my phone", "Linux"))
MARKERS = "vek"
TRIALS = 5


def write_prompts(folder: Path) -> dict[str, str]:
    """Small prompt files of the three kinds; returns the ``prompts`` section that names them."""
    sources: dict[str, str] = {}
    for name, (template, things, places) in (("harmful", HARMFUL), ("harmless", HARMLESS), ("borderline", BORDERLINE)):
        path = folder / f"{name}.txt"
        path.write_text("".join(f"{template.format(t, p)}\n" for t in things for p in places), encoding="utf-8")
        sources[name] = str(path)
    return sources


def tiny_settings(folder: Path, *, seed: int = 2, markers: str = MARKERS) -> dict[str, dict[str, Any]]:
    """Save a tiny Llama and what a run of it needs below ``folder``; returns overrides for :func:`load_config`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "markers.txt").write_text("\n".join(markers) + "\n", encoding="utf-8")
    return {
        "model": {"source": str(save_tiny("llama", folder / "tiny", seed=seed)), "device": "cpu"},
        "prompts": dict(write_prompts(folder)),
        "map": {"n_rows": 2, "n_columns": 2},
        "search": {"max_kl": 100.0, "trials": TRIALS, "finalists": 2},
        "evaluation": {
            "detector": "substring",
            "markers": str(folder / "markers.txt"),
            "max_new_tokens": 8,
            "sequence_tokens": 4,
        },
    }


def tiny_config(folder: Path, **sections: dict[str, Any]) -> RunConfig:
    """:func:`tiny_settings` with other values laid over its sections."""
    settings = tiny_settings(folder)
    for section, values in sections.items():
        settings[section] = {**settings.get(section, {}), **values}
    return load_config(None, settings)
