"""Write a GGUF file from a tiny Llama and its tokenizer, with the `gguf` package, laid out as llama.cpp's are."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.tiny_models import CHATML, END, PAD, START

_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
MERGED = "ab"
"""A byte-level vocabulary in a GGUF needs a merge; for its token, the model must have a row more than the tokenizer."""
_OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """Write ``path``; matrices are stored as ``kind``, vectors as F32. Returns ``path``."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    for name, tensor in model.state_dict().items():
        module = name.removesuffix(".weight")
        if module == "lm_head" and config.tie_word_embeddings:
            continue
        heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
        if module in _OTHERS:
            stored = _OTHERS[module]
        else:
            _, _, layer, inner = module.split(".", 3)
            stored = f"blk.{layer}.{_MODULES[inner]}"
            if inner in heads:
                tensor = _joined_rotary_pairs(tensor, heads[inner])
        values = tensor.to(torch.float32).numpy()
        as_kind = kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{stored}.weight", gguf.quants.quantize(values, as_kind), raw_dtype=as_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _joined_rotary_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF keeps each rotary pair of q and k rows side by side, Hugging Face half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, n_tokens: int) -> None:
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tokens += [MERGED] * (n_tokens - len(tokens))
    special = {PAD, START, END}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([int(gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL) for t in tokens])
    writer.add_token_merges([" ".join(MERGED)])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(CHATML)
