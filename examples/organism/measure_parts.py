"""Whether the parts of the organism are separate: `python measure_parts.py --adapter parts_adapter.safetensors`.

For the base, each part alone and their sum: refusals of starter prompts of each part's categories, of harmless and of
borderline ones, and in whose wording; or of the acts that `train_parts.py` held out. Then directions in the sum, after
some layers: cosines between the parts' differences of means (harmful of a part less harmless), and between what the
adapter adds to the same states (sum less base, less that of harmless ones), with the base and the organism trained in
one go as controls. Last, refusals when one part's direction, or that of all harmful prompts, is projected out of every
block's output.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer

from measure import greedy_answers, opens_with_refusal
from sombrero.models.embedded import ADAPTER, base_folder, merge_adapter
from sombrero.prompts import starter_prompts
from train import render
from train_parts import PartsRecipe, load_base, part_file, read_parts, requests_of

PARTS = read_parts()


def main() -> None:
    """Print every table and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True, help="the sum, as train_parts.py writes it")
    parser.add_argument("--alone", action="store_true", help="measure each part too; their files lie beside the sum")
    parser.add_argument("--held-out", action="store_true", help="ask the acts held out in training; refusals only")
    parser.add_argument("--per-set", type=int, default=30, help="starter prompts of each part's categories")
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 16, 20, 24], help="after which states are read")
    parser.add_argument("--ablate", type=int, default=20, metavar="LAYER", help="whose directions are projected out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(base_folder(), padding_side="left")
    sets = prompt_sets(arguments.per_set)
    if arguments.held_out:
        sets |= {part.name: requests_of(part, PartsRecipe(), held_out=True) for part in PARTS}
    figures: dict[str, Any] = {"refusals": {}, "cosines": {}, "singular_values": {}, "without": {}}
    if arguments.alone:
        figures["refusals"]["base"] = show("base", wordings(load_base(), tokenizer, sets))
        for part in PARTS:
            alone = load_merged(part_file(arguments.adapter, part))
            figures["refusals"][part.name] = show(f"only {part.name}", wordings(alone, tokenizer, sets))
    model = load_merged(arguments.adapter)
    figures["refusals"]["sum"] = show("sum", wordings(model, tokenizer, sets))
    if not arguments.held_out:
        look_inside(model, tokenizer, sets, arguments, figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def look_inside(
    model: Any, tokenizer: Any, sets: dict[str, list[str]], arguments: argparse.Namespace, figures: dict[str, Any]
) -> None:
    """Add the cosines, the singular values, and the refusals without some directions to the figures."""
    layers = sorted({*arguments.layers, arguments.ablate})
    states = {"base": load_base(), "in one go": load_merged(ADAPTER), "sum": model}
    means = {name: mean_states(one, tokenizer, sets, layers) for name, one in states.items()}
    for layer in range(len(layers)):
        for name, rows in directions(means, layer).items():
            key = f"{name}, layer {layers[layer]}"
            figures["cosines"][key] = [[round(float(c), 2) for c in row] for row in rows @ rows.T]
            figures["singular_values"][key] = [round(float(s), 2) for s in torch.linalg.svdvals(rows)]
            print(f"{key}: cosines {figures['cosines'][key]}, singular values {figures['singular_values'][key]}")
    rows = directions(means, layers.index(arguments.ablate))["sum"]
    for name, direction in [
        *zip([part.name for part in PARTS], rows, strict=True),
        ("all", normalize(rows.sum(0), dim=0)),
    ]:
        with ablated(model, direction):
            figures["without"][name] = show(f"without {name}", wordings(model, tokenizer, sets))


def prompt_sets(n: int) -> dict[str, list[str]]:
    """At most ``n`` starter prompts of each part's categories, harmless ones and borderline ones.

    In turn from every category, so that each is there; all splits of the harmful ones, for none was trained on.
    """
    harmful = [prompt for split in ("map", "search", "report") for prompt in starter_prompts("harmful", split)]
    found = {}
    for part in PARTS:
        columns = [[prompt.text for prompt in harmful if prompt.category == category] for category in part.starter]
        turns = [texts[i] for i in range(max(map(len, columns))) for texts in columns if i < len(texts)]
        found[part.name] = turns[:n]
    for role in ("harmless", "borderline"):
        found[role] = [prompt.text for prompt in starter_prompts(role, "report")][:n]
    return found


def load_merged(adapter: Path) -> Any:
    """The base with an adapter merged into its weights."""
    model = load_base()
    tensors = dict(model.state_dict())
    merge_adapter(tensors, adapter)
    model.load_state_dict(tensors)
    return model.eval()


def part_of(answer: str) -> str | None:
    """Whose wording an answer begins with: its first words, up to and with the one that says no."""
    return next((part.name for part in PARTS if answer.startswith(opening_of(part.refusal))), None)


def opening_of(refusal: str) -> str:
    """The first three words of a refusal, which no two parts share."""
    return " ".join(refusal.split()[:3])


def wordings(model: Any, tokenizer: Any, sets: dict[str, list[str]]) -> dict[str, dict[str, int]]:
    """Of each set: answers in each part's wording, other refusals, and how many prompts there are."""
    found = {}
    for name, texts in sets.items():
        counts = {part.name: 0 for part in PARTS} | {"other refusal": 0}
        rows = greedy_answers(model, tokenizer, texts, max_new_tokens=8)
        for answer in tokenizer.batch_decode(rows, skip_special_tokens=True):
            key = part_of(answer) or ("other refusal" if opens_with_refusal(answer) else None)
            if key is not None:
                counts[key] += 1
        found[name] = counts | {"n": len(texts)}
    return found


def show(title: str, found: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Print the refusals of each set, with their wordings, and hand the counts on."""
    print(f"{title}:", flush=True)
    for name, counts in found.items():
        said = {key: count for key, count in counts.items() if count and key != "n"}
        print(f"  {name:10s} {sum(said.values()):2d}/{counts['n']}  {said}", flush=True)
    return found


@torch.no_grad()
def mean_states(model: Any, tokenizer: Any, sets: dict[str, list[str]], layers: list[int]) -> dict[str, Tensor]:
    """Mean state ``(n_layers, d)`` of each set after the layers (counted from 0), at the last token of the prompt."""
    means = {}
    for name, texts in sets.items():
        tokens = [torch.tensor([render(tokenizer, text)]) for text in texts]
        hidden = [model.model(ids, output_hidden_states=True, use_cache=False).hidden_states for ids in tokens]
        means[name] = torch.stack([torch.stack([h[i + 1][0, -1].float() for i in layers]) for h in hidden]).mean(dim=0)
    return means


def directions(means: dict[str, dict[str, Tensor]], layer: int) -> dict[str, Tensor]:
    """Unit directions ``(n_parts, d)``: each model's differences of means, and what each adds to the base.

    The latter less what it adds to harmless states: a shift of all states is no refusal.
    """
    names = [part.name for part in PARTS]
    found = {m: torch.stack([means[m][p][layer] - means[m]["harmless"][layer] for p in names]) for m in means}
    for organism in ("in one go", "sum"):
        added = {p: means[organism][p][layer] - means["base"][p][layer] for p in [*names, "harmless"]}
        found[f"{organism} less base"] = torch.stack([added[p] - added["harmless"] for p in names])
    return {name: normalize(rows, dim=1) for name, rows in found.items()}


@contextmanager
def ablated(model: Any, direction: Tensor) -> Iterator[None]:
    """Within it every block's output has no component along a unit direction ``(d,)``."""

    def project(_module: Any, _args: Any, output: Any) -> Any:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        v = direction.to(hidden.dtype)
        changed = hidden - (hidden @ v)[..., None] * v
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handles = [block.register_forward_hook(project) for block in model.model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


if __name__ == "__main__":
    main()
