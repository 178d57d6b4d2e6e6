"""Greedy answers to many prompts at once: batched, cached, and each row only for as long as it matters.

Rows that have ended leave the batch, and prompts that wait take their places (:mod:`sombrero.evaluation.row_batch`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from sombrero.errors import PromptError, UsageError
from sombrero.evaluation.row_batch import Choice, RowBatch
from sombrero.evaluation.row_memory import is_out_of_memory, rows_that_fit
from sombrero.models.batches import by_length, common_prefix, require_room
from sombrero.models.cache import is_reserved, reserved_cache
from sombrero.records import ModelHandle, RenderedPrompt, Response, Subject

CHECK_EVERY = 4
"""Tokens of a row between looks at its text, and steps between transfers from the device."""
PASS_TOKENS = 512
"""Tokens that make a pass over new rows worth while; of fewer, the matrix products are not much faster."""
EVEN_SHARE = 0.8
"""A row whose own tokens are less than this share of the longest row's is left to the next pass over new rows."""
Settled = Callable[[str], bool]
"""Whether more text cannot change what is asked of a text."""
DROP_SHARE = 0.25
"""Ended rows leave the batch, and others join, when they are this share of it: that copies the cache once."""


def generate(
    handle: ModelHandle,
    prompts: Sequence[RenderedPrompt],
    *,
    max_new_tokens: int = 100,
    batch_size: int = 64,
    settled: Settled | Sequence[Settled | None] | None = None,
    on_progress: Callable[[int], None] | None = None,
    refill: bool = True,
    log_probs: bool = False,
) -> tuple[Response, ...]:
    """Answer every prompt by greedy decoding; the answers come in the order of the prompts.

    Plain greedy: of the model's generation configuration only the end tokens count, so that models are compared on
    equal terms. A row ends at an end token, which is its last token id; after ``max_new_tokens``; or, looked at every
    CHECK_EVERY tokens, when ``settled`` says that more text cannot change its verdict. Text leaves special tokens out,
    but for those that delimit reasoning (``handle.kept_tokens``). ``settled`` may be one, or None, for each prompt.
    ``on_progress`` is given the number of answers that ended since its last call.

    ``batch_size`` is the most rows at once; fewer are taken when free memory asks for it, and half as many whenever
    memory runs out all the same: what is answered stays, the rows under way start again. ``refill`` lets waiting
    prompts take the places of ended rows; without it, a batch ends before the next begins (as it always does where a
    model has sliding or recurrent layers). ``log_probs`` asks for the log-probability of each answer.

    Raises UsageError for sizes below 1 or another number of ``settled`` than of prompts, and PromptError for a prompt
    that is empty, too long for the model, or too long for memory even alone.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise UsageError(
            f"max_new_tokens is {max_new_tokens} and batch_size {batch_size}; both must be at least 1 to generate"
        )
    looks = [settled] * len(prompts) if settled is None or callable(settled) else list(settled)
    if len(looks) != len(prompts):
        raise UsageError(f"{len(looks)} settled for {len(prompts)} prompts; give one for each, or one for all")
    require_room(handle, prompts, max_new_tokens)
    if not prompts:
        return ()
    ends = end_tokens(handle)
    dropped = _dropped_tokens(handle)
    rows = [
        _Row(handle, prompt, look, ends, max_new_tokens, dropped, scored=log_probs)
        for prompt, look in zip(prompts, looks, strict=True)
    ]
    # longest first: little padding, and what does not fit into memory fails at once; whole answers before those that
    # may end early, which then fill the places that get free: few steps are made with few rows
    order = [rows[i] for i in by_length([len(prompt.token_ids) for prompt in prompts])]
    order.sort(key=lambda row: row.settled is not None)
    with torch.inference_mode():
        for n_ended in _answer(handle, order, max_new_tokens, batch_size, refill=refill, scored=log_probs):
            if on_progress is not None:
                on_progress(n_ended)
    return tuple(row.response() for row in rows)


def stream(subject: Subject, prompt: RenderedPrompt, *, max_new_tokens: int = 100) -> Iterator[str]:
    """One prompt's greedy answer as it grows: all of its text so far, after every token; the last is what it is.

    The subject is entered anew for every token. So the streams of two subjects that share one model, as base and edited
    do, can take turns. Raises what :func:`generate` raises.
    """
    with subject() as handle:
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {max_new_tokens}; it must be at least 1 to generate")
        require_room(handle, [prompt], max_new_tokens)
        row = _Row(handle, prompt, None, end_tokens(handle), max_new_tokens, _dropped_tokens(handle))
        batch = RowBatch(handle, max_new_tokens, len(prompt.token_ids) + max_new_tokens)
    while row.stopped is None:
        with subject(), torch.inference_mode():
            row.extend(batch.advance(1)[0] if row.tokens else batch.admit([prompt.token_ids], []))
        if row.stopped is None:
            yield row.response_text().rstrip("\ufffd")  # half a character at the end is not part of the text yet
    yield row.response().text


def end_tokens(handle: ModelHandle) -> frozenset[int]:
    """Every token that ends an answer, after the generation configuration and the tokenizer."""
    configuration = getattr(handle.model, "generation_config", None)
    ends: set[int] = set()
    for found in (getattr(configuration, "eos_token_id", None), handle.tokenizer.eos_token_id):
        ends.update([] if found is None else [found] if isinstance(found, int) else found)
    return frozenset(ends)


def _dropped_tokens(handle: ModelHandle) -> frozenset[int]:
    """The special tokens that are left out of an answer's text."""
    added = handle.tokenizer.added_tokens_decoder
    special = {token for token, entry in added.items() if entry.special} | set(handle.tokenizer.all_special_ids)
    return frozenset(special) - handle.kept_tokens


