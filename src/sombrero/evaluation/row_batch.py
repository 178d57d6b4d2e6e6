"""The rows that are being answered, as one batch: their next tokens, who leaves, who joins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from sombrero.models.batches import Batch, Forward, prepare_batch
from sombrero.models.cache import Beginning, is_reserved, reserved_layers
from sombrero.records import ModelHandle

Choice = tuple[int, float]
"""A row's next token and its log-probability (nats), NaN where none is asked for."""


class RowBatch:
    """A batch of rows, its cache and its masks; each step gives every row its next token.

    All rows end in the last column of the cache, whenever they joined: a row that is ``n`` tokens long fills its last
    ``n`` columns, and the mask hides the rest. ``n_new`` is how many tokens a row is given at most, ``max_length`` the
    length of the longest row with all of them. ``scored`` asks for the log-probabilities of the tokens.
    """

    def __init__(self, handle: ModelHandle, n_new: int, max_length: int, *, scored: bool = False) -> None:
        self.handle = handle
        self._scored = scored
        self._forward = Forward(handle.model)
        self._n_new = n_new
        self._last_position = max_length - 1
        self._cache: DynamicCache | None = None
        self._beginning: Beginning | None = None
        self._ids = self._positions = torch.empty(0, 1, dtype=torch.int64)
        self._mask: torch.Tensor | None = None
        self._length = 0

    @property
    def takes_more(self) -> bool:
        """Whether rows may join others that are under way; sliding and recurrent layers cannot take them."""
        return self._cache is not None and is_reserved(self._cache)

    def admit(self, rows: Sequence[Sequence[int]], kept: Sequence[int]) -> list[Choice]:
        """Go on with the rows at the places ``kept``, followed by these new ones; returns the first tokens of the new.

        With rows kept, it may be called only while ``takes_more``.
        """
        if not kept:  # what is not needed any more makes room first
            self._cache = None
        # rows that join are copied to others, where the room is
        batch = prepare_batch(self.handle, rows, n_new=0 if kept else self._n_new, beginning=self._beginning)
        assert batch.cache is not None
        self._beginning = batch.beginning or self._beginning
        tokens, log_probs = self._next(batch.ids, batch.positions, batch.mask, batch.cache)
        _close_gaps(batch)
        ids, positions = tokens[:, None], batch.positions[:, -1:] + 1
        if kept and self._cache is not None:
            index = torch.tensor(kept, device=self._ids.device)
            self._ids = torch.cat([self._ids[index], ids])
            self._positions = torch.cat([self._positions[index], positions])
            self._regroup(index, batch.cache)
        else:
            self._cache, self._ids, self._positions = batch.cache, ids, positions
            self._length = batch.n_prefix + batch.ids.shape[1]
            self._set_mask()
        return list(zip(tokens.tolist(), log_probs.tolist(), strict=True))

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these rows only."""
        assert self._cache is not None and places
        index = torch.tensor(places, device=self._ids.device)
        self._ids, self._positions = self._ids[index], self._positions[index]
        if self.takes_more:
            self._regroup(index, None)
        else:
            self._mask = None if self._mask is None else self._mask[index]
            # what the library has for recurrent layers too: it picks these rows
            self._cache.reorder_cache(index)  # type: ignore[arg-type]

    def advance(self, n_steps: int) -> list[list[Choice]]:
        """The next ``n_steps`` tokens of every row; one transfer from the device of each kind."""
        steps = [self._step() for _ in range(n_steps)]
        tokens, log_probs = (torch.stack(values, dim=1).tolist() for values in zip(*steps, strict=True))
        return [list(zip(*row, strict=True)) for row in zip(tokens, log_probs, strict=True)]

    def _regroup(self, kept: torch.Tensor, joining: DynamicCache | None) -> None:
        """Rebuild cache and mask for the rows that ``_positions`` now tells of: no wider than the longest of them."""
        assert self._cache is not None
        lengths = self._positions.flatten().tolist()  # the next position of a row is the number of tokens in its cache
        length = max(lengths[: len(kept)])
        layers = reserved_layers(self._cache)
        others = [None] * len(layers) if joining is None else reserved_layers(joining)
        for layer, other in zip(layers, others, strict=True):
            layer.regroup(kept, length, self._n_new, other)
            if other is not None:
                other.reset()  # layer by layer, so that never more than one is held twice
        self._length = max(lengths)
        self._set_mask()

    def _set_mask(self) -> None:
        """With room for the steps to come; rows of one length need no mask, and attention is cheaper without."""
        columns = torch.arange(self._length, device=self._positions.device)
        mask = (columns >= self._length - self._positions).long()
        self._mask = None if bool(mask.all()) else _with_room(mask, self._n_new)

    def _step(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._cache is not None
        if self._mask is not None and self._mask.shape[1] < self._length + 1:
            self._mask = _with_room(self._mask, self._n_new)
        mask = None if self._mask is None else self._mask[:, : self._length + 1]
        tokens, log_probs = self._next(self._ids, self._positions, mask, self._cache)
        self._ids = tokens[:, None]
        # a row that has ended may go along for long; its tokens count no more, but its position must stay a position
        self._positions = (self._positions + 1).clamp(max=self._last_position)
        self._length += 1
        return tokens, log_probs

    def _next(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, cache: DynamicCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of every row and its log-probability, each ``(n,)``."""
        logits = self._forward.logits(
            1, ids=ids, positions=positions, attention_mask=mask, past_key_values=cache, use_cache=True
        )[:, -1]
        tokens = logits.argmax(dim=-1)
        if self._scored:
            chosen = logits.gather(1, tokens[:, None])[:, 0]
            log_probs = chosen.float() - logits.float().logsumexp(dim=-1)
        else:
            log_probs = torch.full(tokens.shape, torch.nan)
        return tokens.to(ids.device), log_probs


def _close_gaps(batch: Batch) -> None:
    """Behind a shared beginning each row has its own padding: move the padding before the beginning."""
    if not batch.n_prefix or batch.mask is None or batch.cache is None:
        return
    gaps = (1 - batch.mask).sum(dim=1)
    for gap in sorted(set(gaps.tolist()) - {0}):
        rows = (gaps == gap).nonzero().flatten()
        for layer in reserved_layers(batch.cache):  # no others share a beginning
            layer.close_gap(rows, batch.n_prefix, gap)


def _with_room(mask: torch.Tensor, room: int) -> torch.Tensor:
    return torch.nn.functional.pad(mask, (0, room), value=1)
