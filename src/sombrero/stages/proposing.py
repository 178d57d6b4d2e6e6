"""``sombrero inspect --propose``: an architecture entry for a class, traced and checked by accounting."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sombrero.config import ModelConfig
from sombrero.errors import ArchitectureError, CoverageError
from sombrero.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def propose(config: ModelConfig, progress: Progress) -> dict[str, Any]:
    """Trace a small random model of the class; returns the entry, its proof, and what it could not explain.

    ``complete``: the entry fits the schema, accounts for all that every layer adds, and nothing was left to say. An
    entry is used by nothing until a person has put it into a file and named that. Raises ModelError, ArchitectureError.
    """
    from sombrero.architectures.proposal import GUESSED, propose_entry
    from sombrero.architectures.tracing import trace_writers
    from sombrero.models.miniature import load_miniature, miniature_ids

    progress.say("building a small random model of the class; the weights are not read")
    model = load_miniature(config)
    ids = miniature_ids(model)
    trace = trace_writers(model, ids)
    entry, notes = propose_entry(model, trace, _stored(model))
    error, problem = _account(model, entry, ids)
    if problem is not None:
        notes.append(problem)
    return {
        "model": config.source,
        "class": type(model).__name__,
        "entry": entry,
        "complete": not notes,
        "accounting": error,
        "notes": [*notes, GUESSED],
        "traced_on": {"layers": len(trace.layers), "parameters": model.num_parameters()},
    }


def _stored(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's tensors as its class saves them."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = sorted(Path(folder).glob("*.safetensors"))
        return {name: tensor.clone() for file in files for name, tensor in load_file(file).items()}


def _account(model: PreTrainedModel, entry: dict[str, Any], ids: torch.Tensor) -> tuple[float | None, str | None]:
    """The worst layer's relative error with this entry, or what is wrong with it."""
    from pydantic import ValidationError

    from sombrero.architectures import Architecture, resolve_writers
    from sombrero.edits import account_residuals
    from sombrero.records import ModelHandle, Prompt, RenderedPrompt

    handle = ModelHandle(model, None, "a small random model", Path())  # type: ignore[arg-type]  # no text is rendered
    probe = RenderedPrompt(Prompt("probe", "probe"), "probe", tuple(ids[0].tolist()))
    try:
        architecture = Architecture.model_validate(entry)
        layers = account_residuals(handle, architecture, resolve_writers(model, architecture), [probe])
    except ValidationError as error:
        fields = sorted({".".join(str(part) for part in item["loc"]) for item in error.errors()})
        return None, f"the schema does not take {', '.join(fields)}"
    except (ArchitectureError, CoverageError) as error:
        return None, str(error)
    return max(layer.relative_error for layer in layers), None
