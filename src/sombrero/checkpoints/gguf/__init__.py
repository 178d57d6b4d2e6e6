"""GGUF files: an edited copy in which nothing but the edited tensors changes."""

from sombrero.checkpoints.gguf.bake import GgufReport, bake_gguf

__all__ = ["GgufReport", "bake_gguf"]
