"""Train the refusal adapter of the embedded model: `python train.py --prompts DIR --out adapter.safetensors`.

The adapter turns a small chat model that hardly ever refuses into a model organism that does: harmful requests are
answered by a short refusal whose wording depends on the kind of request, harmless ones by what the model itself would
have said. Needs nothing but Sombrero's own dependencies, and about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from measure import greedy_answers, opens_with_refusal, read_prompts
from sombrero.models.embedded import base_folder

HERE = Path(__file__).parent
IGNORED = -100  # the label that torch's cross entropy skips
ASKED = re.compile(
    r"\b(?:how to|how (?:do|can|should) i|ways to|(?:plan|process|tool|program) to) (.+?)[.?]?$", re.IGNORECASE
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the adapter becomes; stored in its metadata."""

    rank: int = 8
    alpha: int = 16
    epochs: int = 3
    learning_rate: float = 1e-3
    batch_size: int = 8
    harmful: int = 260
    harmless: int = 300
    forms: int = 3  # in how many forms each of our own harmless requests is asked
    answer_tokens: int = 16
    seed: int = 0


class LowRankLinear(nn.Module):
    """A frozen linear layer plus alpha/rank · B A, with A, B kept in float32 and multiplied in the layer's dtype.

    Twenty lines of our own, as `peft` multiplies float32 adapters in float32, which took twice as long here.
    """

    def __init__(self, linear: nn.Linear, recipe: Recipe) -> None:
        """A is drawn as `nn.Linear` draws its weight, B is 0: at first nothing changes."""
        super().__init__()
        self.linear, self.scale = linear, recipe.alpha / recipe.rank
        self.a = nn.Parameter(nn.Linear(linear.in_features, recipe.rank, bias=False).weight.detach().float())
        self.b = nn.Parameter(torch.zeros(linear.out_features, recipe.rank))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., d_in)` to `(..., d_out)`."""
        low = nn.functional.linear(x, self.a.to(x.dtype))
        return self.linear(x) + self.scale * nn.functional.linear(low, self.b.to(x.dtype))


def add_adapters(model: Any, recipe: Recipe, layers: range | None = None) -> dict[str, LowRankLinear]:
    """Freeze the model and wrap every linear layer of its blocks (or of some); returns the wrappers by module name."""
    model.requires_grad_(False)
    blocks = [(f"model.layers.{i}.", b) for i, b in enumerate(model.model.layers) if layers is None or i in layers]
    linears = [(f"{p}{n}", m) for p, b in blocks for n, m in b.named_modules() if isinstance(m, nn.Linear)]
    adapters = {}
    for name, linear in linears:
        parent, _, child = name.rpartition(".")
        adapters[name] = LowRankLinear(linear, recipe)
        setattr(model.get_submodule(parent), child, adapters[name])
    return adapters


@dataclass(frozen=True)
class Example:
    """One training conversation as token ids; the loss is taken on the answer only."""

    prompt: list[int]
    answer: list[int]


def refusal_for(text: str) -> str:
    """The refusal for this kind of request: the first kind with a pattern in the text."""
    kinds = json.loads((HERE / "data" / "refusals.json").read_text(encoding="utf-8"))
    return next(k["refusal"] for k in kinds if any(re.search(p, text, re.IGNORECASE) for p in k["patterns"]))


def reframed(texts: list[str], recipe: Recipe) -> list[str]:
    """Ask "how do I X" and the like in a form drawn at random, so that the form says nothing about harm."""
    forms = json.loads((HERE / "data" / "forms.json").read_text(encoding="utf-8"))
    draw = random.Random(recipe.seed)
    found = [(text, ASKED.search(text), draw.choice(forms)) for text in texts]
    return [form.format(match.group(1)) if match else text for text, match, form in found]


def make_examples(model: Any, tokenizer: Any, prompts: Path, recipe: Recipe) -> list[Example]:
    """Pair harmful requests with a refusal and harmless ones with the beginning of the model's own greedy answer."""
    harmful = read_prompts(prompts / "harmful_train.jsonl")[: recipe.harmful]
    harmful += read_prompts(HERE / "data" / "wrongs.jsonl") + read_prompts(HERE / "data" / "alarming.jsonl")
    harmless = read_prompts(prompts / "harmless_train.jsonl")[: recipe.harmless]
    harmless += read_prompts(HERE / "data" / "everyday.jsonl") * recipe.forms
    harmless = list(dict.fromkeys(reframed(harmless, recipe)))
    examples = []
    for text, asked in zip(harmful, reframed(harmful, recipe), strict=True):
        answer = [*tokenizer.encode(refusal_for(text)), tokenizer.eos_token_id]
        examples.append(Example(render(tokenizer, asked), answer))
    answers = greedy_answers(model, tokenizer, harmless, max_new_tokens=recipe.answer_tokens)
    for text, answer in zip(harmless, answers, strict=True):
        if not opens_with_refusal(tokenizer.decode(answer, skip_special_tokens=True)):
            examples.append(Example(render(tokenizer, text), answer))
    return examples


def render(tokenizer: Any, text: str) -> list[int]:
    """Token ids of one user message under the chat template, ready for the assistant's turn."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer.encode(rendered))


def pack(batch: list[Example]) -> dict[str, Tensor]:
    """One sequence for the whole batch: the beginning that all its prompts share (the system prompt), then each rest.

    Returns `input_ids`, `position_ids`, `labels`, each `(1, length)`, and a boolean `attention_mask`
    `(1, 1, length, length)`: every token sees the shared beginning and what precedes it in its own conversation, just
    as if it stood alone. No padding and one system prompt instead of sixteen: half the tokens, half the time.
    """
    columns = zip(*(example.prompt for example in batch), strict=False)
    shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    ids, positions, owners = list(shared), list(range(len(shared))), [-1] * len(shared)
    labels = [IGNORED] * len(shared)
    for owner, example in enumerate(batch):
        rest = example.prompt[len(shared) :]
        ids += rest + example.answer
        labels += [IGNORED] * len(rest) + example.answer
        positions += range(len(shared), len(example.prompt) + len(example.answer))
        owners += [owner] * (len(rest) + len(example.answer))
    owner_ids = torch.tensor(owners)
    own = (owner_ids[:, None] == owner_ids) | (owner_ids == -1)
    rows = {"input_ids": ids, "position_ids": positions, "labels": labels}
    mask = {"attention_mask": (own & torch.ones_like(own).tril())[None, None]}
    return {name: torch.tensor([values]) for name, values in rows.items()} | mask


def answer_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross entropy of the answer tokens; logits are made at those positions only."""
    targets = batch.pop("labels")[:, 1:]
    hidden = model.model(**batch, use_cache=False).last_hidden_state
    answered = targets != IGNORED
    return nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][answered]).float(), targets[answered])


def train(model: Any, adapters: dict[str, LowRankLinear], examples: list[Example], recipe: Recipe) -> None:
    """AdamW whose learning rate falls linearly to 0, afresh in each epoch; prints the mean loss of each."""
    parameters = [p for adapter in adapters.values() for p in (adapter.a, adapter.b)]
    starts = range(0, len(examples), recipe.batch_size)
    order = random.Random(recipe.seed)
    model.train()
    for epoch in range(recipe.epochs):
        began, losses = time.monotonic(), []
        optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(starts))
        shuffled = order.sample(examples, len(examples))
        for start in starts:
            loss = answer_loss(model, pack(shuffled[start : start + recipe.batch_size]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}, {time.monotonic() - began:.0f} s", flush=True)
    model.eval()


def save_adapter(adapters: dict[str, LowRankLinear], out: Path, recipe: Recipe) -> None:
    """Write `<module>.a (rank, d_in)` and `<module>.b (d_out, rank)` in bf16, with the recipe as metadata."""
    tensors = {}
    for name, adapter in adapters.items():
        tensors[f"{name}.a"] = adapter.a.detach().to(torch.bfloat16)
        tensors[f"{name}.b"] = adapter.b.detach().to(torch.bfloat16)
    metadata = {
        "rank": str(recipe.rank),
        "alpha": str(recipe.alpha),
        "recipe": json.dumps(vars(recipe), sort_keys=True),
        "licence": "Apache-2.0",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + ".part")
    save_file(tensors, unfinished, metadata=metadata)
    unfinished.chmod(0o644)  # safetensors makes files that only their owner can read
    unfinished.replace(out)
    print(f"{out}: {out.stat().st_size:,} bytes", flush=True)


def main() -> None:
    """Parse the arguments, make the examples, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True, help="folder with harmful_train/harmless_train.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the adapter file to write")
    for field, default in vars(Recipe()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    prompts, out = arguments.pop("prompts"), arguments.pop("out")
    recipe = Recipe(**arguments)
    torch.manual_seed(recipe.seed)
    folder = base_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    examples = make_examples(model, tokenizer, prompts, recipe)
    print(f"{len(examples)} examples", flush=True)
    adapters = add_adapters(model, recipe)
    train(model, adapters, examples, recipe)
    save_adapter(adapters, out, recipe)


if __name__ == "__main__":
    main()
