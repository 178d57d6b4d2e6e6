"""One tiny random model of the true Hugging Face class for every architecture that is described.

Three or four layers of width 32, with every kind of layer that the family has: dense and sparse, attention and what
stands in for it. Experts are four, of which two are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests.tiny_models import VOCAB_SIZE, WIDTH, randomize, tiny_tokenizer


@dataclass(frozen=True)
class Tiny:
    """How to make the model: its class, the class of its text configuration, and what that one is told.

    wrapper: the configuration class of a multimodal model, whose vision part is told ``vision``.
    """

    model: str
    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    wrapper: str | None = None
    vision: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The Hugging Face class."""
        return getattr(transformers, self.model)  # type: ignore[no-any-return]


COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": VOCAB_SIZE - 1,
    "pad_token_id": VOCAB_SIZE - 3,
}
MOE: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "experts_implementation": "eager"}
NUM = {"num_experts": 4, **MOE}
LOCAL = {"num_local_experts": 4, **MOE}
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1} | MOE
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_d_ssm": 64}
DELTA = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 64}
CONV = {"layer_types": ["conv", "full_attention", "conv"]}
PIXTRAL = {
    "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "head_dim": 8, "image_size": 16, "patch_size": 8,
}  # fmt: skip
SIGLIP = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
QWEN_VISION = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH,
    "patch_size": 4, "num_position_embeddings": 16,
}  # fmt: skip
GEMMA_VISION = SIGLIP | {"num_key_value_heads": 2, "head_dim": 8, "patch_size": 4}

