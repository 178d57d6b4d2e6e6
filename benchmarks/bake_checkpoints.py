"""Checkpoints with the true shapes of known models and random content, written in a stream: nothing is fetched.

Numbers are drawn from a seed; bfloat16 ones lie between 2^-7 and 2^-3 in magnitude, so that they are finite, and edits
of them are too. MXFP4 tensors (``_blocks``, ``_scales``) are random bytes, their scales between 2^-9 and 2^-6.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from sombrero.records import LowRankEdit, Writer, WriterKind

CHUNK_NUMBERS = 1 << 21
ITEM_BYTES = {"BF16": 2, "U8": 1}
RANK = 4
ALIGNMENT = 8


@dataclass(frozen=True)
class Tensor:
    """One tensor to write."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Llama:
    """Llama-3.1-8B as published: 16 GB in bfloat16. Other sizes by other numbers."""

    layers: int = 32
    width: int = 4096
    hidden: int = 14336
    heads: int = 32
    key_value_heads: int = 8
    vocabulary: int = 128256
    shard_bytes: int = 5_000_000_000

    def tensors(self) -> Iterator[Tensor]:
        d, kv = self.width, self.width // self.heads * self.key_value_heads
        shapes = {
            "self_attn.q_proj": (d, d),
            "self_attn.k_proj": (kv, d),
            "self_attn.v_proj": (kv, d),
            "self_attn.o_proj": (d, d),
            "mlp.gate_proj": (self.hidden, d),
            "mlp.up_proj": (self.hidden, d),
            "mlp.down_proj": (d, self.hidden),
            "input_layernorm": (d,),
            "post_attention_layernorm": (d,),
        }
        yield Tensor("model.embed_tokens.weight", "BF16", (self.vocabulary, d))
        for layer in range(self.layers):
            yield from (Tensor(f"model.layers.{layer}.{name}.weight", "BF16", size) for name, size in shapes.items())
        yield Tensor("model.norm.weight", "BF16", (d,))
        yield Tensor("lm_head.weight", "BF16", (self.vocabulary, d))

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }

    def writers(self) -> list[Writer]:
        """All attention and MLP outputs."""
        attention = [_writer(i, "attention", "self_attn.o_proj", self.width, self.width) for i in range(self.layers)]
        return attention + [_writer(i, "mlp", "mlp.down_proj", self.hidden, self.width) for i in range(self.layers)]


