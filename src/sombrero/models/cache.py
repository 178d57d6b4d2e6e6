"""A key-value cache with room reserved for what will be generated.

The library's own growing layer copies all keys and values at every token; on a CPU that costs as much as the model.
Here each layer owns a buffer of the final size, writes into it, and hands out views.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class ReservedLayer(DynamicLayer):
    """A full-attention layer with room for ``n_new`` more positions than its first update brings.

    keys, values: views ``(rows, heads, length, head_dim)`` of the buffers; the buffers grow if the room is used up.
    """

    def __init__(self, n_new: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._n_new = n_new
        self._key_buffer: torch.Tensor | None = None
        self._value_buffer: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new positions; return those of all positions."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        self._key_buffer = self._written(self._key_buffer, key_states, start)
        self._value_buffer = self._written(self._value_buffer, value_states, start)
        end = start + key_states.shape[-2]
        self.keys, self.values = self._key_buffer[:, :, :end], self._value_buffer[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows only."""
        length = self.get_seq_length()
        if self._key_buffer is None or self._value_buffer is None or length == 0:
            return
        self._key_buffer, self._value_buffer = self._key_buffer[indices], self._value_buffer[indices]
        self.keys, self.values = self._key_buffer[:, :, :length], self._value_buffer[:, :, :length]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Give every row ``repeats`` copies, room included."""
        length = self.get_seq_length()
        if self._key_buffer is None or self._value_buffer is None or length == 0:
            return
        self._key_buffer = self._key_buffer.repeat_interleave(repeats, dim=0)
        self._value_buffer = self._value_buffer.repeat_interleave(repeats, dim=0)
        self.keys, self.values = self._key_buffer[:, :, :length], self._value_buffer[:, :, :length]

    def _written(self, buffer: torch.Tensor | None, states: torch.Tensor, start: int) -> torch.Tensor:
        end = start + states.shape[-2]
        if buffer is None or buffer.shape[-2] < end:
            rows, heads, _, width = states.shape
            larger = states.new_empty(rows, heads, end + self._n_new, width)
            if buffer is not None:
                larger[:, :, :start] = buffer[:, :, :start]
            buffer = larger
        buffer[:, :, start:end] = states
        return buffer


def reserved_cache(config: PreTrainedConfig, n_new: int) -> DynamicCache:
    """An empty cache for a model of this configuration; sliding and recurrent layers stay the library's own."""
    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer(n_new) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
