"""Checkpoints whose weights are packed, by the definition of each format, and what they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM

from tests.tiny_models import save_tiny, tiny_tokenizer

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
"""The sixteen values of MXFP4's elements, by code."""
MXFP4_BLOCK, FP8_BLOCK = 32, 16


def save_fp8(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny llama in FP8 with a scale for each 16 x 16 block; and the weights that it stands for, in bfloat16."""
    save_tiny("llama", folder, dtype=torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    plain = dict(tensors)
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        weight = tensors[name].float()
        blocks = weight.unflatten(0, (-1, FP8_BLOCK)).unflatten(-1, (-1, FP8_BLOCK))
        scales = blocks.abs().amax(dim=(1, 3)) / torch.finfo(torch.float8_e4m3fn).max
        packed = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        tensors[name] = packed.flatten(0, 1).flatten(1)
        tensors[f"{name}_scale_inv"] = scales
        plain[name] = (packed.float() * scales[:, None, :, None]).flatten(0, 1).flatten(1).bfloat16()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    _declare(folder, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [FP8_BLOCK] * 2})
    return folder, plain


def save_mxfp4(folder: Path) -> tuple[Path, GptOssForCausalLM]:
    """A tiny gpt-oss whose experts are in MXFP4; and the model that it stands for, in bfloat16."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = GptOssConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=16,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    model = GptOssForCausalLM(config).to(torch.bfloat16).eval()
    packed: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            codes, scales = _random_blocks(parameter.shape)
            values = E2M1[codes] * (scales.float() - 127).exp2()[..., None]
            # the file has (experts, out, blocks, bytes), the module (experts, in, out)
            parameter.data = values.flatten(-2).transpose(1, 2).to(torch.bfloat16).contiguous()
            packed[f"{name}_blocks"] = (codes[..., 0::2] | (codes[..., 1::2] << 4)).to(torch.uint8)
            packed[f"{name}_scales"] = scales
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    replaced = {name.removesuffix("_blocks") for name in packed if name.endswith("_blocks")}
    save_file(
        {name: tensor for name, tensor in tensors.items() if name not in replaced} | packed,
        folder / "model.safetensors",
        {"format": "pt"},
    )
    _declare(folder, {"quant_method": "mxfp4"})
    return folder, model


def _random_blocks(shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
    n_experts, d_in, d_out = shape
    codes = torch.randint(0, 16, (n_experts, d_out, d_in // MXFP4_BLOCK, MXFP4_BLOCK))
    scales = torch.randint(121, 125, codes.shape[:-1]).to(torch.uint8)
    return codes, scales


def _declare(folder: Path, quantization: dict[str, object]) -> None:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