TINY: dict[str, Tiny] = {
    "llama": Tiny("LlamaForCausalLM", "LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "smollm3": Tiny("SmolLM3ForCausalLM", "SmolLM3Config"),
    "mistral": Tiny("MistralForCausalLM", "MistralConfig"),
    "ministral": Tiny("MinistralForCausalLM", "MinistralConfig"),
    "ministral3": Tiny("Ministral3ForCausalLM", "Ministral3Config"),
    "mistral3 (multimodal)": Tiny(
        "Mistral3ForConditionalGeneration", "MistralConfig", {}, "Mistral3Config", PIXTRAL
    ),
    "llava (Apriel)": Tiny("LlavaForConditionalGeneration", "MistralConfig", {}, "LlavaConfig", PIXTRAL),
    "mixtral": Tiny("MixtralForCausalLM", "MixtralConfig", LOCAL),
    "qwen2": Tiny("Qwen2ForCausalLM", "Qwen2Config"),
    "qwen3": Tiny("Qwen3ForCausalLM", "Qwen3Config", {"attention_bias": True}),
    "qwen3_moe": Tiny("Qwen3MoeForCausalLM", "Qwen3MoeConfig", NUM | {"mlp_only_layers": [0]}),
    "qwen3_next": Tiny(
        "Qwen3NextForCausalLM", "Qwen3NextConfig",
        NUM | DELTA | {"shared_expert_intermediate_size": 16, "mlp_only_layers": [0]},
    ),
    "qwen3_5": Tiny("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", DELTA),
    "qwen3_5 (multimodal)": Tiny(
        "Qwen3_5ForConditionalGeneration", "Qwen3_5TextConfig", DELTA, "Qwen3_5Config", QWEN_VISION
    ),
    "qwen3_5_moe": Tiny(
        "Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextConfig", NUM | DELTA | {"shared_expert_intermediate_size": 16}
    ),
    "qwen3_5_moe (multimodal)": Tiny(
        "Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeTextConfig",
        NUM | DELTA | {"shared_expert_intermediate_size": 16}, "Qwen3_5MoeConfig", QWEN_VISION,
    ),
    "gemma2": Tiny("Gemma2ForCausalLM", "Gemma2Config", SLIDING),
    "gemma3": Tiny("Gemma3ForCausalLM", "Gemma3TextConfig", SLIDING),
    "gemma3 (multimodal)": Tiny(
        "Gemma3ForConditionalGeneration", "Gemma3TextConfig", SLIDING, "Gemma3Config", SIGLIP
    ),
    "gemma4 (per-layer inputs)": Tiny(
        "Gemma4ForCausalLM", "Gemma4TextConfig",
        SLIDING | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB_SIZE,
                   "global_head_dim": 8, "num_kv_shared_layers": 0},
    ),
    "gemma4 (experts)": Tiny(
        "Gemma4ForCausalLM", "Gemma4TextConfig",
        SLIDING | NUM | {"hidden_size_per_layer_input": 0, "global_head_dim": 8, "num_kv_shared_layers": 0,
                         "enable_moe_block": True, "top_k_experts": 2},
    ),
    "gemma4 (multimodal)": Tiny(
        "Gemma4ForConditionalGeneration", "Gemma4TextConfig",
        SLIDING | {"hidden_size_per_layer_input": 0, "global_head_dim": 8, "num_kv_shared_layers": 0},
        "Gemma4Config", GEMMA_VISION,
    ),
    "phi3": Tiny("Phi3ForCausalLM", "Phi3Config"),
    "phimoe": Tiny("PhimoeForCausalLM", "PhimoeConfig", LOCAL | {"attention_bias": True, "sliding_window": 64}),
    "olmo2": Tiny("Olmo2ForCausalLM", "Olmo2Config"),
    "olmo3": Tiny("Olmo3ForCausalLM", "Olmo3Config", SLIDING),
    "olmoe": Tiny("OlmoeForCausalLM", "OlmoeConfig", NUM),
    "granite": Tiny("GraniteForCausalLM", "GraniteConfig", {"residual_multiplier": 0.4}),
    "granitemoe": Tiny("GraniteMoeForCausalLM", "GraniteMoeConfig", LOCAL | {"residual_multiplier": 0.4}),
    "granitemoehybrid": Tiny(
        "GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig",
        LOCAL | MAMBA | {"residual_multiplier": 0.4, "shared_intermediate_size": 16,
                         "layer_types": ["mamba", "attention", "mamba"]},
    ),
    "lfm2": Tiny("Lfm2ForCausalLM", "Lfm2Config", CONV | {"block_auto_adjust_ff_dim": False}),
    "lfm2_moe": Tiny("Lfm2MoeForCausalLM", "Lfm2MoeConfig", NUM | CONV | {"num_dense_layers": 1}),
    "glm4": Tiny("Glm4ForCausalLM", "Glm4Config"),
    "glm4_moe": Tiny("Glm4MoeForCausalLM", "Glm4MoeConfig", ROUTED),
    "deepseek_v2": Tiny("DeepseekV2ForCausalLM", "DeepseekV2Config", ROUTED | LATENT),
    "deepseek_v3": Tiny("DeepseekV3ForCausalLM", "DeepseekV3Config", ROUTED | LATENT),
    "gpt_oss": Tiny("GptOssForCausalLM", "GptOssConfig", LOCAL | SLIDING | {"intermediate_size": 16}),
    "nemotron_h": Tiny(
        "NemotronHForCausalLM", "NemotronHConfig",
        ROUTED | {"layers_block_type": ["mamba", "attention", "mlp", "moe"], "num_hidden_layers": 4,
                  "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1,
                  "moe_shared_expert_intermediate_size": 16},
    ),
    "falcon_h1": Tiny(
        "FalconH1ForCausalLM", "FalconH1Config",
        MAMBA | {"ssm_out_multiplier": 0.7, "attention_out_multiplier": 0.6, "mlp_multipliers": [0.8, 0.5]},
    ),
    "gpt2": Tiny("GPT2LMHeadModel", "GPT2Config", {"n_inner": 48, "n_positions": 512}),
}  # fmt: skip


def tiny_architecture(name: str, *, seed: int = 0) -> PreTrainedModel:
    """The tiny model of an entry of :data:`TINY`, in float32 and evaluation mode."""
    tiny = TINY[name]
    settings = {**COMMON, **tiny.settings}
    experts = settings.pop("experts_implementation", None)
    config = getattr(transformers, tiny.config)(**settings)
    if tiny.wrapper is not None:
        config = getattr(transformers, tiny.wrapper)(
            text_config=config.to_dict(), vision_config=dict(tiny.vision), tie_word_embeddings=False
        )
    if experts is not None:
        config._experts_implementation = experts
    with torch.random.fork_rng(devices=[]):
        model = tiny.model_class(config)
    randomize(model, seed)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("layer_scalar"):  # 1 at first, and trained later
            buffer.fill_(0.8)
    return model.eval()


def save_tiny_architecture(name: str, folder: Path) -> Path:
    """Save it with its tokenizer as the library saves a checkpoint. Returns ``folder``."""
    tiny_architecture(name).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
