"""heretic-llm as it comes from PyPI, in a virtual environment of its own: installed, configured, driven, read.

It asks its questions in menus. In a notebook it prints them numbered and reads a number, which is how it is driven.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import tomli_w

from fronts import Trial

VERSION = "1.4.0"
TORCH = "torch==2.13.0"
NOTEBOOK = {"KAGGLE_KERNEL_RUN_TYPE": "batch", "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1"}
QUESTION = re.compile(r"Enter number: $|Path to the folder:+ $")
CHOICE = re.compile(r"^\[(\d+)\] (.*)$", re.MULTILINE)
RESUME = "Show the results from the previous run", "Continue the previous run"
FRONT_CHOICE = re.compile(r"\[Trial +(\d+)\] Refusals: +(\d+)/\d+, KL divergence: ([\d.]+)")
READ_TRIALS = """
import json, sys, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
study = optuna.load_study(study_name="heretic", storage=JournalStorage(JournalFileBackend(sys.argv[1])))
def row(t):
    return {**t.user_attrs, "number": t.number, "start": t.datetime_start.timestamp(),
        "end": t.datetime_complete.timestamp()}
print(json.dumps([row(t) for t in study.trials if "refusals" in t.user_attrs]))
"""
READ_DEFAULTS = """
import json
from heretic.config import Settings
print(json.dumps(Settings.model_fields["refusal_markers"].default))
"""


@dataclass(frozen=True)
class Protocol:
    """What both tools are given alike. Prompt files hold one prompt a line."""

    model: Path
    prompts: Path
    system_prompt: str
    markers: tuple[str, ...]
    max_new_tokens: int
    batch_size: int
    trials: int
    dtype: str
    seed: int


def install(venv: Path) -> Path:
    """Its Python; installed on first use. The wheel wants torchvision, which text models do not need."""
    python = venv / "bin" / "python"
    done = venv / f"heretic-llm-{VERSION}"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", f"heretic-llm=={VERSION}"], check=True)
        wanted = "import importlib.metadata as m; print('\\n'.join(m.requires('heretic-llm')))"
        lines = _ask(python, wanted).splitlines()
        needs = [line for line in lines if "extra ==" not in line and not line.startswith("torchvision")]
        subprocess.run([*pip, TORCH, *needs], check=True)
        done.touch()
    return python


def default_markers(python: Path) -> tuple[str, ...]:
    """Its list of refusal substrings, read from the installed package: it is not ours to ship."""
    return tuple(json.loads(_ask(python, READ_DEFAULTS)))


def configuration(protocol: Protocol) -> dict[str, Any]:
    """What is set; all else is its default. The batch size is given, which spares it a search, and so is the prefix."""

    def prompts(role: str, split: str) -> dict[str, str]:
        return {"dataset": str(protocol.prompts / f"{role}-{split}.txt")}

    return {
        "model": str(protocol.model),
        "dtypes": [protocol.dtype],
        "device_map": "cpu",
        "batch_size": protocol.batch_size,
        "max_response_length": protocol.max_new_tokens,
        "response_prefix": "",
        "refusal_markers": list(protocol.markers),
        "system_prompt": protocol.system_prompt,
        "n_trials": protocol.trials,
        "n_startup_trials": min(60, max(1, 3 * protocol.trials // 10)),  # its share by default: 60 of 200
        "seed": protocol.seed,
        "export_strategy": "merge",
        "good_prompts": prompts("harmless", "map"),
        "bad_prompts": prompts("harmful", "map"),
        "good_evaluation_prompts": prompts("harmless", "search"),
        "bad_evaluation_prompts": prompts("harmful", "search"),
    }


def run(
    python: Path, protocol: Protocol, folder: Path, allowed: int, threads: int
) -> tuple[list[Trial], dict[str, Any]]:
    """Search and save the chosen trial as ``folder/model``. Returns the trials and facts of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(tomli_w.dumps(configuration(protocol)), encoding="utf-8")
    environment = os.environ | NOTEBOOK | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    began = time.time()
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(python), "-c", "from heretic.main import main; main()"],
            cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        converse(process.stdin, process.stdout, Answers(folder / "model", allowed), log)
        code = process.wait()
    trials = read_trials(python, folder, began)
    if code or not (folder / "model" / "config.json").exists():
        raise SystemExit(f"heretic ended with code {code} and {len(trials)} trials; see {folder / 'log.txt'}")
    if any(trial.at - trial.seconds < 0 for trial in trials):
        raise SystemExit(f"heretic took up trials of an earlier run, whose times say nothing: remove {folder}")
    base = re.search(r"Initial refusals: (\d+)/(\d+)", (folder / "log.txt").read_text(encoding="utf-8"))
    return trials, {"seconds": time.time() - began, "base_refusals": int(base[1]) if base else None}


def read_trials(python: Path, folder: Path, began: float) -> list[Trial]:
    """Its trials, out of its journal, by its own Optuna."""
    journal = next(iter((folder / "checkpoints").glob("*.jsonl")), None)
    if journal is None:
        return []
    rows = json.loads(_ask(python, READ_TRIALS, str(journal.absolute())))
    return [
        Trial(row["number"], row["refusals"], row["kl_divergence"], row["end"] - row["start"], row["end"] - began)
        for row in rows
    ]


class Answers:
    """What is answered to its menus: save the chosen trial of the front once, then leave."""

    def __init__(self, out: Path, allowed: int) -> None:
        self.out, self.allowed, self.saved = out, allowed, False

    def answer(self, text: str) -> str:
        """The line to type. text: all that was printed since the last answer, which ends with the question."""
        if "Enter number" not in text[-20:]:
            self.saved = True
            return str(self.out)
        titles = [title for _, title in CHOICE.findall(text[text.rfind("\n[1] ") :])]
        if "Which trial" in text and not self.saved:
            return str(1 + self._trial(titles))
        wanted = RESUME
        if not any(title in titles for title in wanted):
            leave = "Exit program", "Return to the trial selection menu"
            wanted = leave if self.saved else ("Save the model to a local folder",)
        return str(1 + next(i for i, title in enumerate(titles) if title in wanted))

    def _trial(self, titles: list[str]) -> int:
        found = [(i, FRONT_CHOICE.search(title)) for i, title in enumerate(titles)]
        points = [(i, int(match[2]), float(match[3])) for i, match in found if match]
        within = [point for point in points if point[1] <= self.allowed]
        return min(within, key=lambda p: p[2])[0] if within else min(points, key=lambda p: p[1])[0]


def converse(stdin: IO[bytes], stdout: IO[bytes], answers: Answers, log: IO[str]) -> None:
    """Read what is printed, and type an answer whenever a question is asked, until the program ends."""
    pending = ""
    for piece in iter(lambda: os.read(stdout.fileno(), 65536), b""):
        text = piece.decode("utf-8", "replace")
        log.write(text)
        log.flush()
        pending += text
        if QUESTION.search(pending):
            stdin.write(f"{answers.answer(pending)}\n".encode())
            stdin.flush()
            pending = ""


def _ask(python: Path, program: str, *arguments: str) -> str:
    elsewhere = python.parent  # in this folder `import heretic` would find the benchmark
    command = [str(python), "-c", program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=elsewhere).stdout
