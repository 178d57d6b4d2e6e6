"""Load a model and its tokenizer (hub, local folder, embedded organism), and run it on batches of token rows."""

from sombrero.models.load import check_folder, load_model, load_skeleton, locate, resolve_device

__all__ = ["check_folder", "load_model", "load_skeleton", "locate", "resolve_device"]
