"""A GGUF file as a Hugging Face folder, unpacked once into the cache: it is mapped and baked like any other.

A bake has to unpack the weights in any case, and an edited tensor has no exact place in GGUF's blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from sombrero.errors import ModelError
from sombrero.models.prepared import file_sha256, prepared_folder

if TYPE_CHECKING:
    import torch

LAYOUT = 1
"""Part of each folder's name: raise it whenever what is written changes."""


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that ``path`` is, or the one in a folder without safetensors. Raises ModelError for several."""
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    found = sorted(path.glob("*.gguf"))
    if not found or any(path.glob("*.safetensors")):
        return None
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:4])
        raise ModelError(
            f"{str(path)!r} has {len(found)} GGUF files ({names}); name one of them. A model in several parts must be "
            "joined first, with llama.cpp's gguf-split --merge"
        )
    return found[0]


def unpacked_folder(file: Path, cache: Path | None = None) -> Path:
    """The folder with the file's weights dequantized, its tokenizer and its configuration; made on the first call.

    Weights keep the file's own float type; blocks of fewer bits are rounded to bfloat16, far below their own error.
    Raises ModelError when the file cannot be read or the folder cannot be written.
    """
    root = cache or platformdirs.user_cache_path("sombrero")
    try:
        sha256 = file_sha256(file)
        folder = root / f"{file.stem}-{sha256[:12]}-v{LAYOUT}"
        return prepared_folder(folder, lambda out: _write(file, out), {"gguf": file.name, "gguf_sha256": sha256})
    except OSError as error:
        raise ModelError(
            f"the GGUF file {file} cannot be unpacked into {root}: {error}; name a folder with room for its weights "
            "in 16 bits with cache"
        ) from error


def _write(file: Path, out: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        dtype = stored_float(file)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, padding_side="left")
    except (ImportError, ValueError, KeyError, RuntimeError, TypeError, IndexError) as error:
        raise ModelError(
            f"the GGUF file {file} cannot be read: {type(error).__name__}: {error}; this version of transformers may "
            "not know its architecture (and it needs accelerate: pip install 'sombrero[offload]')"
        ) from error
    # the weights are plain floats now, but the library still takes the model for a packed one, which it does not save
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def stored_float(file: Path) -> torch.dtype:
    """The dtype to unpack into: that of the file's matrices where these are floats, else bfloat16."""
    import torch
    from gguf import GGMLQuantizationType, GGUFReader

    floats = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}
    largest = max(GGUFReader(file).tensors, key=lambda tensor: tensor.n_elements)
    return floats.get(largest.tensor_type, torch.bfloat16)
