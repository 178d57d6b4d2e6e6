"""What is known of a model from its configuration alone: family, writers, memory that each verb needs, what is left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sombrero.architectures import get_layers, known_classes, resolve_writers
from sombrero.config import EvaluationConfig, ModelConfig, StatesConfig
from sombrero.errors import ArchitectureError
from sombrero.models import describe, load_skeleton
from sombrero.models.locate import configuration_source
from sombrero.progress import Progress
from sombrero.prompts import starter_prompts
from sombrero.records import Writer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from sombrero.architectures import Architecture

PROMPT_TOKENS = 128
"""Tokens of a rendered prompt that the figures of memory reckon with: the starter prompts in a short template."""
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


def inspect_model(config: ModelConfig, progress: Progress) -> dict[str, Any]:
    """All that ``sombrero inspect`` prints; docs/loading.md has the fields. No weight is read.

    Raises ModelError for what is no model, ArchitectureError for a class that no architecture file describes.
    """
    place = configuration_source(config)
    folder = Path(place["pretrained_model_name_or_path"])
    if "gguf_file" not in place:
        progress.say(_first_words(folder))
    model = load_skeleton(config)
    try:
        architecture = describe(model, config)
    except ArchitectureError as error:
        raise ArchitectureError(f"{error}; 'sombrero inspect --propose' traces the writers and drafts it") from error
    writers = resolve_writers(model, architecture)
    reasoning = architecture.reasoning
    return {
        "model": config.source,
        "class": type(model).__name__,
        "family": architecture.family,
        "layers": len(get_layers(model, architecture)),
        "hidden_size": model.config.get_text_config(decoder=True).hidden_size,
        "parameters": model.num_parameters(),
        "writers": _by_kind(writers),
        "writers_per_layer": _by_layer(writers),
        "parameters_touched": sum(_numbers(writer) for writer in writers),
        "checkpoint": _checkpoint(model, folder, config.source),
        "memory_bytes": memory(model, writers, config),
        "not_covered": _not_covered(model, architecture),
        "reasoning": None if reasoning is None else reasoning.model_dump(),
        "chat_template": _has_template(folder) if "gguf_file" not in place else None,
    }


def memory(model: PreTrainedModel, writers: Sequence[Writer], config: ModelConfig) -> dict[str, int]:
    """Bytes that each verb needs at its peak, over what Python itself takes: about 0.5 GiB.

    On a CPU with AVX-512 a second copy of the linear layers comes on top, where a tenth of the memory holds it.

    With the starter prompts and the settings' defaults, n prompts of both sorts, P kept positions of n_k of them:

    - weights: parameters × bytes of the dtype that they are loaded in (1 or ½ for matrices packed by bitsandbytes);
    - states of a prompt: 4 (L + 1) d + bytes × P × Σ d_in, and as much for all of them together, keys for n_k only;
    - map: weights + states; search: also the caches of one batch of answers and 4 × vocabulary × harmless prompts;
    - bake: the largest writer's tensor as stored and as written, and twice in float32. No other weight is held.
    """
    from sombrero.evaluation.row_memory import row_bytes
    from sombrero.models.load import computing_dtype, resolve_device

    stored, settings, answers = _stored_dtype(model), StatesConfig(), EvaluationConfig()
    n_bytes = computing_dtype(stored, resolve_device(config.device)).itemsize
    weights = _weight_bytes(model, config, n_bytes)
    harmful, harmless = len(starter_prompts("harmful", "map")), len(starter_prompts("harmless", "map"))
    positions = settings.key_positions + settings.key_answer_tokens
    width = model.config.get_text_config(decoder=True).hidden_size
    n_layers = len({writer.layer for writer in writers})
    hidden = 4 * (n_layers + 1) * width
    keys = n_bytes * positions * sum(writer.d_in for writer in writers)
    states = hidden * (harmful + harmless) + keys * (harmful + min(harmless, settings.guards))
    vocabulary: int = model.config.get_text_config(decoder=True).vocab_size
    batch = answers.batch_size * row_bytes(model, PROMPT_TOKENS, answers.max_new_tokens) * n_bytes // stored.itemsize
    logits = 4 * vocabulary * len(starter_prompts("harmless", "search"))
    largest = max(_numbers(writer) for writer in writers)
    return {
        "weights": weights,
        "states_per_prompt": hidden + keys,
        "map": weights + states,
        "search": weights + states + batch + logits,
        "bake": largest * (2 * stored.itemsize + 8),
    }


def _numbers(writer: Writer) -> int:
    return writer.n_parameters


def _weight_bytes(model: PreTrainedModel, config: ModelConfig, n_bytes: int) -> int:
    total = model.num_parameters()
    if config.quantization == "none":
        return n_bytes * total
    from torch import nn

    head = model.get_output_embeddings()
    packed = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    return n_bytes * (total - packed) + packed // (1 if config.quantization == "bnb-8bit" else 2)


def _stored_dtype(model: PreTrainedModel) -> torch.dtype:
    """That of the configuration; float32, the library's own default, where it names none."""
    import torch

    found = getattr(model.config, "dtype", None) or getattr(model.config.get_text_config(), "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.float32


def _checkpoint(model: PreTrainedModel, folder: Path, source: str) -> dict[str, Any]:
    """How the weights are stored, as far as the files say that are there."""
    from sombrero.models.load import stored_dtype
    from sombrero.models.placement import quantization_method

    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    n_bytes = sum(file.stat().st_size for file in files) or None
    if n_bytes is None and index.is_file():
        n_bytes = json.loads(index.read_text(encoding="utf-8")).get("metadata", {}).get("total_size")
    dtype = stored_dtype(folder, source) if files else _stored_dtype(model)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "quantization": quantization_method(model.config),
        "bytes": n_bytes,
    }


