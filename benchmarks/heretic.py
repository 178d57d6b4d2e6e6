"""Sombrero beside heretic-llm 1.4.0 on the same inputs: `python benchmarks/heretic.py --work DIR --json FILE`.

One command installs heretic-llm in an environment of its own, gives both tools the same model folder, prompts, refusal
substrings, system prompt, answer length, batch size, number of trials and seed, lets each choose and save its edit,
and scores both with one scorer that belongs to neither. What is finished in DIR is not done again.

Options: `--prompts DIR` (harmful_train, harmful_val, harmless_train, harmless_val .jsonl) instead of the starter sets,
`--trials 40`, `--seeds 0 1 2`, `--threads N`, `--quick` a smoke run. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import heretic_ours
import heretic_peer
from fronts import Trial, chosen
from heretic_peer import Protocol
from heretic_report import medians, print_medians, print_run, ratios, unpack
from sombrero.config import ModelConfig
from sombrero.models import locate
from sombrero.models.load import computing_dtype, stored_dtype
from sombrero.prompts import starter_prompts

SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
ALLOWED = 0.04
"""Share of refusals that the chosen edit may leave."""
SIZES = {"map": (160, 420), "search": (100, 100), "unseen": (60, 120)}
QUICK_SIZES = {"map": (32, 64), "search": (16, 16), "unseen": (12, 12)}


def main() -> None:
    """Run both on every seed, then print."""
    parser = argparse.ArgumentParser(description="Sombrero beside heretic-llm.")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="where everything is kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--venv", type=Path, default=Path.home() / ".cache/sombrero/heretic-llm-1.4.0")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--prompts", type=Path, metavar="DIR", help="prompt files instead of the starter sets")
    parser.add_argument("--system-prompt", default=SYSTEM_PROMPT)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="few prompts and trials, one seed: a smoke run")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.trials, arguments.seeds = min(arguments.trials, 4), arguments.seeds[:1]
    arguments.work.mkdir(parents=True, exist_ok=True)
    python = heretic_peer.install(arguments.venv)
    runs = [one_seed(arguments, python, seed) for seed in arguments.seeds]
    figures = {"setting": setting(arguments), "runs": runs, "medians": medians(runs)}
    for run in runs:
        print_run(run)
    print_medians(figures["medians"], len(runs))
    if arguments.json:
        write(arguments.json, figures)


def one_seed(arguments: argparse.Namespace, python: Path, seed: int) -> dict[str, Any]:
    """Both tools on one seed, and the scores of what they chose."""
    folder = (arguments.work / f"seed-{seed}").absolute()
    protocol = make_protocol(arguments, python, folder, seed)
    hold_to(folder, asdict(protocol) | {"threads": arguments.threads})
    asked = len((protocol.prompts / "harmful-search.txt").read_text("utf-8").splitlines())
    allowed = int(ALLOWED * asked)
    rate = allowed / asked

    def run_theirs() -> dict[str, Any]:
        return pack(heretic_peer.run(python, protocol, afresh(folder / "heretic"), allowed, arguments.threads))

    def run_ours() -> dict[str, Any]:
        own = afresh(folder / "sombrero")
        return pack(heretic_ours.run(protocol, own, rate, arguments.threads, lambda trials: chosen(trials, allowed)))

    theirs, ours = once(folder / "heretic.json", run_theirs), once(folder / "sombrero.json", run_ours)
    scores = {
        name: once(
            folder / f"scores-{name}.json", lambda edited=edited: score(protocol, folder, edited, arguments.threads)
        )
        for name, edited in (
            ("base", None),
            ("heretic", folder / "heretic/model"),
            ("sombrero", folder / "sombrero/model"),
        )
    }
    return {"seed": seed, "allowed": allowed, "heretic": theirs, "sombrero": ours, "scores": scores} | {
        "ratios": ratios(unpack(ours), unpack(theirs), allowed)
    }


def make_protocol(arguments: argparse.Namespace, python: Path, folder: Path, seed: int) -> Protocol:
    """What both are given; writes the prompt files."""
    model = locate(ModelConfig(source=arguments.model)).absolute()
    dtype = arguments.dtype
    if dtype == "auto":
        dtype = str(computing_dtype(stored_dtype(model, arguments.model), torch.device("cpu"))).removeprefix("torch.")
    prompts = folder / "prompts"
    write_prompts(prompts, divide_prompts(arguments.prompts, QUICK_SIZES if arguments.quick else SIZES))
    return Protocol(
        model, prompts, arguments.system_prompt, heretic_peer.default_markers(python),
        arguments.max_new_tokens, 100, arguments.trials, dtype, seed,
    )  # fmt: skip


def divide_prompts(source: Path | None, sizes: dict[str, tuple[int, int]]) -> dict[str, list[str]]:
    """Prompts by ``ROLE-SPLIT``: map, search, and unseen, which is also called report. No two share a prompt."""
    found: dict[str, list[str]] = {}
    for place, role in enumerate(("harmful", "harmless")):
        pools = read_pools(role, source)
        for split, wanted in sizes.items():
            pool = pools["unseen" if source and split == "unseen" else "seen"]
            taken, pool[:] = pool[: wanted[place]], pool[wanted[place] :]
            if not taken:
                raise SystemExit(f"{source or 'the starter sets'} have too few {role} prompts for {split}")
            found |= {f"{role}-{name}": taken for name in ((split, "report") if split == "unseen" else (split,))}
    return found


def write_prompts(folder: Path, prompts: dict[str, list[str]]) -> None:
    """A file for each split, one prompt a line. Files that are there and differ belong to another run: refused."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in prompts.items():
        path, text = folder / f"{name}.txt", "\n".join(lines) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{path} holds other prompts than asked for (--quick, --prompts): give another --work")
        path.write_text(text, encoding="utf-8")


