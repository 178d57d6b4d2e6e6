"""Where a model's weights go at load, and in which form: what the library's ``from_pretrained`` is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.config import ModelConfig
from sombrero.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

DEQUANTIZED_AT_LOAD = ("mxfp4", "fp8", "mxfp8")
"""Checkpoint formats whose kernels exist on CUDA alone."""


def placement_arguments(config: ModelConfig, device: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` is told about devices, memory and disk.

    Without a device map the model is loaded whole, onto ``device``. With ``max_memory`` only the devices that it names
    are used; with ``device`` cpu, no GPU.
    """
    spread = config.device_map or ("auto" if config.max_memory else None)
    if spread is None:
        return {} if config.quantization == "none" else {"device_map": {"": device}}
    limits: dict[int | str, int | str] = {
        int(name) if name.isdigit() else name: size for name, size in config.max_memory.items()
    }
    if config.device == "cpu":
        if any(name != "cpu" for name in limits):
            raise ModelError(
                f"device is cpu, but max_memory names {', '.join(map(str, limits))}; leave one of them out"
            )
        limits = limits or {"cpu": _system_memory()}
    arguments: dict[str, Any] = {"device_map": spread, "max_memory": limits or None}
    if config.offload_folder is not None:
        arguments["offload_folder"] = config.offload_folder
    return arguments


def quantization_arguments(config: ModelConfig, settings: PreTrainedConfig, device: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` is told about quantization: of the checkpoint, and at load. Raises ModelError."""
    method = quantization_method(settings)
    if config.quantization != "none":
        if method is not None:
            raise ModelError(
                f"{config.source!r} is stored as {method}, and cannot be quantized again by {config.quantization}; "
                "leave quantization out, or take the checkpoint before it was quantized"
            )
        from transformers import BitsAndBytesConfig

        bits = {"bnb-8bit": {"load_in_8bit": True}, "bnb-4bit": {"load_in_4bit": True}}[config.quantization]
        # norms, router and head stay as they are; nf4 is the library's own advice for normal weights
        extra = {"bnb_4bit_quant_type": "nf4"} if config.quantization == "bnb-4bit" else {}
        return {"quantization_config": BitsAndBytesConfig(**bits, **extra)}
    if method in DEQUANTIZED_AT_LOAD and device.type != "cuda":
        from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

        stored = stored_quantization(settings)
        stored.pop("dequantize", None)
        kind = Mxfp4Config if method == "mxfp4" else FineGrainedFP8Config
        return {"quantization_config": kind(**stored, dequantize=True)}
    return {}


def stored_quantization(settings: PreTrainedConfig) -> dict[str, Any]:
    """How the checkpoint says that its weights are packed; empty for plain floats."""
    for part in (settings, settings.get_text_config(decoder=True)):
        found = getattr(part, "quantization_config", None)
        if found is not None:
            return dict(found if isinstance(found, dict) else found.to_dict())
    return {}


def quantization_method(settings: PreTrainedConfig) -> str | None:
    """The name of the checkpoint's format (``mxfp4``, ``fp8``, ``gptq``, ...); None for plain floats."""
    method = stored_quantization(settings).get("quant_method")
    return None if method is None else str(getattr(method, "value", method))


def _system_memory() -> int:
    """Bytes that accelerate takes to be free for weights in main memory."""
    try:
        from accelerate.utils import get_max_memory
    except ImportError as error:
        raise _missing_accelerate() from error
    return int(get_max_memory()["cpu"])


def _missing_accelerate() -> ModelError:
    """device_map, offload and packed checkpoints need it."""
    return ModelError("device_map, max_memory and packed checkpoints need accelerate: pip install 'sombrero[offload]'")
