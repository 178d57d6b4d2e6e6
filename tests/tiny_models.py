"""Tiny random models of the true Hugging Face classes, for tests that need a real object but not a trained one.

Four layers of width 32 with grouped-query attention (four query heads, two key-value heads). Weights are larger than
the library's default initialisation, so that logits differ clearly between prompts, tokens and edits.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
FAMILIES_WITH_OUTPUT_BIAS = ("llama", "qwen3")
N_LAYERS = 4
WIDTH = 32
END, START, PAD = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCAB_SIZE = len(_ALPHABET) + 3
_CLASSES: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer (one token per byte, any text round-trips) with a ChatML template."""
    vocab = {token: i for i, token in enumerate([*_ALPHABET, PAD, START, END])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, START, END])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHATML,
        padding_side="left",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_model(
    family: str,
    *,
    seed: int = 0,
    tie: bool = False,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    dtype: torch.dtype = torch.float32,
    width: int = WIDTH,
) -> PreTrainedModel:
    """Return a random model of ``family`` in evaluation mode; the same arguments give the same weights.

    tie: the output head shares the embedding. attention_bias: o_proj has a bias too (FAMILIES_WITH_OUTPUT_BIAS alone;
    qwen2 has biases on q, k and v in any case). mlp_bias: the MLP's projections have one each (llama alone).
    """
    if mlp_bias and family != "llama":
        raise ValueError(f"{family} has no MLP bias; take llama")
    if attention_bias and family not in FAMILIES_WITH_OUTPUT_BIAS:
        raise ValueError(f"{family} has no o_proj bias; take one of {FAMILIES_WITH_OUTPUT_BIAS}")
    config_class, model_class = _CLASSES[family]
    extra: dict[str, Any] = {"attention_bias": True} if attention_bias else {}
    extra |= {"mlp_bias": True} if mlp_bias else {}
    if family in ("qwen3", "mistral"):
        extra["head_dim"] = width // 4
    config = config_class(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tie,
        bos_token_id=None,
        eos_token_id=len(_ALPHABET) + 2,
        pad_token_id=len(_ALPHABET),
        **extra,
    )
    with torch.random.fork_rng(devices=[]):
        model = model_class(config)
    randomize(model, seed)
    return model.to(dtype).eval()  # type: ignore[no-any-return]


def save_tiny(
    family: str,
    folder: Path,
    *,
    max_shard_size: str | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    tie: bool = False,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    width: int = WIDTH,
) -> Path:
    """Save a tiny model and its tokenizer as a checkpoint folder, in several shards when ``max_shard_size`` is given.

    The weights take about 210 kB in float32, so "60KB" gives four to five shards. Returns ``folder``.
    """
    model = tiny_model(
        family, seed=seed, tie=tie, attention_bias=attention_bias, mlp_bias=mlp_bias, dtype=dtype, width=width
    )
    model.save_pretrained(folder, max_shard_size=max_shard_size or "1GB")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def randomize(model: PreTrainedModel, seed: int) -> None:
    """Draw every parameter anew: matrices keep the scale of their input, norms stay near 1, biases are not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            parameter.copy_(0.3 * noise if name.endswith("bias") else 1 + 0.1 * noise)
        else:
            parameter.copy_(noise * (2.0 / math.sqrt(parameter.shape[-1])))