@dataclass(frozen=True)
class GptOss:
    """gpt-oss-20b as published: 13.8 GB, its experts in MXFP4, all else in bfloat16.

    experts_stored: how the edit of the experts is stored, see ``sombrero bake --packed``; None: they are not edited.
    """

    layers: int = 24
    width: int = 2880
    experts: int = 32
    heads: int = 64
    key_value_heads: int = 8
    head_width: int = 64
    vocabulary: int = 201088
    shard_bytes: int = 4_800_000_000
    experts_stored: Literal["nearest", "carry", "beside"] | None = None

    def tensors(self) -> Iterator[Tensor]:
        d, q, kv = self.width, self.heads * self.head_width, self.key_value_heads * self.head_width
        yield Tensor("model.embed_tokens.weight", "BF16", (self.vocabulary, d))
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            yield Tensor(f"{at}.input_layernorm.weight", "BF16", (d,))
            yield Tensor(f"{at}.self_attn.sinks", "BF16", (self.heads,))
            for name, (d_out, d_in) in {"q": (q, d), "k": (kv, d), "v": (kv, d), "o": (d, q)}.items():
                yield Tensor(f"{at}.self_attn.{name}_proj.weight", "BF16", (d_out, d_in))
                yield Tensor(f"{at}.self_attn.{name}_proj.bias", "BF16", (d_out,))
            yield Tensor(f"{at}.post_attention_layernorm.weight", "BF16", (d,))
            yield Tensor(f"{at}.mlp.router.weight", "BF16", (self.experts, d))
            yield Tensor(f"{at}.mlp.router.bias", "BF16", (self.experts,))
            for name, d_out in (("gate_up_proj", 2 * d), ("down_proj", d)):
                yield Tensor(f"{at}.mlp.experts.{name}_blocks", "U8", (self.experts, d_out, d // 32, 16))
                yield Tensor(f"{at}.mlp.experts.{name}_scales", "U8", (self.experts, d_out, d // 32))
                yield Tensor(f"{at}.mlp.experts.{name}_bias", "BF16", (self.experts, d_out))
        yield Tensor("model.norm.weight", "BF16", (d,))
        yield Tensor("lm_head.weight", "BF16", (self.vocabulary, d))

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["GptOssForCausalLM"],
            "model_type": "gpt_oss",
            "hidden_size": self.width,
            "intermediate_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_width,
            "num_local_experts": self.experts,
            "vocab_size": self.vocabulary,
            "quantization_config": {"quant_method": "mxfp4"},
            "dtype": "bfloat16",
        }

    def writers(self) -> list[Writer]:
        """The attention outputs, and the experts' down projections where they are edited."""
        d_in = self.heads * self.head_width
        found = [_writer(i, "attention", "self_attn.o_proj", d_in, self.width, bias=True) for i in range(self.layers)]
        return found + [self._experts(i) for i in range(self.layers) if self.experts_stored]

    def _experts(self, layer: int) -> Writer:
        path, width = f"model.layers.{layer}.mlp.experts", self.width
        weight, bias = f"{path}.down_proj", f"{path}.down_proj_bias"
        name = f"{layer}.experts"
        return Writer(
            name, layer, "mlp", path, weight, bias, "experts_in_out", width, width, "down_proj", n_experts=self.experts
        )


Shape = Llama | GptOss


def write_checkpoint(shape: Shape, folder: Path, seed: int = 0) -> int:
    """Write the checkpoint into ``folder``, in shards with an index as the hub's; return its size in bytes."""
    folder.mkdir(parents=True)
    random = np.random.Generator(np.random.SFC64(seed))
    shards: list[list[Tensor]] = [[]]
    for tensor in shape.tensors():
        if shards[-1] and sum(item.n_bytes for item in shards[-1]) + tensor.n_bytes > shape.shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= {tensor.name: name for tensor in tensors}
        _write_shard(folder / name, tensors, random)
    total = sum(tensor.n_bytes for tensors in shards for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2))
    (folder / "tokenizer.json").write_bytes(random.bytes(9 << 20))
    return sum(path.stat().st_size for path in folder.iterdir())


def make_edit(writers: list[Writer], seed: int = 0) -> dict[str, LowRankEdit]:
    """An edit of each writer: orthonormal directions, and about as much along them as a projection removes."""
    generator = torch.Generator().manual_seed(seed)
    edit = {}
    for writer in writers:
        V = torch.linalg.qr(torch.randn(writer.d_out, RANK, generator=generator)).Q
        if writer.n_experts is not None:  # what they have in common is their output
            edit[writer.name] = LowRankEdit(V, None, None, 1.0, U=V)
            continue
        edit[writer.name] = LowRankEdit(V, 0.05 * torch.randn(writer.d_in, RANK, generator=generator), None, 1.0)
    return edit


def _writer(layer: int, kind: WriterKind, module: str, d_in: int, d_out: int, *, bias: bool = False) -> Writer:
    path = f"model.layers.{layer}.{module}"
    bias_name = f"{path}.bias" if bias else None
    return Writer(f"{layer}.{kind}", layer, kind, path, f"{path}.weight", bias_name, "linear", d_in, d_out)


def _write_shard(path: Path, tensors: list[Tensor], random: np.random.Generator) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        offsets = [position, position + tensor.n_bytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        position += tensor.n_bytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(len(raw).to_bytes(ALIGNMENT, "little") + raw)
        for tensor in tensors:
            count = math.prod(tensor.shape)
            for begin in range(0, count, CHUNK_NUMBERS):
                stream.write(_numbers(tensor, min(CHUNK_NUMBERS, count - begin), random))


def _numbers(tensor: Tensor, count: int, random: np.random.Generator) -> bytes | memoryview:
    n_bytes = count * ITEM_BYTES[tensor.dtype]
    raw = random.integers(0, 1 << 63, -(-n_bytes // 8), dtype=np.uint64, endpoint=False).view(np.uint8)[:n_bytes]
    if tensor.dtype == "BF16":
        bits = raw.view(np.uint16)
        bits &= 0x81FF  # the sign, two bits of the exponent, the mantissa
        bits |= 0x3C00
    elif tensor.name.endswith("_scales"):
        raw &= 0x03
        raw |= 118
    return raw.data