def _by_kind(writers: Sequence[Writer]) -> dict[str, int]:
    return {kind: sum(w.kind == kind for w in writers) for kind in sorted({w.kind for w in writers})}


def _by_layer(writers: Sequence[Writer]) -> list[dict[str, Any]]:
    """Layers with the same writers together: ``{"layers": "0, 2-5", "writers": {kind: count}}``."""
    found: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for layer in sorted({writer.layer for writer in writers}):
        kinds = _by_kind([writer for writer in writers if writer.layer == layer])
        found.setdefault(tuple(kinds.items()), []).append(layer)
    return [{"layers": ranges(layers), "writers": dict(kinds)} for kinds, layers in found.items()]


def ranges(numbers: Sequence[int]) -> str:
    """``0, 2-5`` for ascending numbers."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{first}-{last}" if first != last else str(first) for first, last in parts)


def _not_covered(model: PreTrainedModel, architecture: Architecture) -> list[str]:
    """What writes to the residual stream, or lies beside it, and is not edited."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embeddings.weight
    n_embeddings = sum(p.numel() for p in embeddings.parameters())
    notes = [f"the embeddings ({n_embeddings} parameters{', shared with the head' if tied else ''}) are not edited"]
    text = architecture.layers.rpartition(".")[0]
    beside: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not name.startswith(f"{text}.") and (head is None or parameter is not head.weight):
            part = ".".join(name.split(".")[: text.count(".") + 1])
            beside[part] = beside.get(part, 0) + parameter.numel()
    notes += [f"{part} ({count} parameters) is no part of the text model" for part, count in beside.items()]
    return notes


def _has_template(folder: Path) -> bool | None:
    """Whether the tokenizer has a chat template; None where its files are not there."""
    if any((folder / name).is_file() for name in TEMPLATE_FILES) or (folder / "chat_templates").is_dir():
        return True
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return None
    return bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))


def _first_words(folder: Path) -> str:
    """Class, family and size by the file alone: said before the libraries are imported, which takes seconds."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names = settings.get("architectures") or ["a class that config.json does not name"]
        text = settings.get("text_config") or settings
        family = known_classes().get(names[0], "not described")
        sizes = f"{text.get('num_hidden_layers', '?')} layers of width {text.get('hidden_size', '?')}"
    except (OSError, ValueError, AttributeError, TypeError):
        return "config.json cannot be read"  # what is wrong with it is said when it is loaded
    return f"{names[0]}, family {family}, {sizes}"
