"""Load a model and its tokenizer from the hub, a local folder, or the embedded organism."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from sombrero.architectures import load_architectures
from sombrero.config import ModelConfig
from sombrero.errors import ModelError
from sombrero.models.embedded import embedded_folder
from sombrero.records import EMBEDDED, ModelHandle

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHECKPOINT_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*", "README.md")
PICKLE_FILES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load_model(config: ModelConfig) -> ModelHandle:
    """Load what ``config`` names, ready for inference.

    Raises ModelError for a missing folder or id, pickle weights, a missing tokenizer or chat template, a device that
    is not there, and code that would have to be trusted.
    """
    folder = locate(config)
    check_folder(folder, config.source)
    tokenizer = _load_tokenizer(folder, config)
    stored = stored_dtype(folder, config.source)
    model = _load_weights(folder, config, stored)
    kept = delimiter_tokens(model, tokenizer)
    return ModelHandle(model, tokenizer, config.source, folder, config.revision, stored, kept)


def delimiter_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens of the architecture's reasoning delimiters; none for a class that is not described."""
    name = type(model).__name__
    reasoning = next((entry.reasoning for entry in load_architectures() if name in entry.classes), None)
    if reasoning is None:
        return frozenset()
    marks = [mark for mark in (reasoning.opening, reasoning.closing, reasoning.final) if mark is not None]
    # only special tokens would be left out of a text; others are kept in any case
    return frozenset(i for ids in tokenizer(marks, add_special_tokens=False)["input_ids"] for i in ids)


def load_skeleton(config: ModelConfig) -> PreTrainedModel:
    """The model's modules on the meta device: shapes without weights, from the configuration alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        settings = AutoConfig.from_pretrained(locate(config, weights=False), trust_remote_code=config.trust_remote_code)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(settings, trust_remote_code=config.trust_remote_code)  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{config.source!r} has no configuration that describes a causal model: {error}") from error


def locate(config: ModelConfig, *, weights: bool = True) -> Path:
    """The local folder that holds the checkpoint's files; fetched from the hub when ``source`` is a hub id."""
    if config.source in EMBEDDED:
        return embedded_folder(config.source, cache=config.cache)
    path = Path(config.source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{config.source!r} is a file; give the folder that holds the checkpoint, or a hub id")
    if config.source.startswith((".", "/", "~")) or config.source.count("/") != 1:
        raise ModelError(
            f"no folder {config.source!r}; give an existing checkpoint folder, a hub id (owner/name), or "
            f"{' or '.join(map(repr, EMBEDDED))}"
        )
    return _download(config, weights=weights)


def check_folder(folder: Path, source: str) -> None:
    """Refuse a folder whose weights are missing or pickled, or that has no configuration. Raises ModelError."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{source!r} has no config.json (looked in {folder}); it is not a Hugging Face checkpoint")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in PICKLE_FILES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{source!r} has pickle weights only ({', '.join(pickles[:3])}); pickles run code when they are loaded and "
            "are refused. Convert them once with transformers: model.save_pretrained(folder) writes safetensors"
        )
    raise ModelError(f"{source!r} has no safetensors weights (looked in {folder})")


def resolve_device(name: str) -> torch.device:
    """The torch device for a name; 'auto' takes CUDA, then MPS, then the CPU. Raises ModelError."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"the device {name!r} cannot be used: {error}; use cpu, cuda, cuda:N, mps or auto") from error
    return device


def stored_dtype(folder: Path, source: str) -> torch.dtype:
    """The dtype of a checkpoint's weights: that of the largest tensor in its first file. Raises ModelError."""
    from safetensors import SafetensorError, safe_open

    path = min(folder.glob("*.safetensors"))
    try:
        with safe_open(path, framework="pt") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - the file is no mapping
            largest = max(slices, key=lambda entry: math.prod(entry.get_shape()))
            empty = largest[:0] if largest.get_shape() else file.get_tensor(next(iter(file.keys())))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"the weights of {source!r} cannot be loaded: {path.name}: {_first_line(error)}") from error
    dtype: torch.dtype = empty.dtype
    return dtype


def computing_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to load weights in that are ``stored`` so, for a device.

    As stored, but for halves on a processor that has no arithmetic for them: there bf16 products were 5 (AVX-512) and
    100 (AVX2) times slower than float32 ones (notes/LOG.md). float32 holds every bf16 and float16 number exactly.
    """
    import torch

    if device.type != "cpu" or stored not in (torch.bfloat16, torch.float16):
        return stored
    # avx512_bf16 and amx_bf16 of x86, bf16 of Arm
    has_bfloat16 = any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
    return stored if has_bfloat16 and stored == torch.bfloat16 else torch.float32


def _download(config: ModelConfig, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = CHECKPOINT_FILES if weights else CHECKPOINT_FILES[1:]
    try:
        return Path(snapshot_download(config.source, revision=config.revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"cannot find or fetch {config.source!r} (revision {config.revision or 'main'}): there is no such local "
            f"folder, and the hub says: {_first_line(error)}. Check the spelling, the network and your access token, "
            "or give a local folder"
        ) from error


def _load_tokenizer(folder: Path, config: ModelConfig) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    present = [name for name in ("tokenizer.json", "tokenizer.model", "vocab.json") if (folder / name).is_file()]
    if not present and not config.trust_remote_code:
        raise ModelError(
            f"{config.source!r} has no tokenizer (no tokenizer.json, tokenizer.model or vocab.json in {folder}); "
            "copy the tokenizer files of its base model there"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the tokenizer of {config.source!r} cannot be loaded: {_first_line(error)}") from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"{config.source!r} has no chat template, so its refusals cannot be asked for as a user would; "
            "put chat_template.jinja into the folder, or use the instruction-tuned model instead of the base one"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_weights(folder: Path, config: ModelConfig, stored: torch.dtype) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    device = resolve_device(config.device)
    dtype = computing_dtype(stored, device) if config.dtype == "auto" else getattr(torch, config.dtype)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the weights of {config.source!r} cannot be loaded: {_first_line(error)}") from error
    model.to(device)  # type: ignore[arg-type]
    model.eval()
    model.requires_grad_(False)
    return model


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
