"""Token rows as a model takes them: grouped by length, padded on the left, run with only the needed logits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sombrero.errors import PromptError
from sombrero.records import ModelHandle, RenderedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LeftPadded:
    """Rows of tokens that all end in the last column. ids, mask, positions: ``(n, longest)`` int64 on one device."""

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor


def pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> LeftPadded:
    """Pad with token 0, which the mask hides; positions count from 0 at the first real token of each row."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
    missing = torch.tensor([[longest - len(row)] for row in rows])
    columns = torch.arange(longest)
    mask = (columns >= missing).long()
    return LeftPadded(ids.to(device), mask.to(device), (columns - missing).clamp(min=0).to(device))


def require_room(handle: ModelHandle, prompts: Sequence[RenderedPrompt], n_new: int) -> None:
    """Raise PromptError for a prompt without tokens, or one that leaves no room for ``n_new`` more in the context."""
    limit = getattr(handle.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    for prompt in prompts:
        n_tokens = len(prompt.token_ids)
        if n_tokens == 0:
            raise PromptError(f"prompt {prompt.prompt.id!r} has no tokens; render it with a chat template")
        if limit is not None and n_tokens + n_new > limit:
            raise PromptError(
                f"prompt {prompt.prompt.id!r} has {n_tokens} tokens, and {n_new} more do not fit into the "
                f"model's context of {limit}; shorten the prompt or generate fewer tokens"
            )


def by_length(lengths: Sequence[int]) -> list[int]:
    """Indices, longest first: little padding in a batch, and a batch that does not fit into memory fails at once."""
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def token_batches(lengths: Sequence[int], batch_tokens: int, max_rows: int | None = None) -> Iterator[list[int]]:
    """Indices in batches whose padded size stays within ``batch_tokens``, with one row at least, longest rows first."""
    batch: list[int] = []
    for index in by_length(lengths):
        if batch and ((len(batch) + 1) * lengths[batch[0]] > batch_tokens or len(batch) == max_rows):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


class Forward:
    """A model's forward pass with the optional arguments that its class knows."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._known = set(inspect.signature(model.forward).parameters)

    def logits(self, n_last: int, *, ids: torch.Tensor, positions: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Logits ``(rows, n_last, vocab)`` of the last ``n_last`` positions, in the model's dtype."""
        if "position_ids" in self._known:
            kwargs["position_ids"] = positions
        if "logits_to_keep" in self._known:
            kwargs["logits_to_keep"] = n_last
        logits: torch.Tensor = self._model(input_ids=ids, **kwargs).logits
        return logits[:, -n_last:]
