"""Architectures as data: which modules write to the residual stream, one JSON file per family."""

from sombrero.architectures.resolve import find_architecture, get_layers, known_classes, layer_scale, resolve_writers
from sombrero.architectures.spec import (
    Architecture,
    ReasoningDelimiters,
    WriterSpec,
    load_architectures,
    read_architectures,
)

__all__ = [
    "Architecture",
    "ReasoningDelimiters",
    "WriterSpec",
    "find_architecture",
    "get_layers",
    "known_classes",
    "layer_scale",
    "load_architectures",
    "read_architectures",
    "resolve_writers",
]
