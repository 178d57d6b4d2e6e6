"""A small random model of the same class as a large one, by shrinking its configuration."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from sombrero.config import ModelConfig
from sombrero.errors import ModelError
from sombrero.models.skeleton import build_model, load_settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MOST_BYTES = 2**30
"""Of a model that could not be made narrower and is built in its own width."""
SIZES: dict[str, int] = {
    "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 40,
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "vocab_size": 512,
    "max_position_embeddings": 256, "sliding_window": 16, "vocab_size_per_layer_input": 512,
    "hidden_size_per_layer_input": 16, "rotary_dim": 8, "mamba_n_heads": 8, "mamba_d_head": 16, "n_inner": 96,
    "n_group": 1, "topk_group": 1, "mamba_d_ssm": 128,
    "word_embed_proj_dim": 64,
}  # fmt: skip
HEADS = 4


def load_miniature(config: ModelConfig) -> PreTrainedModel:
    """A random model of the class, in float32 on the CPU: few layers, narrow where the class allows it.

    Layers of every kind that the configuration lists are kept. Raises ModelError when no such model can be built.
    """
    settings = load_settings(config)
    problems: list[str] = []
    for shrink in (_narrow, _narrow_but_heads, _short):
        try:
            small = shrink(copy.deepcopy(settings))
            if _bytes(small, config) > MOST_BYTES:
                problems.append("its layers are too wide to be built here")
                continue
            model = build_model(small, config, device="cpu")
            _randomize(model)
            model.float().eval()
            _run(model)
        # a shrunk configuration may fit together in no class: then the next one is tried, and all are told
        except (ModelError, RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError, KeyError) as error:
            problems.append(f"{type(error).__name__}: {error}")
        else:
            return model
    raise ModelError(f"no small model of {config.source!r} can be built: {'; '.join(problems)}")


def miniature_ids(model: PreTrainedModel) -> Any:
    """Tokens ``(1, 12)`` to run it on."""
    import torch

    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    return (torch.arange(12) * 37 + 11)[None] % min(vocabulary, 400)


def _narrow(settings: PreTrainedConfig) -> PreTrainedConfig:
    """Few layers, four heads, width 64."""
    return _narrowed(settings, {"head_dim": SIZES["hidden_size"] // HEADS})


def _narrow_but_heads(settings: PreTrainedConfig) -> PreTrainedConfig:
    """The same for classes whose heads have parts of their own, with sizes that must fit together."""
    return _narrowed(settings, {})


def _narrowed(settings: PreTrainedConfig, more: dict[str, int]) -> PreTrainedConfig:
    text = _short(settings).get_text_config(decoder=True)
    had_heads = getattr(text, "num_attention_heads", None) or HEADS
    groups = max(1, had_heads // (getattr(text, "num_key_value_heads", None) or had_heads))
    sizes = SIZES | more | {"num_attention_heads": HEADS, "num_key_value_heads": max(1, HEADS // groups)}
    for name, size in sizes.items():
        value = getattr(text, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > size:
            setattr(text, name, size)
    for part in (settings, text):
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if isinstance(getattr(part, name, None), int | list):
                setattr(part, name, 0)
    return settings


def _short(settings: PreTrainedConfig) -> PreTrainedConfig:
    """As few layers as hold every kind of layer, two at least."""
    text = settings.get_text_config(decoder=True)
    n_layers = text.num_hidden_layers
    lists = {
        name: value for name, value in vars(text).items() if isinstance(value, list | tuple) and len(value) == n_layers
    }
    # a list of indices names layers, and tells no kinds apart
    telling = [value for value in lists.values() if len({str(item) for item in value}) < max(2, n_layers)]
    kinds = [str(kind) for kind in zip(*telling, strict=True)] if telling else [""] * n_layers
    # a first layer of another kind (dense before experts) is not always listed: five show it, and what follows
    n_short = max(min(5, n_layers), 1 + max(kinds.index(kind) for kind in set(kinds)))
    text.num_hidden_layers = n_short
    for name, value in lists.items():
        setattr(text, name, value[:n_short])
    for part in (settings, text):
        part._attn_implementation = "eager"
        part._experts_implementation = "eager"
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    return settings


def _bytes(settings: PreTrainedConfig, config: ModelConfig) -> int:
    return 4 * sum(p.numel() for p in build_model(copy.deepcopy(settings), config, device="meta").parameters())


def _randomize(model: PreTrainedModel) -> None:
    """No weight at its initial one or zero, where different modules would be equal; scales as a trained model's."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)


def _run(model: PreTrainedModel) -> None:
    import torch

    with torch.no_grad():
        model(input_ids=miniature_ids(model), use_cache=False)
