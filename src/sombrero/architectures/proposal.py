"""A draft of an architecture entry from what was traced in a small random model, for a person to confirm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sombrero.architectures.tracing import Trace, TracedWriter, unexplained, used_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GUESSED = "kinds are told by whether a part of the layer reads other tokens; check them, and set family and reasoning"


def propose_entry(
    model: PreTrainedModel, trace: Trace, stored: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], list[str]]:
    """The entry as it stands in a JSON file, and what it does not say or could not explain.

    ``stored`` are the tensors of the same model as its class saves them: names in a checkpoint are found by value.
    """
    notes = list(unexplained(trace))
    found = [(_writer(model, trace, w, layers, stored, notes), set(layers)) for w, layers in used_in(trace).items()]
    _name_apart(found)
    writers = sorted((e for e, _ in found), key=lambda entry: (entry["kind"], "where" in entry, entry["module"]))
    entry: dict[str, Any] = {
        "family": model.config.get_text_config(decoder=True).model_type,
        "classes": [type(model).__name__],
        "layers": trace.path,
        "embeddings": _path_of(model, model.get_input_embeddings()),
    }
    head = model.get_output_embeddings()
    if head is not None and _path_of(model, head) != "lm_head":
        entry["head"] = _path_of(model, head)
    return entry | {"writers": writers}, notes


def _writer(
    model: PreTrainedModel,
    trace: Trace,
    writer: TracedWriter,
    layers: Sequence[int],
    stored: Mapping[str, torch.Tensor],
    notes: list[str],
) -> dict[str, Any]:
    modules = [model.get_submodule(f"{trace.path}.{layer}.{writer.module}") for layer in layers]
    entry: dict[str, Any] = {
        "kind": "attention" if writer.mixes else "mlp",
        "module": writer.module,
        "layout": writer.layout,
    }
    if writer.parameter != "weight":
        entry["parameter"] = writer.parameter
    if writer.bias not in (None, "bias"):
        entry["bias_parameter"] = writer.bias
    for field, name in (("weight", writer.parameter), ("bias", writer.bias)):
        if name is None:
            continue
        found = _stored_name([module.get_parameter(name) for module in modules], layers, stored)
        if found is None:
            notes.append(f"{writer.module}.{name} is not in the checkpoint as it is in the module: name its tensors")
            found = f"{trace.path}.{{layer}}.{writer.module}.{name}"
        entry[field] = found
    if len(layers) < len(trace.layers):
        having = [i for i in range(len(trace.layers)) if _has(model.get_submodule(f"{trace.path}.{i}"), writer.module)]
        if having == list(layers):
            entry["where"] = [{"module": writer.module}]
        else:
            notes.append(f"{writer.module} writes in layers {layers} and is in {having}: say in 'where' which have it")
    if writer.post_norms:
        entry["post_norms"] = [
            {"module": path, "offset": offset} if offset else {"module": path} for path, offset in writer.post_norms
        ]
    if writer.coefficient != 1.0:
        entry["scale"] = _key_of(model, writer.coefficient)
        if entry["scale"] is None:
            del entry["scale"]
            notes.append(
                f"{writer.module} is multiplied by {writer.coefficient:.6g}, which no key of the configuration is"
            )
    if writer.gate is not None:
        entry["gate"] = writer.gate
    if writer.layout.startswith("experts"):
        router = _router(model.get_submodule(f"{trace.path}.{layers[0]}"), writer)
        if router is None:
            notes.append(f"what routes to {writer.module} was not found: name its 'router'")
        else:
            entry["router"] = router
    return entry


def _stored_name(
    parameters: Sequence[torch.Tensor], layers: Sequence[int], stored: Mapping[str, torch.Tensor]
) -> str | None:
    """The name with ``{layer}``, and ``{expert}`` where each has a tensor of its own, that holds for all the layers."""
    templates = set()
    for parameter, layer in zip(parameters, layers, strict=True):
        template = _one_name(parameter.detach(), layer, stored)
        if template is None:
            return None
        templates.add(template)
    return templates.pop() if len(templates) == 1 else None


def _one_name(parameter: torch.Tensor, layer: int, stored: Mapping[str, torch.Tensor]) -> str | None:
    names = _equal(parameter, stored)
    if names:
        return _with_placeholder(names[0], layer, "{layer}")
    if parameter.ndim != 3:
        return None
    pair = [_equal(matrix, stored) or _equal(matrix.T, stored) for matrix in parameter[:2]]
    if len(pair) < 2 or not all(pair):
        return None
    template = _with_placeholder(pair[0][0], layer, "{layer}")
    place = None if template is None else re.search(r"\.0\.(?!.*\.0\.)", template)
    if template is None or place is None:
        return None
    template = f"{template[: place.start()]}.{{expert}}.{template[place.end() :]}"
    return template if template.format(layer=layer, expert=1) == pair[1][0] else None


def _equal(tensor: torch.Tensor, stored: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name, other in stored.items() if other.shape == tensor.shape and torch.equal(other, tensor)]


def _with_placeholder(name: str, number: int, placeholder: str) -> str | None:
    """The first part of the name that is the number becomes the placeholder."""
    parts = name.split(".")
    if str(number) not in parts:
        return None
    parts[parts.index(str(number))] = placeholder
    return ".".join(parts)


def _key_of(model: PreTrainedModel, coefficient: float) -> str | None:
    found = [
        name
        for name, value in vars(model.config.get_text_config(decoder=True)).items()
        if isinstance(value, float) and abs(value - coefficient) < 1e-4 * abs(coefficient)
    ]
    return found[0] if len(found) == 1 else None


def _router(layer: nn.Module, writer: TracedWriter) -> str | None:
    """Beside the experts, or around them: the one module with a weight of one row for each expert."""
    n_experts = layer.get_submodule(writer.module).get_parameter(writer.parameter).shape[0]
    outer = writer.module.rpartition(".")[0]
    found = []
    for name, module in layer.get_submodule(outer).named_modules():
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is not None and weight.ndim == 2 and weight.shape[0] == n_experts:
            found.append(f"{outer}.{name}" if outer else name)
    return found[0] if len(found) == 1 else None


def _name_apart(found: Sequence[tuple[dict[str, Any], set[int]]]) -> None:
    """Writers of one kind in one layer get names: the last part of their path that only they have."""
    for entry, layers in found:
        others = [
            other["module"].split(".")
            for other, beside in found
            if other is not entry and other["kind"] == entry["kind"] and layers & beside
        ]
        if others:
            path = entry["module"].split(".")
            own = [part for part in path if not any(part in other for other in others)]
            entry["name"] = re.sub(r"[^a-z0-9_]", "_", (own or path)[0].lower())


def _has(layer: nn.Module, path: str) -> bool:
    try:
        layer.get_submodule(path)
    except AttributeError:
        return False
    return True


def _path_of(model: nn.Module, module: nn.Module | None) -> str:
    return str(next(name for name, other in model.named_modules() if other is module))
