"""Train an organism whose refusal has five parts: `python train_parts.py --out FILE`.

Five adapters, each trained by itself from the base: it refuses one kind of request in a wording of its own, and leaves
the other kinds and harmless requests as the base answers them (by the KL divergence from the base). No two share a
layer, and what they write to the residual stream lies in subspaces at right angles. Their sum is the union of their
files. `measure_parts.py` shows whether they are separate.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

from measure import read_prompts
from sombrero.models.embedded import base_folder
from sombrero.models.load import computing_dtype
from train import HERE, IGNORED, Example, LowRankLinear, Recipe, add_adapters, pack, render

PARTS = HERE / "data" / "parts.json"
WRITERS = ("o_proj", "down_proj")  # of a block: what they return is added to the residual stream


@dataclass(frozen=True)
class Part:
    """Its wording, the starter categories that it should refuse, and its training requests: acts and whole asks."""

    name: str
    refusal: str
    starter: tuple[str, ...]
    acts: tuple[str, ...]
    asks: tuple[str, ...]


@dataclass(frozen=True)
class PartsRecipe:
    """Everything that decides what the adapters become."""

    rank: int = 8
    alpha: int = 16
    first_layer: int = 5  # of the first part; the second has the next one, and each as many apart as there are parts
    steps: int = 90  # of a part
    learning_rate: float = 1.5e-3
    warmup: int = 5
    own: int = 2  # requests of the part's own kind in a batch
    others: int = 4  # of the other kinds
    harmless: int = 3
    keep: float = 3.0  # weight of the divergence from the base beside the cross entropy of the refusals
    forms: int = 2  # in how many forms each act is asked
    held_out: int = 6  # each sixth act is asked of no part: `measure_parts.py --held-out` asks those
    answer_tokens: int = 6  # of the base's answers
    seed: int = 0


@dataclass(frozen=True)
class Kept:
    """A request whose answer should stay: the base's own greedy one, with the base's states ``(n_tokens, d)``."""

    example: Example
    states: Tensor


def read_parts() -> tuple[Part, ...]:
    """The parts as `data/parts.json` describes them."""
    rows = json.loads(PARTS.read_text(encoding="utf-8"))["parts"]
    return tuple(Part(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in rows)


def requests_of(part: Part, recipe: PartsRecipe, *, held_out: bool = False) -> list[str]:
    """What a part is trained to refuse: its sentences, and its acts in forms drawn at random; or what was held out."""
    forms = json.loads((HERE / "data" / "forms.json").read_text(encoding="utf-8"))
    draw = random.Random(f"{part.name} {recipe.seed}")
    asked: dict[bool, list[str]] = {False: list(part.asks), True: []}
    for i, act in enumerate(part.acts):
        out = i % recipe.held_out == 0
        asked[out] += [form.format(act) for form in draw.sample(forms, 1 if out else recipe.forms)]
    return asked[held_out]


def harmless_requests(recipe: PartsRecipe) -> list[str]:
    """Ours: everyday ones, and ones that only sound alarming; at most as many as the steps need, drawn at random."""
    texts = [text for name in ("everyday", "alarming") for text in read_prompts(HERE / "data" / f"{name}.jsonl")]
    return random.Random(recipe.seed).sample(texts, min(len(texts), recipe.steps * recipe.harmless))


def layers_of(place: int, n_parts: int, n_layers: int, recipe: PartsRecipe) -> range:
    """The layers of the part at a place in the list: no other part has any of them."""
    return range(recipe.first_layer + place, n_layers, n_parts)


def bases(n_parts: int, d: int, recipe: PartsRecipe) -> list[Tensor]:
    """For each part an orthonormal basis ``(d, d // n_parts)`` of the subspace that it may write to, all orthogonal."""
    generator = torch.Generator().manual_seed(recipe.seed)
    rotation, _ = torch.linalg.qr(torch.randn(d, d, generator=generator))
    return list(rotation[:, : d // n_parts * n_parts].split(d // n_parts, dim=1))


def union(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One adapter with the tensors of all; as no two adapt the same module, its update is the sum of theirs."""
    merged: dict[str, Tensor] = {}
    for part in parts:
        if shared := merged.keys() & part.keys():
            raise ValueError(f"two parts adapt {sorted(shared)[0]}; give each layers of its own")
        merged |= part
    return merged


def part_file(out: Path, part: Part) -> Path:
    """Where one part is kept, beside the sum."""
    return out.with_name(f"{out.stem}-{part.name}{out.suffix}")


def write(tensors: dict[str, Tensor], out: Path, recipe: PartsRecipe) -> None:
    """Write `<module>.a (rank, d_in)` and `<module>.b (d_out, rank)` in bf16, with the recipe as metadata."""
    metadata = {
        "rank": str(recipe.rank),
        "alpha": str(recipe.alpha),
        "recipe": json.dumps(asdict(recipe) | {"parts": [part.name for part in read_parts()]}, sort_keys=True),
        "licence": "Apache-2.0",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + ".part")
    save_file({name: value.to(torch.bfloat16) for name, value in tensors.items()}, unfinished, metadata=metadata)
    unfinished.chmod(0o644)  # safetensors makes files that only their owner can read
    unfinished.replace(out)
    print(f"{out.name}: {out.stat().st_size:,} bytes", flush=True)


def load_base() -> Any:
    """The base in the dtype that this processor computes in."""
    dtype = computing_dtype(torch.bfloat16, torch.device("cpu"))
    return AutoModelForCausalLM.from_pretrained(base_folder(), dtype=dtype).eval()


def answering(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """States ``(n_tokens, d)`` from which the answers' tokens are predicted, and those tokens, of a packed batch."""
    targets = batch.pop("labels")[:, 1:]
    hidden = model.model(**batch, use_cache=False).last_hidden_state[:, :-1]
    return hidden[targets != IGNORED], targets[targets != IGNORED]


@torch.no_grad()
def kept_answers(tokenizer: Any, requests: list[str], recipe: PartsRecipe) -> dict[str, Kept]:
    """The beginning of the base's own greedy answer to each request, with the base's states."""
    base, kept = load_base(), {}
    by_length = sorted(requests, key=len)  # little padding within a batch
    for start in range(0, len(by_length), 32):
        some = by_length[start : start + 32]
        chats = [[{"role": "user", "content": text}] for text in some]
        rendered = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(rendered, return_tensors="pt", padding=True, padding_side="left")
        made = base.generate(
            **inputs,
            max_new_tokens=recipe.answer_tokens,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
        states = torch.stack([step[-1][:, -1] for step in made.hidden_states], dim=1)  # (n, n_tokens, d), normed
        answers = made.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        for text, answer, rows in zip(some, answers, states, strict=True):
            end = answer.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in answer else len(answer)
            kept[text] = Kept(Example(render(tokenizer, text), answer[:end]), rows[:end].clone())
    return kept


def loss_of(model: Any, refused: list[Example], kept: list[Kept]) -> tuple[Tensor, Tensor]:
    """Cross entropy of the refusals' tokens, and KL(base ‖ model) at the tokens of the kept answers; both means."""
    hidden, targets = answering(model, pack(refused + [one.example for one in kept]))
    n_refused = sum(len(example.answer) for example in refused)
    logits = model.lm_head(hidden).float()
    wanted = log_softmax(model.lm_head(torch.cat([one.states for one in kept])).float(), dim=-1)
    found = log_softmax(logits[n_refused:], dim=-1)
    return (
        cross_entropy(logits[:n_refused], targets[:n_refused]),
        kl_div(found, wanted, log_target=True, reduction="batchmean"),
    )


def batches(
    refused: list[Example], others: list[Kept], harmless: list[Kept], recipe: PartsRecipe
) -> list[tuple[list[Example], list[Kept]]]:
    """For every step some requests to refuse and some to leave; each list is gone through in an order of its own."""
    draw = random.Random(recipe.seed)
    turns = [cycle(draw.sample(rows, len(rows))) for rows in (refused, others, harmless)]
    sizes = (recipe.own, recipe.others, recipe.harmless)
    steps = [[list(islice(t, n)) for t, n in zip(turns, sizes, strict=True)] for _ in range(recipe.steps)]
    return [(own, other + none) for own, other, none in steps]


def train_part(
    steps: list[tuple[list[Example], list[Kept]]], layers: range, basis: Tensor, recipe: PartsRecipe
) -> dict[str, Tensor]:
    """The tensors of one part, trained from the base by AdamW; what it writes is kept in the span of ``basis``."""
    torch.manual_seed(recipe.seed)
    model = load_base()
    adapters = add_adapters(model, Recipe(rank=recipe.rank, alpha=recipe.alpha), layers=layers)
    parameters = [p for adapter in adapters.values() for p in (adapter.a, adapter.b)]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    began, sums = time.monotonic(), torch.zeros(2)
    for i, (refused, kept) in enumerate(steps, 1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(i / recipe.warmup, 1 - (i - 1) / len(steps))
        losses = loss_of(model, refused, kept)
        (losses[0] + recipe.keep * losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        stay_within(basis, adapters)
        sums += torch.stack(losses).detach()
        if i % 20 == 0:
            refusal, kl = (sums / 20).tolist()
            print(f"  step {i}: refusals {refusal:.3f}, kept {kl:.3f}, {time.monotonic() - began:.0f} s", flush=True)
            sums.zero_()
    return {f"{name}.{side}": getattr(a, side).detach() for name, a in adapters.items() for side in "ab"}


@torch.no_grad()
def stay_within(basis: Tensor, adapters: dict[str, LowRankLinear]) -> None:
    """Project what the writers' adapters add on the span of ``basis (d, k)``."""
    for name, adapter in adapters.items():
        if name.endswith(WRITERS):
            adapter.b.copy_(basis @ (basis.T @ adapter.b))


def main() -> None:
    """Train part after part, each kept when it is done, so that an interrupted run goes on; then write their sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the adapter file to write; parts are kept beside it")
    parser.add_argument("--only", nargs="+", metavar="PART", help="train these parts and stop")
    for field, default in asdict(PartsRecipe()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    out, only = arguments.pop("out"), arguments.pop("only")
    recipe, parts = PartsRecipe(**arguments), read_parts()
    tokenizer = AutoTokenizer.from_pretrained(base_folder(), padding_side="left")
    asked = {part.name: requests_of(part, recipe) for part in parts}
    everything = [*(text for texts in asked.values() for text in texts), *harmless_requests(recipe)]
    kept = kept_answers(tokenizer, list(dict.fromkeys(everything)), recipe)
    config = load_base().config
    for place, (part, basis) in enumerate(zip(parts, bases(len(parts), config.hidden_size, recipe), strict=True)):
        if part_file(out, part).exists() or (only and part.name not in only):
            print(f"{part.name}: there already, or not asked for", flush=True)
            continue
        layers = layers_of(place, len(parts), config.num_hidden_layers, recipe)
        print(f"{part.name}: {len(asked[part.name])} requests to refuse, layers {list(layers)}", flush=True)
        answer = [*tokenizer.encode(part.refusal), tokenizer.eos_token_id]
        refused = [Example(render(tokenizer, text), answer) for text in asked[part.name]]
        others = [kept[text] for name, texts in asked.items() if name != part.name for text in texts]
        steps = batches(refused, others, [kept[text] for text in harmless_requests(recipe)], recipe)
        write(train_part(steps, layers, basis, recipe), part_file(out, part), recipe)
    if not only:
        write(union([load_file(part_file(out, part)) for part in parts]), out, recipe)


if __name__ == "__main__":
    main()
