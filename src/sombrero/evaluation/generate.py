"""Greedy answers to many prompts at once: batched, cached, and each row only for as long as it matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from sombrero.errors import UsageError
from sombrero.models.batches import Forward, by_length, prepare_batch, require_room
from sombrero.records import ModelHandle, RenderedPrompt, Response

CHECK_EVERY = 4
"""Steps between looks at the tokens: one transfer from the device, and one decoding of each row, for so many tokens."""
DROP_SHARE = 0.25
"""Ended rows leave the batch when they are this share of it: leaving copies the cache once, staying costs compute."""


def generate(
    handle: ModelHandle,
    prompts: Sequence[RenderedPrompt],
    *,
    max_new_tokens: int = 100,
    batch_size: int = 64,
    settled: Callable[[str], bool] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Response, ...]:
    """Answer every prompt by greedy decoding; the answers come in the order of the prompts.

    Plain greedy: of the model's generation configuration only the end tokens count, so that models are compared on
    equal terms. A row ends at an end token, which is its last token id; after ``max_new_tokens``; or, looked at every
    CHECK_EVERY tokens, when ``settled`` says that more text cannot change its verdict. Text leaves special tokens out.
    ``on_progress`` is given the number of answers that ended since its last call.

    Raises UsageError for sizes below 1 and PromptError for a prompt that is empty or too long for the model.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise UsageError(
            f"max_new_tokens is {max_new_tokens} and batch_size {batch_size}; both must be at least 1 to generate"
        )
    require_room(handle, prompts, max_new_tokens)
    order = by_length([len(prompt.token_ids) for prompt in prompts])
    answers: dict[int, Response] = {}
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rows = [_Row(handle, prompts[i], settled) for i in batch]
            for n_ended in _decode(handle, rows, max_new_tokens):
                if on_progress is not None:
                    on_progress(n_ended)
            answers.update((i, row.response()) for i, row in zip(batch, rows, strict=True))
    return tuple(answers[i] for i in range(len(prompts)))


def end_tokens(handle: ModelHandle) -> frozenset[int]:
    """Every token that ends an answer, after the generation configuration and the tokenizer."""
    configuration = getattr(handle.model, "generation_config", None)
    ends: set[int] = set()
    for found in (getattr(configuration, "eos_token_id", None), handle.tokenizer.eos_token_id):
        ends.update([] if found is None else [found] if isinstance(found, int) else found)
    return frozenset(ends)


def _decode(handle: ModelHandle, rows: Sequence[_Row], max_new_tokens: int) -> Iterator[int]:
    """Bring every row to its end; yields how many ended, each time that some did."""
    ends = end_tokens(handle)
    stepper = _Stepper(handle, [row.prompt.token_ids for row in rows], max_new_tokens)
    live = list(rows)
    n_done = 0
    while live:
        n_steps = min(CHECK_EVERY, max_new_tokens - n_done)
        n_done += n_steps
        running = sum(row.stopped is None for row in live)
        for row, tokens in zip(live, stepper.advance(n_steps), strict=True):
            row.extend(tokens, ends, last=n_done == max_new_tokens)
        kept = [place for place, row in enumerate(live) if row.stopped is None]
        if len(kept) < running:
            yield running - len(kept)
        if len(kept) <= (1 - DROP_SHARE) * len(live):
            live = [live[place] for place in kept]
            stepper.keep(kept)


@dataclass
class _Row:
    """One answer in the making."""

    handle: ModelHandle
    prompt: RenderedPrompt
    settled: Callable[[str], bool] | None
    tokens: list[int] = field(default_factory=list)
    stopped: Literal["end", "length", "settled"] | None = None

    def extend(self, tokens: Sequence[int], ends: frozenset[int], *, last: bool) -> None:
        if self.stopped is not None:
            return
        for token in tokens:
            self.tokens.append(token)
            if token in ends:
                self.stopped = "end"
                return
        if last:
            self.stopped = "length"
        # half a character at the end of the tokens so far is not part of the text yet
        elif self.settled is not None and self.settled(self._text().rstrip("\ufffd")):
            self.stopped = "settled"

    def response(self) -> Response:
        assert self.stopped is not None
        return Response(self.prompt.prompt.id, self._text(), tuple(self.tokens), self.stopped)

    def _text(self) -> str:
        # cleaning up spaces would change text that an earlier look has already judged
        return str(
            self.handle.tokenizer.decode(self.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )


class _Stepper:
    """A batch of rows, its cache and its masks; each step gives every row its next token."""

    def __init__(self, handle: ModelHandle, rows: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        self._forward = Forward(handle.model)
        batch = prepare_batch(handle, rows, n_new=max_new_tokens)
        assert batch.cache is not None
        self._cache = batch.cache
        self._ids, self._positions = batch.ids, batch.positions
        self._length = batch.n_prefix + batch.ids.shape[1]
        # the mask is as long as it will ever get; rows of one length need none, and attention is cheaper without
        self._mask = None
        if batch.mask is not None:
            self._mask = torch.nn.functional.pad(batch.mask, (0, max_new_tokens), value=1)

    def advance(self, n_steps: int) -> list[list[int]]:
        """The next ``n_steps`` tokens of every row; one transfer from the device."""
        tokens = [self._step() for _ in range(n_steps)]
        rows: list[list[int]] = torch.stack(tokens, dim=1).tolist()
        return rows

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these rows only."""
        if not places:
            return
        index = torch.tensor(places, device=self._ids.device)
        self._ids, self._positions = self._ids[index], self._positions[index]
        self._mask = None if self._mask is None else self._mask[index]
        self._cache.batch_select_indices(index)

    def _step(self) -> torch.Tensor:
        logits = self._forward.logits(
            1,
            ids=self._ids,
            positions=self._positions,
            attention_mask=None if self._mask is None else self._mask[:, : self._length],
            past_key_values=self._cache,
            use_cache=True,
        )
        tokens = logits[:, -1].argmax(dim=-1).to(self._ids.device)
        self._ids = tokens[:, None]
        self._positions = self._positions[:, -1:] + 1
        self._length += 1
        return tokens
