"""Load a model and its tokenizer (hub, local folder, GGUF, embedded organism), and run it on batches of token rows."""

from sombrero.models.load import load_model, resolve_device, without_bars
from sombrero.models.locate import check_folder, locate, needs_preparing
from sombrero.models.skeleton import describe, load_skeleton, with_plain_shapes

__all__ = [
    "check_folder",
    "describe",
    "load_model",
    "load_skeleton",
    "locate",
    "needs_preparing",
    "resolve_device",
    "with_plain_shapes",
    "without_bars",
]
