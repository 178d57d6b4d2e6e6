"""A key-value cache with room reserved for what will be generated.

The library's own growing layer copies all keys and values at every token; on a CPU that costs as much as the model.
Here each layer owns a buffer of the final size, writes into it, and hands out views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows only, in this order."""
        self.batch_select_indices(beam_idx)

    @property
    def states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, once there are any."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def close_gap(self, rows: torch.Tensor, n_first: int, gap: int) -> None:
        """Move the first ``n_first`` positions of these rows by ``gap``, over padding, to what follows it."""
        for states in self.states:
            places = rows.to(states.device)
            states[places, :, gap : gap + n_first] = states[places, :, :n_first]

    def regroup(self, rows: torch.Tensor, length: int, room: int, joining: ReservedLayer | None = None) -> None:
        """Keep these rows, and of each the last ``length`` positions; append the rows of ``joining``.

        All rows end in the last position: the shorter ones are padded on the left with zeros, which a mask must hide.
        Room for ``room`` more positions is reserved.
        """
        width = length if joining is None else max(length, joining.get_seq_length())
        others = (None, None) if joining is None else joining.states
        keys, values = self.states
        self._key_buffer = _regrouped(keys, rows, length, width, room, others[0])
        self._value_buffer = _regrouped(values, rows, length, width, room, others[1])
        self.keys, self.values = self._key_buffer[:, :, :width], self._value_buffer[:, :, :width]
        self._n_new = room

    def reset(self) -> None:
        """Forget all positions, and let go of the buffers."""
        self._key_buffer = self._value_buffer = None
        super().reset()

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


@dataclass(frozen=True)
class Beginning:
    """Keys and values of tokens that rows begin with, each ``(1, heads, len(tokens), head_dim)``, layer by layer."""

    tokens: tuple[int, ...]
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, tokens: Sequence[int], cache: DynamicCache) -> Beginning:
        """What a cache of one row holds after these tokens."""
        keys, values = zip(*(layer.states for layer in reserved_layers(cache)), strict=True)
        return cls(tuple(tokens), keys, values)

    def write(self, cache: DynamicCache, n_tokens: int) -> None:
        """Put the first ``n_tokens`` into an empty cache, as one row."""
        for layer, keys, values in zip(reserved_layers(cache), self.keys, self.values, strict=True):
            layer.update(keys[:, :, :n_tokens], values[:, :, :n_tokens])


def _regrouped(
    states: torch.Tensor, rows: torch.Tensor, length: int, width: int, room: int, joining: torch.Tensor | None
) -> torch.Tensor:
    n_kept, n_joining = len(rows), 0 if joining is None else len(joining)
    buffer = states.new_empty(n_kept + n_joining, states.shape[1], width + room, states.shape[3])
    parts = [(buffer[:n_kept], states[:, :, states.shape[2] - length :][rows.to(states.device)])]
    if joining is not None:
        parts.append((buffer[n_kept:], joining))
    for place, part in parts:
        padding = width - part.shape[2]
        # hidden positions get no weight, but what they hold must be finite: nothing times NaN is NaN
        place[:, :, :padding] = 0
        place[:, :, padding:width] = part
    return buffer


def reserved_layers(cache: DynamicCache) -> list[ReservedLayer]:
    """The layers of a cache of which all are reserved, see :func:`is_reserved`."""
    layers = [layer for layer in cache.layers if isinstance(layer, ReservedLayer)]
    assert len(layers) == len(cache.layers)
    return layers


def is_reserved(cache: DynamicCache) -> bool:
    """Whether every layer is a :class:`ReservedLayer`: then rows may share a beginning, and others may join them."""
    return all(type(layer) is ReservedLayer for layer in cache.layers)


def reserved_cache(config: PreTrainedConfig, n_new: int) -> DynamicCache:
    """An empty cache for a model of this configuration; sliding and recurrent layers stay the library's own."""
    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer(n_new) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
