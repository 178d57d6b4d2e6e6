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
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import heretic_ours
import heretic_peer
from fronts import Trial, chosen, front, kl_at, seconds_to_cover, seconds_to_match
from heretic_peer import Protocol
from sombrero.config import ModelConfig
from sombrero.models import locate
from sombrero.models.load import computing_dtype, stored_dtype
from sombrero.prompts import starter_prompts

SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
ALLOWED = 0.04
"""Share of refusals that the chosen edit may leave."""
SIZES = {"map": (160, 420), "search": (100, 100), "unseen": (60, 120)}
QUICK_SIZES = {"map": (32, 64), "search": (16, 16), "unseen": (12, 12)}
GOALS = {"kl": 4.0, "wall": 10.0, "generated": 3.0, "screened": 15.0}


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
    return {"seed": seed, "allowed": allowed, "heretic": theirs, "sombrero": ours, "scores": scores} | ratios(
        unpack(ours), unpack(theirs), allowed
    )


def make_protocol(arguments: argparse.Namespace, python: Path, folder: Path, seed: int) -> Protocol:
    """What both are given; writes the prompt files."""
    model = locate(ModelConfig(source=arguments.model)).absolute()
    dtype = arguments.dtype
    if dtype == "auto":
        dtype = str(computing_dtype(stored_dtype(model, arguments.model), torch.device("cpu"))).removeprefix("torch.")
    prompts = folder / "prompts"
    write_prompts(prompts, arguments.prompts, QUICK_SIZES if arguments.quick else SIZES)
    return Protocol(
        model, prompts, arguments.system_prompt, heretic_peer.default_markers(python),
        arguments.max_new_tokens, 100, arguments.trials, dtype, seed,
    )  # fmt: skip


def write_prompts(folder: Path, source: Path | None, sizes: dict[str, tuple[int, int]]) -> None:
    """``ROLE-SPLIT.txt``, one prompt a line: map, search, and unseen, which is also called report."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, role in enumerate(("harmful", "harmless")):
        pools = read_pools(role, source)
        for split, wanted in sizes.items():
            pool = pools["unseen" if source and split == "unseen" else "seen"]
            taken, pool[:] = pool[: wanted[place]], pool[wanted[place] :]
            if not taken:
                raise SystemExit(f"{source or 'the starter sets'} have too few {role} prompts for {split}")
            for name in (split, "report") if split == "unseen" else (split,):
                (folder / f"{role}-{name}.txt").write_text("\n".join(taken) + "\n", encoding="utf-8")


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


def ratios(ours: list[Trial], theirs: list[Trial], allowed: int) -> dict[str, Any]:
    """Above 1 in our favour. matched: the refusals at which KLs are compared, as few as both fronts reach."""
    matched = max([allowed, *(points[0].refusals or 0 for points in (front(ours), front(theirs)))])
    mine, other = kl_at(ours, matched), kl_at(theirs, matched)
    covered = seconds_to_cover(ours, theirs)
    of_theirs = statistics.median(trial.seconds for trial in theirs)
    generated = [trial.seconds for trial in ours if trial.refusals is not None]
    screened = [trial.seconds for trial in ours if trial.refusals is None]
    reached = [seconds_to_match(ours, point) for point in front(theirs)]
    chosen_at = seconds_to_match(ours, chosen(theirs, allowed))
    found: dict[str, Any] = {"matched": matched, "kl_ours": mine, "kl_theirs": other, "seconds_to_cover": covered}
    found["covered"] = {"trials": sum(seconds is not None for seconds in reached), "of": len(reached)}
    found["wall_of_chosen"] = max(trial.at for trial in theirs) / chosen_at if chosen_at else None
    found["kl"] = other / mine if mine and other else None
    found["wall"] = max(trial.at for trial in theirs) / covered if covered else None
    found["generated"] = of_theirs / statistics.median(generated)
    found["screened"] = of_theirs / statistics.median(screened) if screened else None
    found["seconds"] = {"theirs": of_theirs, "generated": statistics.median(generated)}
    found["seconds"]["screened"] = statistics.median(screened) if screened else None
    return {"ratios": found}


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each ratio over the seeds that have one, and how many have."""
    found: dict[str, Any] = {}
    for name in GOALS:
        values = [run["ratios"][name] for run in runs if run["ratios"][name] is not None]
        found[name] = {"median": statistics.median(values) if values else None, "seeds": len(values)}
    return found


def print_run(run: dict[str, Any]) -> None:
    """Both fronts, the ratios, and the scorer's figures."""
    print(f"\nseed {run['seed']}: fronts, refusals (of the search's harmful prompts) at first-token KL")
    for name in ("heretic", "sombrero"):
        trials, seconds = unpack(run[name]), run[name]["facts"]["seconds"]
        points = ", ".join(f"{t.refusals} at {t.kl:.3f}" for t in front(trials))
        counted = sum(t.refusals is not None for t in trials)
        print(f"  {name:9s} {points}   ({counted} generated of {len(trials)} trials, {seconds:.0f} s)")
    r = run["ratios"]
    print(f"  KL at {r['matched']} refusals: heretic {r['kl_theirs']:.3f}, sombrero {r['kl_ours']:.3f}")
    each = {name: "none" if value is None else f"{value:.1f}" for name, value in r["seconds"].items()}
    print(f"  seconds a trial: heretic {each['theirs']}, sombrero {each['generated']}, screened {each['screened']}")
    chosen_at = "never" if r["wall_of_chosen"] is None else f"in 1/{r['wall_of_chosen']:.1f} of its whole search"
    covered = f"{r['covered']['trials']} of {r['covered']['of']} trials of heretic's front"
    print(f"  sombrero is at least as good as {covered}, and as the one that heretic chose {chosen_at}")
    for split in ("search", "unseen"):
        for name, scores in run["scores"].items():
            s = scores[split]
            counts = f"substring {s['substring']}/{s['n']}, opening {s['opening']}/{s['n']}, broken {s['broken']}"
            kl = f"KL first token {s['first_token_kl']:.4f}, sequence {s['sequence_kl']:.4f}"
            print(f"  scored, {split:6s} {name:9s} {counts}; {kl}")


def print_medians(found: dict[str, Any], n_seeds: int) -> None:
    """A line for each goal, reached or missed."""
    names = {
        "kl": "KL at matched refusals", "wall": "wall time until its front is covered",
        "generated": "seconds a generated trial", "screened": "seconds a screened trial",
    }  # fmt: skip
    print(f"\nmedian over {n_seeds} seeds, heretic over sombrero:")
    for name, title in names.items():
        value = found[name]["median"]
        verdict = "not reached on any seed" if value is None else f"{value:.2f} (goal {GOALS[name]:.0f}: "
        verdict += (
            ""
            if value is None
            else f"{'reached' if value >= GOALS[name] else 'MISSED'}, on {found[name]['seeds']} seeds)"
        )
        print(f"  {title}: {verdict}")


def setting(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {k: v for k, v in vars(arguments).items() if k not in ("work", "json", "venv", "prompts")} | {
        "prompts": "starter sets" if arguments.prompts is None else arguments.prompts.name,
        "cores": os.cpu_count(), "torch": torch.__version__,
    }  # fmt: skip


def pack(result: tuple[list[Trial], dict[str, Any]]) -> dict[str, Any]:
    """A tool's result as JSON."""
    return {"trials": [asdict(trial) for trial in result[0]], "facts": result[1]}


def unpack(packed: dict[str, Any]) -> list[Trial]:
    """Its trials."""
    return [Trial(**trial) for trial in packed["trials"]]


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
