"""A tiny model of a family with its states, directions and planner: what edits are made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from sombrero.architectures import Architecture, find_architecture, resolve_writers
from sombrero.directions import derive_directions, single_direction
from sombrero.edits import EditPlanner
from sombrero.prompts import render
from sombrero.records import (
    DirectionSet,
    EditParameters,
    HiddenStates,
    LayerProfile,
    ModelHandle,
    Prompt,
    RefusalMap,
    RenderedPrompt,
    RuleName,
    Writer,
    WriterKind,
)
from sombrero.som import fit_layers
from sombrero.states import collect_states
from tests.tiny_models import save_tiny, tiny_tokenizer

HARMFUL = tuple(
    f"Take the {thing} of {who}" for thing in ("purse", "car", "key", "map") for who in ("a man", "Ann", "x")
)
HARMLESS = tuple(
    f"Paint the {thing} for {who}" for thing in ("wall", "door", "hat", "cup") for who in ("a man", "Ann", "x")
)


@dataclass(frozen=True)
class Planned:
    """Everything that an edit of a tiny model needs."""

    handle: ModelHandle
    architecture: Architecture
    writers: tuple[Writer, ...]
    harmful_prompts: tuple[RenderedPrompt, ...]
    harmless_prompts: tuple[RenderedPrompt, ...]
    harmful: HiddenStates
    harmless: HiddenStates
    refusal_map: RefusalMap
    directions: dict[str, DirectionSet]
    planner: EditPlanner


def rendered(texts: tuple[str, ...], prefix: str) -> tuple[RenderedPrompt, ...]:
    """Texts as prompts of the tiny tokenizer."""
    prompts = [Prompt(f"{prefix}-{i}", text) for i, text in enumerate(texts)]
    return render(tiny_tokenizer(), prompts).prompts


def plan(
    family: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    attention_bias: bool = False,
    mlp_bias: bool = False,
) -> Planned:
    """Save a tiny model, load it as a user would, map it with a 2x2 map."""
    save_tiny(family, folder, dtype=dtype, attention_bias=attention_bias, mlp_bias=mlp_bias)
    return plan_model(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), folder)


def plan_model(model: PreTrainedModel, folder: Path) -> Planned:
    """Map a model that was loaded from ``folder`` with a 2x2 map."""
    model.eval()
    handle = ModelHandle(model, tiny_tokenizer(), str(folder), folder)
    architecture = find_architecture(model)
    writers = resolve_writers(model, architecture)
    h_prompts, g_prompts = rendered(HARMFUL, "h"), rendered(HARMLESS, "g")
    harmful = collect_states(handle, architecture, writers, h_prompts, key_positions=2)
    harmless = collect_states(handle, architecture, writers, g_prompts, key_positions=2)
    maps = fit_layers(harmful.hidden, n_rows=2, n_columns=2, seed=0)
    refusal_map = RefusalMap(
        2, 2, "hexagonal", "batch", maps.codebook, maps.hit_counts, maps.best_units, maps.quantization_error,
        maps.topographic_error, maps.u_matrix, harmless.hidden.mean(0), harmful.hidden.mean(0), harmful.prompt_ids,
    )  # fmt: skip
    directions = {
        "som": derive_directions(refusal_map, harmful, harmless),
        "single": single_direction(refusal_map, harmful, harmless),
    }
    planner = EditPlanner(handle, writers, directions, harmful, harmless)
    return Planned(
        handle, architecture, writers, h_prompts, g_prompts, harmful, harmless, refusal_map, directions, planner
    )


def parameters(
    rule: RuleName,
    *,
    units: tuple[int, ...] = (0, 1),
    strength: float = 1.0,
    map_layer: int | None = None,
    n_layers: int = 4,
    directions: str = "som",
    kinds: tuple[WriterKind, ...] = ("attention", "mlp"),
    alpha: float = 0.01,
    beta: float = 1.0,
) -> EditParameters:
    """An edit of the given kinds of writer from layer 1 on."""
    profiles = dict.fromkeys(kinds, LayerProfile(1, n_layers - 1, strength))
    return EditParameters(rule, directions, map_layer, units, profiles, alpha, beta)
