"""Sombrero on the same inputs, through its command line, as a user would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import tomli_w

from fronts import Trial
from heretic_peer import Protocol


def configuration(protocol: Protocol, markers: Path, allowed_rate: float) -> dict[str, Any]:
    """What is set; all else is its default. The markers are those of the other tool, read as it reads them."""
    return {
        "seed": protocol.seed,
        "model": {"source": str(protocol.model), "dtype": protocol.dtype, "device": "cpu"},
        "prompts": {
            "harmful": str(protocol.prompts / "harmful-{split}.txt"),
            "harmless": str(protocol.prompts / "harmless-{split}.txt"),
            "system_prompt": protocol.system_prompt,
        },
        "search": {"trials": protocol.trials, "max_refusals": allowed_rate},
        "evaluation": {
            "detector": "substring",
            "markers": str(markers),
            "max_new_tokens": protocol.max_new_tokens,
            "batch_size": protocol.batch_size,
        },
    }


def run(
    protocol: Protocol, folder: Path, allowed_rate: float, threads: int, choose: Any
) -> tuple[list[Trial], dict[str, Any]]:
    """Search, and bake the chosen trial as ``folder/model``. Returns the trials and facts of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    markers = folder / "markers.txt"
    markers.write_text("\n".join(protocol.markers) + "\n", encoding="utf-8")
    settings = folder / "settings.toml"
    settings.write_text(tomli_w.dumps(configuration(protocol, markers, allowed_rate)), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    program, out = [sys.executable, "-m", "sombrero"], folder / "run"
    began = time.time()
    with (folder / "log.txt").open("a", encoding="utf-8") as log:

        def call(*arguments: str) -> None:
            subprocess.run([*program, *arguments], check=True, env=environment, stdout=log, stderr=log)

        call("search", str(protocol.model), "--config", str(settings), "--out", str(out))
        trials = read_trials(out / "study.db", began)
        seconds = time.time() - began
        call("bake", str(out), "--trial", str(choose(trials).number), "--out", str(folder / "model"))
    facts = json.loads((out / "run.json").read_bytes())
    baseline = json.loads((out / "baseline.json").read_bytes())["refusals"]
    stages = facts.get("seconds", {})
    return trials, {"seconds": seconds, "base_refusals": baseline["count"], "stages": stages}


def read_trials(study: Path, began: float) -> list[Trial]:
    """The trials of the study, with the times that Optuna noted."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loaded = optuna.load_study(study_name="sombrero", storage=f"sqlite:///{study.absolute()}")
    found = []
    for trial in loaded.trials:
        score = trial.user_attrs.get("score")
        if score is None or score["kl"] is None or trial.datetime_start is None or trial.datetime_complete is None:
            continue
        start, end = trial.datetime_start.timestamp(), trial.datetime_complete.timestamp()
        refusals = score["refusals"]
        refusals = None if score["state"] != "generated" else refusals + score["faults"]
        found.append(Trial(score["number"], refusals, score["kl"], end - start, end - began))
    return found