def _answer(
    handle: ModelHandle, rows: Sequence[_Row], n_new: int, batch_size: int, *, refill: bool, scored: bool
) -> Iterator[int]:
    """Bring every row to its end, in smaller batches where memory does not do; yields how many ended, each time."""
    longest = max(len(row.prompt.token_ids) for row in rows)
    limit = rows_that_fit(handle.model, longest=longest, n_new=n_new, at_most=batch_size)
    while waiting := deque(row for row in rows if row.stopped is None):
        under_way: list[_Row] = []
        batch = RowBatch(handle, n_new, longest + n_new, scored=scored)
        try:
            yield from _decode(batch, waiting, under_way, limit, refill)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(under_way) == 1:
                prompt = under_way[0].prompt
                raise PromptError(
                    f"prompt {prompt.prompt.id!r} has {len(prompt.token_ids)} tokens, and with {n_new} more it does "
                    "not fit into memory even alone; shorten the prompt, generate fewer tokens, or use a device with "
                    "more memory"
                ) from error
            limit = len(under_way) // 2
        for row in under_way:
            row.restart()


def _decode(batch: RowBatch, waiting: deque[_Row], under_way: list[_Row], limit: int, refill: bool) -> Iterator[int]:
    """Bring all waiting rows to their ends, at most ``limit`` at a time; yields how many ended, each time.

    ``under_way`` are the rows in the batch, for whoever must know when a step fails.
    """
    enough = max(1.0, DROP_SHARE * limit)
    prompts = [row.prompt.token_ids for row in waiting]
    n_shared = common_prefix(prompts, min(map(len, prompts)) - 1)
    may_split = is_reserved(reserved_cache(batch.handle.model.config, 0))
    while True:
        kept = [place for place, row in enumerate(under_way) if row.stopped is None]
        stay = [under_way[place] for place in kept]
        if waiting and (not kept or (refill and batch.takes_more and limit - len(kept) >= enough)):
            under_way[:] = stay
            choices: list[list[Choice]] = [[] for _ in stay]
            while waiting and len(under_way) < limit and (batch.takes_more or not choices):
                new = _take(waiting, limit - len(under_way), n_shared if may_split else None)
                under_way += new
                first = batch.admit([row.prompt.token_ids for row in new], kept)
                kept = list(range(len(under_way)))
                choices += [[choice] for choice in first]
        elif not kept:
            return
        else:
            if len(kept) <= (1 - DROP_SHARE) * len(under_way):
                under_way[:] = stay
                batch.keep(kept)
            # to the next look at the row that has gone furthest, and never beyond a row's end
            n_steps = min(CHECK_EVERY - len(stay[0].tokens) % CHECK_EVERY, min(row.n_left for row in stay))
            choices = batch.advance(n_steps)
        running = sum(row.stopped is None for row in under_way)
        for row, found in zip(under_way, choices, strict=True):
            row.extend(found)
        n_ended = running - sum(row.stopped is None for row in under_way)
        if n_ended:
            yield n_ended


def _take(waiting: deque[_Row], room: int, n_shared: int | None) -> list[_Row]:
    """The next rows, at most ``room``: as many as one pass takes without much padding, or all where n_shared is None.

    ``n_shared`` tokens at the beginning are run once for all rows, so they need no padding.
    """
    new = [waiting.popleft()]
    longest = len(new[0].prompt.token_ids) - (n_shared or 0)
    while waiting and len(new) < room:
        own = len(waiting[0].prompt.token_ids) - (n_shared or 0)
        uneven = own < EVEN_SHARE * longest or own > longest
        if n_shared is not None and uneven and len(new) * longest >= PASS_TOKENS:
            break
        new.append(waiting.popleft())
        longest = max(longest, own)
    return new


@dataclass
class _Row:
    """One answer in the making."""

    handle: ModelHandle
    prompt: RenderedPrompt
    settled: Callable[[str], bool] | None
    ends: frozenset[int]
    n_new: int
    dropped: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    scored: bool = False
    log_prob: float = 0.0
    stopped: Literal["end", "length", "settled"] | None = None

    @property
    def n_left(self) -> int:
        return self.n_new - len(self.tokens)

    def restart(self) -> None:
        """Forget the tokens so far, unless they are the answer."""
        if self.stopped is None:
            self.tokens.clear()
            self.log_prob = 0.0

    def extend(self, choices: Sequence[Choice]) -> None:
        """Take what belongs to the answer. Looks come at the row's own steps: no other row has a part in its answer."""
        for token, log_prob in choices:
            if self.stopped is not None:
                return
            self.tokens.append(token)
            self.log_prob += log_prob
            if token in self.ends:
                self.stopped = "end"
            elif not self.n_left:
                self.stopped = "length"
            elif self.settled is not None and len(self.tokens) % CHECK_EVERY == 0:
                # half a character at the end of the tokens so far is not part of the text yet
                self.stopped = "settled" if self.settled(self.response_text().rstrip("\ufffd")) else None

    def response(self) -> Response:
        assert self.stopped is not None
        known = self.log_prob if self.scored else None
        return Response(self.prompt.prompt.id, self.response_text(), tuple(self.tokens), self.stopped, known)

    def response_text(self) -> str:
        """The text of the tokens so far."""
        shown = [token for token in self.tokens if token not in self.dropped]
        # cleaning up spaces would change text that an earlier look has already judged
        return str(self.handle.tokenizer.decode(shown, clean_up_tokenization_spaces=False))
