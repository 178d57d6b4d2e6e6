"""Whether the parts of the organism are separate: `python measure_parts.py --adapter parts_adapter.safetensors`.

For each part alone and for their sum: which starter prompts of each part's categories it refuses, with which opening,
and how many harmless ones. Then directions: the cosines between the differences of means (harmful of one part's
categories less harmless) in the sum, beside the same cosines in the organism that was trained in one go; and what is
left of each part's refusals when the direction of one part is projected out of every layer's output.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from measure import greedy_answers, opens_with_refusal
from sombrero.models.embedded import ADAPTER, base_folder
from sombrero.models.load import computing_dtype
from sombrero.prompts import starter_prompts
from train_parts import PARTS, load, part_file, summed


def main() -> None:
    """Print the matrix of parts and categories, the cosines, and the matrix of ablations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True, help="the sum; its parts lie beside it")
    parser.add_argument("--per-part", type=int, default=30, help="prompts of each part's categories, and harmless ones")
    parser.add_argument("--layer", type=int, default=20, help="layer after which states are compared")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    dtype = computing_dtype(torch.bfloat16, torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(base_folder(), padding_side="left")
    sets = prompt_sets(arguments.per_part)
    parts = [load(part_file(arguments.adapter, part)) for part in PARTS]
    figures: dict[str, Any] = {"refusals": {}, "openings": {}, "cosines": {}, "ablated": {}}
    for name, tensors in [*zip((part.name for part in PARTS), parts, strict=True), ("sum", summed(parts))]:
        model = merged(tensors, 2.0, dtype)
        figures["refusals"][name], figures["openings"][name] = refusals(model, tokenizer, sets)
        print(f"{name:10s} {figures['refusals'][name]}   {figures['openings'][name]}", flush=True)
    figures["cosines"]["sum"], directions = directions_of(model, tokenizer, sets, arguments.layer)
    for part, direction in zip(PARTS, directions, strict=True):
        with ablated(model, direction):
            figures["ablated"][part.name] = refusals(model, tokenizer, sets)[0]
        print(f"without {part.name:10s} {figures['ablated'][part.name]}", flush=True)
    whole = merged(dict(load_file(ADAPTER)), 2.0, dtype)
    figures["cosines"]["in one go"], _ = directions_of(whole, tokenizer, sets, arguments.layer)
    for name, rows in figures["cosines"].items():
        print(f"cosines, {name}: {rows}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def prompt_sets(n: int) -> dict[str, list[str]]:
    """Starter prompts of each part's categories, in turn from each category, and harmless ones."""
    splits = ("map", "search", "report")
    harmful = [prompt for split in splits for prompt in starter_prompts("harmful", split)]
    found: dict[str, list[str]] = {}
    for part in PARTS:
        by_category = [[p.text for p in harmful if p.category == category] for category in part.starter]
        longest = max(map(len, by_category))
        turns = [texts[i] for i in range(longest) for texts in by_category if i < len(texts)]
        found[part.name] = turns[:n]
    found["harmless"] = [prompt.text for prompt in starter_prompts("harmless", "search")][:n]
    return found


def merged(tensors: dict[str, torch.Tensor], scale: float, dtype: torch.dtype) -> Any:
    """The base with an adapter added to its weights."""
    model = AutoModelForCausalLM.from_pretrained(base_folder(), dtype=dtype)
    for module in sorted(name.removesuffix(".a") for name in tensors if name.endswith(".a")):
        weight = model.get_parameter(f"{module}.weight")
        update = tensors[f"{module}.b"].float() @ tensors[f"{module}.a"].float()
        weight.data += (scale * update).to(dtype)
    return model.eval()


def refusals(model: Any, tokenizer: Any, sets: dict[str, list[str]]) -> tuple[dict[str, str], dict[str, int]]:
    """Refusals k/n of each set, and how often each part's wording began one."""
    counts, openings = {}, dict.fromkeys([part.name for part in PARTS], 0)
    for name, texts in sets.items():
        rows = greedy_answers(model, tokenizer, texts, max_new_tokens=8)
        answers = tokenizer.batch_decode(rows, skip_special_tokens=True)
        counts[name] = f"{sum(map(opens_with_refusal, answers))}/{len(answers)}"
        for part in PARTS:
            openings[part.name] += sum(answer.startswith(part.refusal[:12]) for answer in answers)
    return counts, openings


@torch.no_grad()
def directions_of(
    model: Any, tokenizer: Any, sets: dict[str, list[str]], layer: int
) -> tuple[list[list[float]], list[torch.Tensor]]:
    """Cosines between the parts' differences of means after a layer, and the unit directions ``(d,)``."""
    means = {}
    for name, texts in sets.items():
        states = []
        for text in texts:
            chat = [{"role": "user", "content": text}]
            rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            tokens = torch.tensor([tokenizer.encode(rendered)])
            states.append(model(tokens, output_hidden_states=True).hidden_states[layer + 1][0, -1].float())
        means[name] = torch.stack(states).mean(dim=0)
    rows = [torch.nn.functional.normalize(means[part.name] - means["harmless"], dim=0) for part in PARTS]
    table = torch.stack(rows)
    return [[round(float(c), 2) for c in row] for row in table @ table.T], rows


class ablated(ExitStack):  # noqa: N801 - used as a function
    """Within it every block's output has no component along a direction ``(d,)``."""

    def __init__(self, model: Any, direction: torch.Tensor) -> None:
        super().__init__()

        def hook(_module: Any, _args: Any, output: Any) -> Any:
            hidden: torch.Tensor = output[0] if isinstance(output, Sequence) else output
            v = direction.to(hidden.dtype)
            changed = hidden - (hidden @ v)[..., None] * v
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        for block in model.model.layers:
            self.callback(block.register_forward_hook(hook).remove)


if __name__ == "__main__":
    main()
