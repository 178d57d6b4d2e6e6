"""How many rows fit into memory: bytes that a row needs, and what running out looks like."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from sombrero.models.memory import free_bytes
from sombrero.records import execution_device

FREE_SHARE = 0.7
"""Of the free memory, what a batch may plan with: the estimate below is rough, and other programs want some too."""
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""How the allocators of the CPU (two systems) and of MPS say it; CUDA has a class for it."""


def rows_that_fit(model: PreTrainedModel, *, longest: int, n_new: int, at_most: int) -> int:
    """Rows of ``longest`` tokens, each to be given ``n_new`` more, that fit into free memory: 1 to ``at_most``.

    ``at_most`` where a device does not tell what is free. On several devices, the one with the least decides.
    """
    loaded = (module for module in model.modules() if any(True for _ in module.parameters(recurse=False)))
    free = [free_bytes(device) for device in {execution_device(module) for module in loaded}]
    known = [amount for amount in free if amount is not None]
    if not known:
        return at_most
    return max(1, min(at_most, int(FREE_SHARE * min(known)) // row_bytes(model, longest, n_new)))


def row_bytes(model: PreTrainedModel, longest: int, n_new: int) -> int:
    """Bytes of one row: its cache with the room reserved, its prompt on its way through a layer, its logits."""
    config, n_bytes = model.config.get_text_config(decoder=True), model.dtype.itemsize
    heads: int = config.num_attention_heads
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    inner = int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    # a row that others have joined is as long as it can get, with room for all of theirs
    cache = 2 * config.num_hidden_layers * kv_heads * head_dim * (longest + 2 * n_new)
    prompt = longest * (4 * config.hidden_size + 3 * inner)
    return int(n_bytes * (cache + prompt + 2 * config.vocab_size))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the system has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
