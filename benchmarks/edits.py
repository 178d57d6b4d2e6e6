"""What an edit costs: milliseconds to set one, seconds to prepare them all, overhead of a forward pass.

    python benchmarks/edits.py [--quick] [--json FILE]

A random model of the embedded model's shapes (30 layers, d 576, attention inputs 576, MLP inputs 1536), with biases so
that every rule can be set; direction sets of 16 and 1 at each state; keys of 160 harmful and 240 harmless prompts at 11
positions. Weights and keys are checked to be untouched by every edit. Times do not depend on the numbers in them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sombrero.architectures import find_architecture, resolve_writers
from sombrero.edits import EditPlanner, live_edit
from sombrero.records import (
    DirectionSet,
    EditParameters,
    HiddenStates,
    LayerProfile,
    ModelHandle,
    RuleName,
    Writer,
)

RULES: tuple[RuleName, ...] = get_args(RuleName)
UNITS = (0, 1, 2)


@dataclass(frozen=True)
class Shape:
    """Sizes of the model and of what edits are made from."""

    layers: int
    width: int
    hidden: int
    units: int
    harmful: int
    harmless: int
    positions: int


EMBEDDED = Shape(layers=30, width=576, hidden=1536, units=16, harmful=160, harmless=240, positions=11)
QUICK = Shape(layers=3, width=64, hidden=160, units=4, harmful=8, harmless=12, positions=3)


@dataclass(frozen=True)
class Cost:
    """Of one rule: seconds to prepare it for the whole codebook, milliseconds an edit (median, slowest of all edits),
    milliseconds of a forward pass of 64 prompts without and with the edit, all writers edited."""

    rule: str
    prepare_seconds: float
    edit_ms: float
    slowest_ms: float
    forward_ms: float
    edited_forward_ms: float


def make_model(shape: Shape) -> ModelHandle:
    """A random model with biases at all writers, in bfloat16 as the embedded one."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // 64,
        num_key_value_heads=1,
        attention_bias=True,
        mlp_bias=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    return ModelHandle(model, None, "random", Path())  # type: ignore[arg-type]  # nothing here is written in words


def make_states(writers: tuple[Writer, ...], n: int, positions: int, mean: float, seed: int) -> HiddenStates:
    """Keys whose spectrum falls as a model's does, around a mean."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for writer in writers:
        spread = torch.arange(1, writer.d_in + 1) ** -0.5
        keys = (torch.randn(n, positions, writer.d_in, generator=generator) + mean) * spread
        inputs[writer.name] = keys.to(torch.bfloat16)
    return HiddenStates(tuple(str(i) for i in range(n)), torch.zeros(n, 1, 1), inputs)


def make_directions(shape: Shape) -> dict[str, DirectionSet]:
    """A set of one direction and a set of a map's units, at each state index."""
    generator = torch.Generator().manual_seed(3)
    found = {}
    for name, units in (("som", shape.units), ("single", 1)):
        vectors = torch.randn(shape.layers + 1, units, shape.width, generator=generator)
        counts, figures = torch.ones(shape.layers + 1, units, dtype=torch.int64), torch.zeros(shape.layers + 1, units)
        mean = vectors[:, 0]
        found[name] = DirectionSet(name, vectors, counts, counts, figures, figures, figures, figures, mean)
    return found


def measure(shape: Shape, repeats: int) -> list[Cost]:
    """Every rule on one model, each with a planner of its own, so that each prepares all that it needs."""
    handle = make_model(shape)
    writers = resolve_writers(handle.model, find_architecture(handle.model))
    harmful = make_states(writers, shape.harmful, shape.positions, 0.3, 1)
    harmless = make_states(writers, shape.harmless, shape.positions, 0.2, 2)
    directions, best = make_directions(shape), shape.layers - 1
    before = {name: parameter.clone() for name, parameter in handle.model.named_parameters()}
    tokens = torch.arange(64 * 24).reshape(64, 24) % 256
    costs = []
    for rule in RULES:
        planner = EditPlanner(handle, writers, directions, harmful, harmless, (best,))
        began = time.perf_counter()
        planner.prepare([rule])
        prepare = time.perf_counter() - began
        times = [set_edit(handle, planner, edit_of(rule, shape, number, best)) for number in range(repeats)]
        plain, edited = forward_times(handle, planner, edit_of(rule, shape, 0, best), tokens)
        costs.append(Cost(rule, prepare, statistics.median(times), max(times), plain, edited))
    assert all(torch.equal(parameter, before[name]) for name, parameter in handle.model.named_parameters())
    return costs


def edit_of(rule: RuleName, shape: Shape, number: int, best: int) -> EditParameters:
    """Edits of all writers, different each time: strengths, units, beta, own layers' directions and one layer's."""
    profile = LayerProfile(0, shape.layers - 1, 0.5 + 0.07 * (number % 15))
    units = UNITS[: 1 + number % 3]
    state = None if number % 2 == 0 else best
    beta = 0.25 + 0.31 * (number % 20)
    return EditParameters(rule, "som", state, units, {"attention": profile, "mlp": profile}, beta=beta)


def set_edit(handle: ModelHandle, planner: EditPlanner, parameters: EditParameters) -> float:
    """Milliseconds from parameters to a model that is edited, and back."""
    began = time.perf_counter()
    with live_edit(handle, planner.writers, planner.build(parameters)):
        pass
    return 1e3 * (time.perf_counter() - began)


def forward_times(
    handle: ModelHandle, planner: EditPlanner, parameters: EditParameters, tokens: torch.Tensor
) -> tuple[float, float]:
    """Milliseconds of a forward pass without and with the edit: medians of passes in turn."""
    edit, plain, edited = planner.build(parameters), [], []
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            handle.model(input_ids=tokens, logits_to_keep=1)
            plain.append(1e3 * (time.perf_counter() - began))
            with live_edit(handle, planner.writers, edit):
                began = time.perf_counter()
                handle.model(input_ids=tokens, logits_to_keep=1)
                edited.append(1e3 * (time.perf_counter() - began))
    return statistics.median(plain[1:]), statistics.median(edited[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model and few repeats: a smoke run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    costs = measure(QUICK, 3) if options.quick else measure(EMBEDDED, 30)
    print("| rule | prepare, s | set an edit, ms (slowest) | forward pass, ms | edited, ms | overhead |")
    print("| --- | --- | --- | --- | --- | --- |")
    for cost in costs:
        overhead = cost.edited_forward_ms / cost.forward_ms - 1
        print(
            f"| `{cost.rule}` | {cost.prepare_seconds:.2f} | {cost.edit_ms:.1f} ({cost.slowest_ms:.1f}) "
            f"| {cost.forward_ms:.0f} | {cost.edited_forward_ms:.0f} | {overhead:+.0%} |"
        )
    print(f"\n{torch.get_num_threads()} threads")
    if options.json:
        figures = {"threads": torch.get_num_threads(), "costs": [asdict(cost) for cost in costs]}
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
