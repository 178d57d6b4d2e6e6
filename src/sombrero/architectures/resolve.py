"""Find the architecture of a model and resolve its writers to modules and tensor names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sombrero.architectures.spec import Architecture, WriterSpec, load_architectures
from sombrero.architectures.writers import holds, make_writer
from sombrero.errors import ArchitectureError
from sombrero.records import Writer

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def known_classes() -> dict[str, str]:
    """Hugging Face class name -> family, over all shipped architectures."""
    return {name: entry.family for entry in load_architectures() for name in entry.classes}


def find_architecture(model: PreTrainedModel) -> Architecture:
    """The architecture that serves the model's class.

    Raises ArchitectureError for a class that no file serves; the message lists, for the closest family, the writers
    that cannot be found in the model.
    """
    name = type(model).__name__
    for entry in load_architectures():
        if name in entry.classes:
            return entry.placed(name)
    attempts = [(_missing_modules(model, entry.placed(name)), entry.family) for entry in load_architectures()]
    missing, family = min(attempts, key=lambda attempt: len(attempt[0]))
    detail = f"it lacks {', '.join(missing)}" if missing else "all its module paths exist, but nobody has proved them"
    raise ArchitectureError(
        f"the architecture {name} is not described. Closest family: {family}; {detail}. "
        f"Described classes: {', '.join(sorted(known_classes()))}. Add a file to sombrero/architectures/data"
    )


def get_layers(model: PreTrainedModel, architecture: Architecture) -> list[nn.Module]:
    """The decoder layers in order. Raises ArchitectureError when the path or the number of layers does not fit."""
    architecture = architecture.placed(type(model).__name__)
    container = _submodule(model, architecture.layers)
    if container is None:
        raise ArchitectureError(
            f"{type(model).__name__} has no module {architecture.layers!r}, which {architecture.family} names"
        )
    layers = list(container.children())
    expected = model.config.get_text_config().num_hidden_layers
    if len(layers) != expected:
        raise ArchitectureError(
            f"the configuration says {expected} layers, the model has {len(layers)} at {architecture.layers!r}; "
            "the configuration and the weights belong to different models"
        )
    return layers


def layer_scale(layer: nn.Module, architecture: Architecture) -> float:
    """The number by which the layer multiplies all that it returns. Raises ArchitectureError when it has none there."""
    if architecture.layer_scale is None:
        return 1.0
    *path, name = architecture.layer_scale.split(".")
    module = _submodule(layer, ".".join(path))
    tensor = getattr(module, name, None)
    if tensor is None or tensor.numel() != 1:
        raise ArchitectureError(f"{type(layer).__name__} has no single number {architecture.layer_scale!r}")
    return float(tensor)


def resolve_writers(model: PreTrainedModel, architecture: Architecture) -> tuple[Writer, ...]:
    """Every writer of the model, layer by layer.

    Raises ArchitectureError listing each module that the description names and the model does not have, each one whose
    output is not as wide as the residual stream, and each that shares its weight with the embeddings.
    """
    config = model.config.get_text_config()
    architecture = architecture.placed(type(model).__name__)
    stored = architecture.base_of(type(model).__name__).stored
    missing: list[str] = []
    writers: list[Writer] = []
    for index, layer in enumerate(get_layers(model, architecture)):
        for spec in architecture.writers:
            if all(holds(condition, config, layer, index) for condition in spec.where):
                path = f"{architecture.layers}.{index}"
                lacking = [f"{path}.{name}" for name in _modules(spec) if _submodule(layer, name) is None]
                module = _submodule(layer, spec.module)
                if module is not None and getattr(module, spec.parameter, None) is None:
                    lacking.append(f"{path}.{spec.module}.{spec.parameter}")
                missing += lacking
                if module is not None and not lacking:
                    writers.append(make_writer(spec, index, path, module, config, stored))
    if missing:
        raise ArchitectureError(
            f"{type(model).__name__} ({architecture.family}): {len(missing)} writers cannot be found: "
            f"{', '.join(missing[:8])}{' …' if len(missing) > 8 else ''}"
        )
    _check_outputs(model, writers, config.hidden_size)
    return tuple(writers)


def _check_outputs(model: PreTrainedModel, writers: Sequence[Writer], width: int) -> None:
    repeated = [name for name, count in Counter(writer.name for writer in writers).items() if count > 1]
    if repeated:
        raise ArchitectureError(f"two writers of a layer have the same name: {repeated[:8]}; name one of them")
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    shared = {id(getattr(module, "weight", None)) for module in embeddings} - {id(None)}
    tied = [
        writer.module_path
        for writer in writers
        if id(getattr(model.get_submodule(writer.module_path), writer.parameter)) in shared
    ]
    if tied:
        raise ArchitectureError(
            f"the weight of {tied[:8]} is that of the embeddings or of the output head: an edit would change what the "
            "model reads or says at every layer; leave it out of the architecture's writers"
        )
    narrow = [writer.module_path for writer in writers if writer.d_out != width]
    if narrow:
        raise ArchitectureError(f"these writers do not write {width} values to the residual stream: {narrow[:8]}")


def _missing_modules(model: PreTrainedModel, architecture: Architecture) -> list[str]:
    container = _submodule(model, architecture.layers)
    if container is None:
        return [architecture.layers, *(spec.module for spec in architecture.writers)]
    layer = next(iter(container.children()), None)
    config = model.config.get_text_config()
    return [
        f"{architecture.layers}.0.{spec.module}"
        for spec in architecture.writers
        if layer is None
        or (all(holds(item, config, layer, 0) for item in spec.where) and _submodule(layer, spec.module) is None)
    ]


def _modules(spec: WriterSpec) -> list[str]:
    """Every module, relative to the layer, that the writer names."""
    others = (spec.gate, spec.router, *(norm.module for norm in spec.post_norms))
    return [spec.module, *(name for name in others if name is not None)]


def _submodule(root: nn.Module, path: str) -> nn.Module | None:
    """``root.get_submodule(path)``, or None where some part of the path does not exist."""
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None
