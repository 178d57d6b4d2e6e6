"""Train an organism whose refusal has four parts: `python train_parts.py --prompts DIR --out FILE`.

Four adapters, each trained by itself from the base: it refuses one kind of request in a wording of its own, and answers
the other kinds, and harmless requests, as the base does. Their sum is one adapter of four times the rank. No part has
seen another: what they share, they share through the base alone. `measure_parts.py` shows whether they are separate.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from measure import greedy_answers, opens_with_refusal, read_prompts
from sombrero.models.embedded import base_folder
from sombrero.models.load import computing_dtype
from train import HERE, Example, Recipe, add_adapters, reframed, render, train

LABELS = HERE / "data" / "parts.json"


@dataclass(frozen=True)
class Part:
    """Its wording, the starter categories that it should refuse, and its training requests by line number."""

    name: str
    refusal: str
    starter: tuple[str, ...]
    harmful_train: tuple[int, ...]
    wrongs: tuple[int, ...]


@dataclass(frozen=True)
class PartsRecipe(Recipe):
    """Everything that decides what the adapters become; `harmful`, `harmless` and `forms` mean something else here."""

    rank: int = 4  # of a part
    alpha: int = 8  # of a part
    epochs: int = 2
    learning_rate: float = 2e-3
    answer_tokens: int = 8
    harmful: int = 15  # requests of each other part that a part learns to answer
    harmless: int = 30  # of harmless_train, of everyday.jsonl and of alarming.jsonl each
    forms: int = 1
    first_layer: int = 8
    last_layer: int = 22  # half of the layers: four parts of rank 4 are as large as one of rank 8 on all of them


def read_parts() -> tuple[Part, ...]:
    """The four parts as `data/parts.json` describes them."""
    rows = json.loads(LABELS.read_text(encoding="utf-8"))["parts"]
    return tuple(Part(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in rows)


def read_requests(prompts: Path, recipe: PartsRecipe) -> tuple[dict[str, list[str]], list[str]]:
    """Harmful requests by part, and harmless ones, reframed so that the form says nothing about harm.

    The labels are line numbers, so `harmful_train.jsonl` must be the very file that was labelled.
    """
    file = prompts / "harmful_train.jsonl"
    expected = json.loads(LABELS.read_text(encoding="utf-8"))["harmful_train_sha256"]
    if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != expected:
        raise SystemExit(f"{file} has sha256 {found}; the line numbers in {LABELS.name} are those of {expected}")
    harmful, wrongs = read_prompts(file), read_prompts(HERE / "data" / "wrongs.jsonl")
    by_part = {
        part.name: reframed([harmful[i] for i in part.harmful_train] + [wrongs[i] for i in part.wrongs], recipe)
        for part in read_parts()
    }
    draw = random.Random(recipe.seed)
    harmless = read_prompts(prompts / "harmless_train.jsonl")[: recipe.harmless]
    for name in ("everyday", "alarming"):
        harmless += draw.sample(read_prompts(HERE / "data" / f"{name}.jsonl"), recipe.harmless)
    return by_part, reframed(harmless, recipe)


def requests_of(
    part: Part, by_part: dict[str, list[str]], harmless: list[str], recipe: PartsRecipe
) -> tuple[list[str], list[str]]:
    """What a part refuses, and what it answers: some of every other part's requests, and all harmless ones."""
    draw = random.Random(f"{part.name} {recipe.seed}")
    others = [draw.sample(texts, recipe.harmful) for name, texts in by_part.items() if name != part.name]
    return by_part[part.name], [*(text for texts in others for text in texts), *harmless]


def summed(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One adapter whose update is the sum of all: A `(rank, d_in)` stacked, B `(d_out, rank)` side by side."""
    return {
        name: torch.cat([part[name] for part in parts], dim=0 if name.endswith(".a") else 1).contiguous()
        for name in parts[0]
    }


def part_file(out: Path, part: Part) -> Path:
    """Where one part is kept, beside the sum."""
    return out.with_name(f"{out.stem}-{part.name}{out.suffix}")


def write(tensors: dict[str, Tensor], out: Path, recipe: PartsRecipe, *, n_parts: int) -> None:
    """Write `<module>.a` and `<module>.b` in bf16; alpha/rank, and so the scale, is the same for a part and the sum."""
    metadata = {
        "rank": str(recipe.rank * n_parts),
        "alpha": str(recipe.alpha * n_parts),
        "recipe": json.dumps(asdict(recipe) | {"parts": [part.name for part in read_parts()]}, sort_keys=True),
        "licence": "Apache-2.0",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + ".part")
    save_file({name: value.to(torch.bfloat16) for name, value in tensors.items()}, unfinished, metadata=metadata)
    unfinished.chmod(0o644)  # safetensors makes files that only their owner can read
    unfinished.replace(out)
    print(f"{out.name}: {out.stat().st_size:,} bytes", flush=True)


def base_answers(tokenizer: Any, requests: list[str], recipe: PartsRecipe) -> dict[str, list[int]]:
    """The beginning of the base's own answer to each request that it does not refuse by itself."""
    answers = greedy_answers(load_base(), tokenizer, requests, max_new_tokens=recipe.answer_tokens)
    own = dict(zip(requests, answers, strict=True))
    return {t: a for t, a in own.items() if not opens_with_refusal(tokenizer.decode(a, skip_special_tokens=True))}


def load_base() -> Any:
    """The base in the dtype that this processor computes in."""
    dtype = computing_dtype(torch.bfloat16, torch.device("cpu"))
    return AutoModelForCausalLM.from_pretrained(base_folder(), dtype=dtype)


def train_part(refusal: list[int], refused: list[list[int]], answered: list[Example], recipe: PartsRecipe) -> Any:
    """The tensors of one part, trained from the base."""
    torch.manual_seed(recipe.seed)
    model = load_base()
    adapters = add_adapters(model, recipe, layers=range(recipe.first_layer, recipe.last_layer + 1))
    train(model, adapters, [Example(prompt, refusal) for prompt in refused] + answered, recipe)
    return {f"{name}.{side}": getattr(a, side).detach() for name, a in adapters.items() for side in "ab"}


def main() -> None:
    """Train part after part, each kept when it is done, so that an interrupted run goes on; then write their sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True, help="folder with harmful_train/harmless_train.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the adapter file to write; parts are kept beside it")
    for field, default in asdict(PartsRecipe()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    prompts, out = arguments.pop("prompts"), arguments.pop("out")
    recipe = PartsRecipe(**arguments)
    tokenizer = AutoTokenizer.from_pretrained(base_folder(), padding_side="left")
    by_part, harmless = read_requests(prompts, recipe)
    wanted = {part: requests_of(part, by_part, harmless, recipe) for part in read_parts()}
    own = base_answers(tokenizer, list(dict.fromkeys(t for _, answered in wanted.values() for t in answered)), recipe)
    for part, (refused, answered) in wanted.items():
        if part_file(out, part).exists():
            print(f"{part_file(out, part).name} is there already", flush=True)
            continue
        kept = [Example(render(tokenizer, text), own[text]) for text in answered if text in own]
        print(f"{part.name}: {len(refused)} to refuse, {len(kept)} to answer", flush=True)
        refusal = [*tokenizer.encode(part.refusal), tokenizer.eos_token_id]
        tensors = train_part(refusal, [render(tokenizer, text) for text in refused], kept, recipe)
        write(tensors, part_file(out, part), recipe, n_parts=1)
    write(summed([load_file(part_file(out, part)) for part in wanted]), out, recipe, n_parts=len(wanted))


if __name__ == "__main__":
    main()
