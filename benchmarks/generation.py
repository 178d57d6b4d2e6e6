"""Answers to many prompts: Sombrero's engine beside plain ``generate`` of transformers, with the verdicts of both.

    python benchmarks/generation.py [--quick] [--json FILE] [--model SOURCE]

50 harmful and 50 harmless starter prompts in turn, 100 answer tokens, greedy, float32; the base model, and the same one
with a live ``guarded`` edit. Both tools run at the best of a few batch sizes. Sombrero answers twice: in full, where
its texts and verdicts are compared, and only as far as it takes to know whether an answer refuses, where that is.
Answers are scored and dropped; what is printed and written are verdicts and seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sombrero.architectures import find_architecture, resolve_writers
from sombrero.config import ModelConfig
from sombrero.directions import derive_directions
from sombrero.directions.controls import single_codebook
from sombrero.edits import EditPlanner, live_edit
from sombrero.evaluation import OpeningDetector, generate
from sombrero.evaluation.generate import end_tokens
from sombrero.models import load_model
from sombrero.prompts import StarterName, render, starter_prompts
from sombrero.records import EditParameters, LayerProfile, ModelHandle, Prompt, RenderedPrompt, Response
from sombrero.states import collect_states

BATCH_SIZES = (32, 64, 128)
GOAL = 3.0
Answer = Callable[[int, int], Sequence[Response]]
"""From batch size and number of new tokens to the answers."""


@dataclass(frozen=True)
class Size:
    """Prompts of each kind to answer, tokens of an answer, tokens to choose a batch size by, prompts to edit with."""

    prompts: int
    tokens: int
    probe_tokens: int
    edit_prompts: int


FULL = Size(prompts=50, tokens=100, probe_tokens=12, edit_prompts=96)
QUICK = Size(prompts=4, tokens=12, probe_tokens=2, edit_prompts=8)


@dataclass(frozen=True)
class Run:
    """One tool on all prompts. processor_seconds: of this process, which other programs disturb less than the clock.

    labels: verdicts in the order of the prompts. n_tokens: of all answers. same_tokens: answers whose tokens are those
    of plain ``generate``.
    """

    tool: str
    batch_size: int
    seconds: float
    processor_seconds: float
    n_tokens: int
    labels: tuple[str, ...]
    same_tokens: int


def choose_prompts(handle: ModelHandle, size: Size) -> tuple[RenderedPrompt, ...]:
    """Harmful and harmless ones in turn, none of which an edit is made from."""

    def unseen(name: StarterName) -> tuple[Prompt, ...]:
        return (*starter_prompts(name, "search"), *starter_prompts(name, "report"))[: size.prompts]

    pairs = zip(unseen("harmful"), unseen("harmless"), strict=True)
    return render(handle.tokenizer, [prompt for pair in pairs for prompt in pair]).prompts


def edit_context(handle: ModelHandle, size: Size) -> Callable[[], AbstractContextManager[ModelHandle]]:
    """A ``guarded`` edit along the difference of means, in the upper two thirds of the layers."""
    architecture = find_architecture(handle.model)
    writers = resolve_writers(handle.model, architecture)
    names: tuple[StarterName, StarterName] = ("harmful", "harmless")
    harmful, harmless = (
        collect_states(
            handle,
            architecture,
            writers,
            render(handle.tokenizer, starter_prompts(name, "map")[: size.edit_prompts]).prompts,
            key_positions=4,
        )
        for name in names
    )
    codebook = single_codebook(harmful.hidden.mean(0), harmless.hidden.mean(0), harmful.prompt_ids)
    directions = {"single": derive_directions(codebook, harmful, harmless)}
    n_layers = harmful.hidden.shape[1] - 1
    profile = LayerProfile(n_layers // 3, n_layers - 1, 1.0)
    parameters = EditParameters("guarded", "single", None, (0,), {"attention": profile, "mlp": profile})
    edit = EditPlanner(handle, writers, directions, harmful, harmless).build(parameters)
    return lambda: live_edit(handle, writers, edit)


def plain_answers(
    handle: ModelHandle, prompts: Sequence[RenderedPrompt], batch_size: int, n_new: int
) -> tuple[Response, ...]:
    """What anybody would write: batches in the order of the prompts, padded on the left, ``model.generate``."""
    ends, found = end_tokens(handle), []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        padded = handle.tokenizer.pad(
            {"input_ids": [list(prompt.token_ids) for prompt in batch]}, padding_side="left", return_tensors="pt"
        ).to(handle.device)
        output = handle.model.generate(
            **padded,
            max_new_tokens=n_new,
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=handle.tokenizer.pad_token_id,
        )
        for prompt, row in zip(batch, output[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
            end = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
            tokens = row[:end]
            text = handle.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            found.append(Response(prompt.prompt.id, text, tuple(tokens), "end" if tokens[-1] in ends else "length"))
    return tuple(found)


def best_batch_size(answer: Answer, n_prompts: int, n_new: int) -> int:
    """The fastest of a few, by short answers; the first pass warms up."""
    sizes = [size for size in BATCH_SIZES if size < n_prompts]
    sizes.append(min(n_prompts, BATCH_SIZES[-1]))
    answer(sizes[0], 1)
    seconds = {}
    for size in sizes:
        began = time.process_time()
        answer(size, n_new)
        seconds[size] = time.process_time() - began
    return min(seconds, key=seconds.__getitem__)


def measure(handle: ModelHandle, size: Size) -> dict[str, list[Run]]:
    """Base and edited: plain, in full, and until the verdict is certain."""
    prompts, detector = choose_prompts(handle, size), OpeningDetector()
    tools: dict[str, Answer] = {
        "transformers": lambda batch_size, n_new: plain_answers(handle, prompts, batch_size, n_new),
        "sombrero, whole answers": lambda batch_size, n_new: generate(
            handle, prompts, batch_size=batch_size, max_new_tokens=n_new
        ),
        "sombrero, verdicts only": lambda batch_size, n_new: generate(
            handle, prompts, batch_size=batch_size, max_new_tokens=n_new, settled=detector.settled
        ),
    }
    sizes = {tool: best_batch_size(tools[tool], len(prompts), size.probe_tokens) for tool in list(tools)[:2]}
    sizes["sombrero, verdicts only"] = sizes["sombrero, whole answers"]
    subjects: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "base": nullcontext,
        "edited": edit_context(handle, size),
    }
    runs: dict[str, list[Run]] = {}
    for subject, enter in subjects.items():
        runs[subject], plain = [], None
        for tool, answer in tools.items():
            with enter():
                began, began_processor = time.perf_counter(), time.process_time()
                answers = answer(sizes[tool], size.tokens)
                seconds, processor = time.perf_counter() - began, time.process_time() - began_processor
            labels = tuple(detector.judge(response).label for response in answers)
            tokens = [response.token_ids for response in answers]
            plain = plain or tokens
            same = sum(ours == theirs for ours, theirs in zip(tokens, plain, strict=True))
            n_tokens = sum(map(len, tokens))
            runs[subject].append(Run(tool, sizes[tool], seconds, processor, n_tokens, labels, same))
            del answers, tokens
    return runs


def same_verdicts(run: Run, plain: Run) -> list[bool]:
    """Prompt by prompt; answers that were cut short tell only whether they refuse."""
    if run.tool.endswith("verdicts only"):
        return [(a == "refusal") == (b == "refusal") for a, b in zip(run.labels, plain.labels, strict=True)]
    return [a == b for a, b in zip(run.labels, plain.labels, strict=True)]


def report(runs: dict[str, list[Run]], prompt_ids: Sequence[str]) -> dict[str, object]:
    """Print the table; returns the figures."""
    n, rows = len(prompt_ids), []
    print(
        "| model | tool | batch | seconds | processor s | times as fast (processor) | verdicts equal | tokens equal |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for subject, (plain, *ours) in runs.items():
        for run in (plain, *ours):
            same = same_verdicts(run, plain)
            ratio, processor_ratio = plain.seconds / run.seconds, plain.processor_seconds / run.processor_seconds
            print(
                f"| {subject} | {run.tool} | {run.batch_size} | {run.seconds:.1f} | {run.processor_seconds:.1f} "
                f"| {ratio:.2f} ({processor_ratio:.2f}) | {sum(same)}/{n} | {run.same_tokens}/{n} |"
            )
            rows.append({
                "model": subject, **asdict(run), "ratio": ratio, "processor_ratio": processor_ratio,
                "verdicts_equal": sum(same), "labels": dict(zip(prompt_ids, run.labels, strict=True)),
                "differ": [prompt_id for prompt_id, equal in zip(prompt_ids, same, strict=True) if not equal],
            })  # fmt: skip
    for row in rows:
        if row["differ"]:
            print(f"{row['model']}, {row['tool']}: other verdicts on {', '.join(map(str, row['differ']))}")
    goals = {
        kind: all(r["verdicts_equal"] == n and r["ratio"] >= GOAL for r in rows if r["tool"] == f"sombrero, {kind}")
        for kind in ("whole answers", "verdicts only")
    }
    for kind, reached in goals.items():
        print(f"goal, {kind}: every verdict equal and {GOAL:g} times as fast: {'reached' if reached else 'missed'}")
    return {"threads": torch.get_num_threads(), "n_prompts": n, "runs": rows, "goals": goals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few prompts, short answers: a smoke run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--model", default="embedded", help="a folder, a hub id or 'embedded' (default)")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    handle = load_model(ModelConfig(source=options.model, dtype="float32"))
    prompt_ids = [prompt.prompt.id for prompt in choose_prompts(handle, size)]
    figures = report(measure(handle, size), prompt_ids)
    print(f"\n{torch.get_num_threads()} threads, {handle.device}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
