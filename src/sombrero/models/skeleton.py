"""A model's modules without its weights: on the meta device, from the configuration alone."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from sombrero.architectures import Architecture, find_architecture, read_architectures
from sombrero.config import ModelConfig
from sombrero.errors import ArchitectureError, ModelError
from sombrero.models.locate import configuration_source, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def load_settings(config: ModelConfig) -> PreTrainedConfig:
    """The model's configuration, also that in a GGUF file's header. Raises ModelError."""
    from transformers import AutoConfig

    try:
        settings: PreTrainedConfig = AutoConfig.from_pretrained(
            **configuration_source(config), trust_remote_code=config.trust_remote_code
        )
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise _no_causal_model(config, error) from error
    return settings


def load_skeleton(config: ModelConfig) -> PreTrainedModel:
    """The model's modules on the meta device: shapes without weights. Raises ModelError."""
    return build_model(load_settings(config), config, device="meta")


def build_model(settings: PreTrainedConfig, config: ModelConfig, *, device: str) -> PreTrainedModel:
    """A model of this configuration with the library's own initial weights. Raises ModelError."""
    import torch

    try:
        with torch.device(device):
            model: PreTrainedModel = auto_class(settings).from_config(
                settings, trust_remote_code=config.trust_remote_code
            )
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise _no_causal_model(config, error) from error
    return model


def auto_class(settings: PreTrainedConfig) -> Any:
    """The library's factory for a configuration: of language models, or of those that read images too.

    A model that reads images is built whole where its checkpoint was saved so: then all its tensors have their place,
    and a bake keeps them. Its language model is what runs on text.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    kind = type(settings)
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForCausalLM
    whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[kind].__name__  # type: ignore[attr-defined]
    saved_whole = whole in (settings.architectures or [whole])
    return (
        AutoModelForImageTextToText if saved_whole or kind not in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForCausalLM
    )


def with_plain_shapes(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, or for one whose weights are packed its twin on the meta device, whose weights are matrices."""
    import torch

    if getattr(model, "hf_quantizer", None) is None:
        return model
    settings = copy.deepcopy(model.config)
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    with torch.device("meta"):
        return type(model)(settings)


def describe(model: PreTrainedModel, config: ModelConfig) -> Architecture:
    """The user's own entry for the model's class, or else the shipped one. Raises ArchitectureError."""
    if config.architecture_file is None:
        return find_architecture(model)
    path, name = config.architecture_file, type(model).__name__
    if path.suffix != ".json" or not path.is_file():
        raise ArchitectureError(f"the architecture file {str(path)!r} is not there, or is no .json file")
    for entry in read_architectures([path]):
        if name in entry.classes:
            return entry.placed(name)
    raise ArchitectureError(f"the architecture file {str(path)!r} does not serve the class {name}; name it in classes")


def _no_causal_model(config: ModelConfig, error: Exception) -> ModelError:
    return ModelError(
        f"{config.source!r} has no configuration that describes a causal model, and cannot be loaded: "
        f"{first_line(error)}"
    )
