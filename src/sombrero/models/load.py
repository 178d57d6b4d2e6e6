"""Load a model and its tokenizer: whole or spread over devices and disk, plain or packed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sombrero.config import ModelConfig
from sombrero.errors import ArchitectureError, ModelError
from sombrero.models.locate import check_folder, first_line, locate
from sombrero.models.placement import placement_arguments, quantization_arguments
from sombrero.models.skeleton import auto_class, describe, load_settings
from sombrero.records import ModelHandle

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    kept = delimiter_tokens(model, tokenizer, config)
    return ModelHandle(model, tokenizer, config.source, folder, config.revision, stored, kept)


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of the libraries that load a model, for as long as the context lasts."""
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    were_shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if were_shown:
            enable_progress_bar()


def delimiter_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> frozenset[int]:
    """The tokens of the architecture's reasoning delimiters; none for a class that is not described."""
    try:
        reasoning = describe(model, config).reasoning
    except ArchitectureError:  # a model can be measured without its writers being known; an edit asks for them
        reasoning = None
    if reasoning is None:
        return frozenset()
    marks = [mark for mark in (reasoning.opening, reasoning.closing, reasoning.final) if mark is not None]
    # only special tokens would be left out of a text; others are kept in any case
    return frozenset(i for ids in tokenizer(marks, add_special_tokens=False)["input_ids"] for i in ids)


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
    """The dtype of a checkpoint's weights: that of the largest tensor in its first file; of packed ones, bfloat16.

    Raises ModelError.
    """
    from safetensors import SafetensorError, safe_open

    path = min(folder.glob("*.safetensors"))
    try:
        with safe_open(path, framework="pt") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - the file is no mapping
            largest = max(slices, key=lambda entry: math.prod(entry.get_shape()))
            empty = largest[:0] if largest.get_shape() else file.get_tensor(next(iter(file.keys())))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"the weights of {source!r} cannot be loaded: {path.name}: {first_line(error)}") from error
    dtype: torch.dtype = empty.dtype
    return dtype if dtype.is_floating_point and dtype.itemsize > 1 else torch.bfloat16


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
        raise ModelError(f"the tokenizer of {config.source!r} cannot be loaded: {first_line(error)}") from error
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

    device = resolve_device(config.device)
    dtype = computing_dtype(stored, device) if config.dtype == "auto" else getattr(torch, config.dtype)
    settings = load_settings(config)
    placement = placement_arguments(config, device)
    packing = quantization_arguments(config, settings, device)
    try:
        model: PreTrainedModel = auto_class(settings).from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            **placement,
            **packing,
        )
    except ImportError as error:
        raise ModelError(
            f"the weights of {config.source!r} cannot be loaded: {first_line(error)} (accelerate: pip install "
            "'sombrero[offload]'; bitsandbytes: pip install 'sombrero[bitsandbytes]')"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the weights of {config.source!r} cannot be loaded: {first_line(error)}") from error
    if not placement:
        model.to(device)  # type: ignore[arg-type]
    if not placement and dtype == torch.float32 and getattr(packing.get("quantization_config"), "dequantize", False):
        for parameter in model.parameters():  # else what was not packed stays in bfloat16, beside float32
            parameter.data = parameter.data.float()
    model.eval()
    model.requires_grad_(False)
    return model