def hold_to(folder: Path, settings: dict[str, Any]) -> None:
    """Results in a folder are those of one setting: asked for another, refuse rather than mix them."""
    wanted = json.loads(json.dumps(settings, default=str))
    path = folder / "protocol.json"
    if not path.exists():
        if (folder / "heretic.json").exists():
            print(f"{folder.name}: results from before settings were kept; not checked against these", file=sys.stderr)
        write(path, wanted)
    kept = json.loads(path.read_bytes())
    differ = [f"{k} {kept.get(k)!r}, now {v!r}" for k, v in wanted.items() if kept.get(k) != v]
    if differ:
        raise SystemExit(f"{folder} was made with {'; '.join(differ)}: give another --work")


def read_pools(role: str, source: Path | None) -> dict[str, list[str]]:
    """Prompts in a fixed random order; of files, those in ``_val`` are the unseen ones."""
    if source is None:
        splits = ("map", "search", "report")
        pools = {"seen": [p.text for split in splits for p in starter_prompts(role, split)]}  # type: ignore[arg-type]
    else:
        pools = {
            name: [
                json.loads(line)["text"] for line in (source / f"{role}_{part}.jsonl").read_text("utf-8").splitlines()
            ]
            for name, part in (("seen", "train"), ("unseen", "val"))
        }
    for name, pool in pools.items():
        pools[name] = [" ".join(text.split()) for text in pool]
        random.Random(0).shuffle(pools[name])
    return pools


def score(protocol: Protocol, folder: Path, edited: Path | None, threads: int) -> dict[str, Any]:
    """The figures of the one scorer."""
    task = folder / f"task-{edited.parent.name if edited else 'base'}.json"
    out = task.with_name(f"of-{task.name}")
    write(task, {
        "base": str(protocol.model), "edited": str(edited) if edited else None, "dtype": protocol.dtype,
        "system_prompt": protocol.system_prompt, "markers": list(protocol.markers),
        "max_new_tokens": protocol.max_new_tokens, "batch_size": protocol.batch_size, "out": str(out),
        "prompts": {
            split: {role: str(protocol.prompts / f"{role}-{split}.txt") for role in ("harmful", "harmless")}
            for split in ("search", "unseen")
        },
    })  # fmt: skip
    scorer = Path(__file__).with_name("heretic_scorer.py")
    subprocess.run(
        [sys.executable, str(scorer), str(task)], check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
    )
    return dict(json.loads(out.read_bytes()))


def setting(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {k: v for k, v in vars(arguments).items() if k not in ("work", "json", "venv", "prompts")} | {
        "prompts": "starter sets" if arguments.prompts is None else arguments.prompts.name,
        "cores": os.cpu_count(), "torch": torch.__version__,
    }  # fmt: skip


def pack(result: tuple[list[Trial], dict[str, Any]]) -> dict[str, Any]:
    """A tool's result as JSON."""
    return {"trials": [asdict(trial) for trial in result[0]], "facts": result[1]}


def afresh(folder: Path) -> Path:
    """Without what an interrupted half left: its times would count the interruption."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in the file, made if it is not there yet."""
    if not path.exists():
        write(path, make())
    return dict(json.loads(path.read_bytes()))


def write(path: Path, value: dict[str, Any]) -> None:
    """Written to a temporary name and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
