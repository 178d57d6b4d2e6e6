"""Find the architecture of a model and resolve its writers to modules and tensor names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sombrero.architectures.spec import Architecture, WriterSpec, load_architectures
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
            return entry
    attempts = [(_missing_modules(model, entry), entry.family) for entry in load_architectures()]
    missing, family = min(attempts, key=lambda attempt: len(attempt[0]))
    detail = f"it lacks {', '.join(missing)}" if missing else "all its module paths exist, but nobody has proved them"
    raise ArchitectureError(
        f"the architecture {name} is not described. Closest family: {family}; {detail}. "
        f"Described classes: {', '.join(sorted(known_classes()))}. Add a file to sombrero/architectures/data"
    )


def get_layers(model: PreTrainedModel, architecture: Architecture) -> list[nn.Module]:
    """The decoder layers in order. Raises ArchitectureError when the path or the number of layers does not fit."""
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


def resolve_writers(model: PreTrainedModel, architecture: Architecture) -> tuple[Writer, ...]:
    """Every writer of the model, layer by layer.

    Raises ArchitectureError listing each module that the description names and the model does not have, and each one
    whose output is not as wide as the residual stream.
    """
    missing: list[str] = []
    writers: list[Writer] = []
    width = model.config.get_text_config().hidden_size
    for index, layer in enumerate(get_layers(model, architecture)):
        for spec in architecture.writers:
            module = _submodule(layer, spec.module)
            path = f"{architecture.layers}.{index}.{spec.module}"
            weight = getattr(module, "weight", None)
            if module is None or weight is None or weight.ndim != 2:
                missing.append(path)
                continue
            writers.append(_writer(spec, index, path, tuple(weight.shape), getattr(module, "bias", None) is not None))
    if missing:
        raise ArchitectureError(
            f"{type(model).__name__} ({architecture.family}): {len(missing)} writers cannot be found: "
            f"{', '.join(missing[:8])}{' …' if len(missing) > 8 else ''}"
        )
    narrow = [writer.module_path for writer in writers if writer.d_out != width]
    if narrow:
        raise ArchitectureError(f"these writers do not write {width} values to the residual stream: {narrow[:8]}")
    return tuple(writers)


def _writer(spec: WriterSpec, layer: int, path: str, shape: tuple[int, ...], has_bias: bool) -> Writer:
    if has_bias and spec.bias is None:
        raise ArchitectureError(f"{path} has a bias, but its architecture file names no bias tensor; add it there")
    d_out, d_in = shape if spec.layout == "linear" else (shape[1], shape[0])
    return Writer(
        name=f"{layer}.{spec.kind}",
        layer=layer,
        kind=spec.kind,
        module_path=path,
        weight_name=spec.weight.format(layer=layer),
        bias_name=spec.bias.format(layer=layer) if spec.bias and has_bias else None,
        layout=spec.layout,
        d_in=d_in,
        d_out=d_out,
    )


def _missing_modules(model: PreTrainedModel, architecture: Architecture) -> list[str]:
    container = _submodule(model, architecture.layers)
    if container is None:
        return [architecture.layers, *(spec.module for spec in architecture.writers)]
    layer = next(iter(container.children()), None)
    return [
        f"{architecture.layers}.0.{spec.module}"
        for spec in architecture.writers
        if layer is None or _submodule(layer, spec.module) is None
    ]


def _submodule(root: nn.Module, path: str) -> nn.Module | None:
    """``root.get_submodule(path)``, or None where some part of the path does not exist."""
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None
