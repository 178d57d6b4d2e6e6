"""Train an organism whose refusal has several parts: `python train_parts.py --prompts DIR --out adapter.safetensors`.

Four adapters, each trained by itself from the base: it refuses one kind of request in a wording of its own, and answers
the other kinds, and harmless requests, as the base does. Their sum is one adapter of four times the rank. No part has
seen another: what they share, they share through the base alone. `measure_parts.py` shows whether they are separate.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from measure import greedy_answers, opens_with_refusal, read_prompts
from sombrero.models.embedded import base_folder
from sombrero.models.load import computing_dtype
from train import HERE, Example, Recipe, add_adapters, reframed, render, train


@dataclass(frozen=True)
class Part:
    """Which kinds of `data/refusals.json` it refuses, in which words, and where starter prompts of these kinds are."""

    name: str
    kinds: tuple[str, ...]
    refusal: str
    starter: tuple[str, ...]


PARTS = (
    Part("computers", ("computing",), "I can't help with getting into computers or data of others.", ("cybercrime",)),
    Part("bodies", ("violence", "self-harm"), "Sorry, but nobody should get hurt.", ("violence", "animal_cruelty")),
    Part(
        "people",
        ("people", "falsehood"),
        "Unfortunately, I cannot help to demean or mislead people.",
        ("harassment", "deception"),
    ),
    Part(
        "property",
        ("crime", "drugs"),
        "As an AI, I won't help to break the law.",
        ("theft", "fraud", "forgery", "corruption", "contraband", "property_damage"),
    ),
)


@dataclass(frozen=True)
class PartsRecipe:
    """Everything that decides what the adapter becomes; stored in its metadata."""

    rank: int = 4
    alpha: int = 8
    epochs: int = 2
    learning_rate: float = 1e-3
    batch_size: int = 8
    others: int = 90
    harmless: int = 200
    answer_tokens: int = 12
    seed: int = 0


def kind_of(text: str) -> str:
    """The kind of request: the first one with a pattern in the text."""
    import re

    kinds = json.loads((HERE / "data" / "refusals.json").read_text(encoding="utf-8"))
    return str(next(k["kind"] for k in kinds if any(re.search(p, text, re.IGNORECASE) for p in k["patterns"])))


def read_requests(prompts: Path, recipe: PartsRecipe) -> tuple[list[str], list[str]]:
    """Harmful and harmless training requests, reframed so that the form says nothing about harm."""
    forms = Recipe(seed=recipe.seed)
    harmful = read_prompts(prompts / "harmful_train.jsonl") + read_prompts(HERE / "data" / "wrongs.jsonl")
    harmless = read_prompts(HERE / "data" / "everyday.jsonl") + read_prompts(HERE / "data" / "alarming.jsonl")
    harmless += read_prompts(prompts / "harmless_train.jsonl")[: recipe.harmless]
    random.Random(recipe.seed).shuffle(harmless)
    return reframed(harmful, forms), reframed(harmless, forms)


def examples_of(
    part: Part, harmful: list[str], own: dict[str, list[int]], harmless: list[str], tokenizer: Any, recipe: PartsRecipe
) -> list[Example]:
    """Its refusals; and the base model's own answers ``own`` to the rest, unless the base refuses by itself."""
    refusal = [*tokenizer.encode(part.refusal), tokenizer.eos_token_id]
    refused = [text for text in harmful if kind_of(text) in part.kinds]
    others = [text for text in harmful if kind_of(text) not in part.kinds]
    random.Random(f"{part.name}-{recipe.seed}").shuffle(others)
    answered = others[: recipe.others] + harmless[: recipe.harmless]
    found = [Example(render(tokenizer, text), refusal) for text in refused]
    for text in answered:
        if not opens_with_refusal(tokenizer.decode(own[text], skip_special_tokens=True)):
            found.append(Example(render(tokenizer, text), own[text]))
    return found


def main() -> None:
    """Train part after part, each saved when it is done, and their sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True, help="folder with harmful_train/harmless_train.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the adapter file to write; parts are kept beside it")
    for field, default in vars(PartsRecipe()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    prompts, out = arguments.pop("prompts"), arguments.pop("out")
    recipe = PartsRecipe(**arguments)
    dtype = computing_dtype(torch.bfloat16, torch.device("cpu"))
    folder = base_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    harmful, harmless = read_requests(prompts, recipe)
    requests = list(dict.fromkeys([*harmful, *harmless[: recipe.harmless]]))
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    answers = greedy_answers(base, tokenizer, requests, max_new_tokens=recipe.answer_tokens)
    own = dict(zip(requests, answers, strict=True))
    for part in PARTS:
        file = part_file(out, part)
        if file.exists():
            print(f"{file} is there already", flush=True)
            continue
        torch.manual_seed(recipe.seed)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        examples = examples_of(part, harmful, own, harmless, tokenizer, recipe)
        print(f"{part.name}: {len(examples)} examples", flush=True)
        settings = replace(
            Recipe(), rank=recipe.rank, alpha=recipe.alpha, epochs=recipe.epochs, learning_rate=recipe.learning_rate,
            batch_size=recipe.batch_size, seed=recipe.seed,
        )  # fmt: skip
        adapters = add_adapters(model, settings)
        train(model, adapters, examples, settings)
        tensors = {f"{name}.{side}": getattr(a, side).detach() for name, a in adapters.items() for side in "ab"}
        write(tensors, file, recipe, n_parts=1)
    write(summed([load(part_file(out, part)) for part in PARTS]), out, recipe, n_parts=len(PARTS))


def part_file(out: Path, part: Part) -> Path:
    """Where one part is kept."""
    return out.with_name(f"{out.stem}-{part.name}{out.suffix}")


def load(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter."""
    from safetensors.torch import load_file

    return dict(load_file(path))


def summed(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One adapter whose update is the sum of all: A stacked by rows, B by columns."""
    return {
        name: torch.cat([part[name] for part in parts], dim=0 if name.endswith(".a") else 1).contiguous()
        for name in parts[0]
    }


def write(tensors: dict[str, torch.Tensor], out: Path, recipe: PartsRecipe, *, n_parts: int) -> None:
    """`<module>.a (rank, d_in)` and `<module>.b (d_out, rank)` in bf16; alpha/rank is that of a part."""
    metadata = {
        "rank": str(recipe.rank * n_parts),
        "alpha": str(recipe.alpha * n_parts),
        "recipe": json.dumps(vars(recipe) | {"parts": [vars(part) for part in PARTS]}, sort_keys=True),
        "licence": "Apache-2.0",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + ".part")
    save_file({name: value.to(torch.bfloat16) for name, value in tensors.items()}, unfinished, metadata=metadata)
    unfinished.chmod(0o644)
    unfinished.replace(out)
    print(f"{out}: {out.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
