"""How far an edited model's next-token distributions are from the base model's: KL(base || edited) in nats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from sombrero.errors import NumericalError, UsageError
from sombrero.evaluation.generate import generate
from sombrero.evaluation.statistics import summarize_values
from sombrero.models.batches import Forward, prepare_batch, require_room, token_batches
from sombrero.models.cache import Beginning
from sombrero.records import Divergence, ModelHandle, RenderedPrompt, Subject

LOGITS_BUDGET = 2**24
"""Elements of log-probs held of one model at a time (64 MiB in float32); one row is always allowed."""
POSITIONS_AT_ONCE = 256
"""Rows of logits turned to float32 at a time: the float32 copies stay small beside the logits themselves."""


def first_token_log_probs(
    handle: ModelHandle, prompts: Sequence[RenderedPrompt], *, batch_tokens: int = 4096
) -> torch.Tensor:
    """Log-probs of the first generated token, ``(n, vocab)`` float32 on the CPU, in the order of the prompts.

    Raises PromptError for a prompt that is empty or too long, UsageError when there is none.
    """
    if not prompts:
        raise UsageError("there are no prompts to take log-probs of; give at least one")
    require_room(handle, prompts, 0)
    forward = Forward(handle.model)
    found: torch.Tensor | None = None
    with torch.inference_mode():
        for batch in token_batches([len(prompt.token_ids) for prompt in prompts], batch_tokens):
            logits = forward.last_logits(prepare_batch(handle, [prompts[i].token_ids for i in batch]), 1)
            rows = torch.log_softmax(logits[:, -1].float(), dim=-1).cpu()
            if found is None:
                found = torch.empty(len(prompts), rows.shape[-1])
            found[batch] = rows
    assert found is not None
    return found


def kl(base_log_probs: torch.Tensor, edited_log_probs: torch.Tensor) -> torch.Tensor:
    """KL(base || edited) ``(n,)`` float32 in nats of log-probs ``(n, vocab)``, over the full vocabulary.

    A token that the base model excludes (-inf) adds nothing; one that only the edited model excludes makes the
    divergence infinite. KL is never negative: what rounding pushes below 0 is clamped to 0.

    Raises UsageError when the shapes differ.
    """
    if base_log_probs.shape != edited_log_probs.shape or base_log_probs.dim() != 2:
        raise UsageError(
            f"log-probs of shape {tuple(base_log_probs.shape)} and {tuple(edited_log_probs.shape)} cannot be compared; "
            "give (n, vocab) of the same prompts and tokenizer"
        )
    base, edited = base_log_probs.float(), edited_log_probs.to(base_log_probs.device).float()
    terms = base.exp() * (base - edited)
    return torch.where(torch.isneginf(base), 0.0, terms).sum(dim=-1).clamp(min=0.0)


def base_continuations(
    handle: ModelHandle, prompts: Sequence[RenderedPrompt], n_tokens: int, *, batch_size: int = 64
) -> tuple[tuple[int, ...], ...]:
    """The model's own greedy continuation of each prompt: at most ``n_tokens``, an end token included."""
    responses = generate(handle, prompts, max_new_tokens=n_tokens, batch_size=batch_size)
    return tuple(response.token_ids for response in responses)


def continuation_log_probs(
    handle: ModelHandle,
    prompts: Sequence[RenderedPrompt],
    continuations: Sequence[Sequence[int]],
    known: KnownBeginning | None = None,
) -> torch.Tensor:
    """Teacher-forced log-probs at every position that predicts a continuation token, the first one included.

    Returns ``(sum of the continuations' lengths, vocab)`` float32 on the model's device, one prompt after another. The
    model sees all rows as one batch; logits are computed at the needed positions only. ``known`` is what the model, as
    it is now edited, made of an earlier batch's common beginning; it is kept there for the next one.
    """
    known = known or KnownBeginning()
    rows = [(*p.token_ids, *c[:-1]) for p, c in zip(prompts, continuations, strict=True)]
    lengths = torch.tensor([len(c) for c in continuations])
    n_last = int(lengths.max())
    with torch.inference_mode():
        batch = prepare_batch(handle, rows, n_last=n_last, beginning=known.beginning)
        known.beginning = batch.beginning or known.beginning
        logits = Forward(handle.model).last_logits(batch, n_last)
        needed = torch.arange(n_last) >= n_last - lengths[:, None]
        kept = logits[needed.to(logits.device)]
        found = torch.empty(kept.shape, dtype=torch.float32, device=kept.device)
        for start in range(0, len(kept), POSITIONS_AT_ONCE):
            part = slice(start, start + POSITIONS_AT_ONCE)
            torch.log_softmax(kept[part].float(), dim=-1, out=found[part])
    return found


@dataclass
class KnownBeginning:
    """The keys and values of the beginning that all rows share, once a batch has made them."""

    beginning: Beginning | None = None


def continuation_batches(
    handle: ModelHandle,
    prompts: Sequence[RenderedPrompt],
    continuations: Sequence[Sequence[int]],
    batch_tokens: int,
) -> Iterator[list[int]]:
    """Indices in batches whose tokens stay within ``batch_tokens`` and whose log-probs stay within LOGITS_BUDGET.

    Raises UsageError when prompts and continuations do not pair up, and PromptError for a row that does not fit.
    """
    if not prompts or len(prompts) != len(continuations) or not all(continuations):
        raise UsageError(
            f"{len(prompts)} prompts and {len(continuations)} continuations; give one continuation, of at least "
            "one token, for each prompt"
        )
    longest = max(len(c) for c in continuations)
    require_room(handle, prompts, longest)
    vocabulary = handle.model.get_output_embeddings().weight.shape[0]
    max_rows = max(1, LOGITS_BUDGET // (longest * vocabulary))
    lengths = [len(p.token_ids) + len(c) for p, c in zip(prompts, continuations, strict=True)]
    return token_batches(lengths, batch_tokens, max_rows)


@dataclass(frozen=True)
class PositionValues:
    """Of one prompt, at each position of its continuation, on the CPU.

    kl ``(n,)`` float32, nats. agrees ``(n,)`` bool: both models find the same token most likely.
    """

    kl: torch.Tensor
    agrees: torch.Tensor


def sequence_kl(
    base: Subject,
    edited: Subject,
    prompts: Sequence[RenderedPrompt],
    continuations: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 4096,
) -> torch.Tensor:
    """KL(base || edited) ``(n,)`` float32 in nats, mean per token along the base model's own continuation.

    The two subjects are never open at once, as they may be one model with and without hooks.
    Raises what :func:`continuation_batches` raises, and NumericalError where logits are NaN.
    """
    found = _compare_positions(base, edited, prompts, continuations, batch_tokens, None)
    return torch.stack([values.kl.mean() for values in found])


def measure_divergence(
    base: Subject,
    edited: Subject,
    prompts: Sequence[RenderedPrompt],
    continuations: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 4096,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Divergence:
    """First-token and sequence KL over the prompts, from the same forward passes.

    The first continuation position is the first generated token; ``seed`` draws the resamples of the means' intervals.
    Raises what :func:`continuation_batches` raises, and NumericalError where logits are NaN.
    """
    return summarize_divergence(
        _compare_positions(base, edited, prompts, continuations, batch_tokens, on_progress), seed=seed
    )


def summarize_divergence(found: Sequence[PositionValues], *, seed: int = 0) -> Divergence:
    """Means, spreads, agreement and the mean by position, of the values of at least one prompt."""
    first = [float(values.kl[0]) for values in found]
    sequence = [float(values.kl.mean()) for values in found]
    longest = max(len(values.kl) for values in found)
    # in double precision: float32 would lose digits over thousands of prompts
    at = [torch.stack([v.kl[place] for v in found if len(v.kl) > place]).double() for place in range(longest)]
    return Divergence(
        first_token=float(torch.tensor(first, dtype=torch.float64).mean()),
        sequence=float(torch.tensor(sequence, dtype=torch.float64).mean()),
        first_token_by_prompt=tuple(first),
        sequence_by_prompt=tuple(sequence),
        first_token_spread=summarize_values(first, seed=seed),
        sequence_spread=summarize_values(sequence, seed=seed),
        first_token_agreement=sum(bool(values.agrees[0]) for values in found) / len(found),
        sequence_agreement=sum(float(values.agrees.double().mean()) for values in found) / len(found),
        by_position=tuple(float(values.mean()) for values in at),
        n_by_position=tuple(map(len, at)),
    )


def no_divergence(n: int) -> Divergence:
    """That of a model from itself on ``n`` prompts, without a forward pass, and so without positions."""
    found = summarize_divergence([PositionValues(torch.zeros(1), torch.ones(1, dtype=torch.bool))] * n)
    return replace(found, by_position=(), n_by_position=())


def _compare_positions(
    base: Subject,
    edited: Subject,
    prompts: Sequence[RenderedPrompt],
    continuations: Sequence[Sequence[int]],
    batch_tokens: int,
    on_progress: Callable[[int], None] | None,
) -> list[PositionValues]:
    """For every prompt the values at each position of its continuation."""
    with base() as handle:
        batches = list(continuation_batches(handle, prompts, continuations, batch_tokens))
    found: dict[int, PositionValues] = {}
    of_base, of_edited = KnownBeginning(), KnownBeginning()
    for batch in batches:
        rows, targets = [prompts[i] for i in batch], [continuations[i] for i in batch]
        with base() as handle:
            expected = continuation_log_probs(handle, rows, targets, of_base)
        with edited() as handle:
            measured = continuation_log_probs(handle, rows, targets, of_edited)
        pairs = list(zip(expected.split(POSITIONS_AT_ONCE), measured.split(POSITIONS_AT_ONCE), strict=True))
        values = torch.cat([kl(b, e) for b, e in pairs]).cpu()
        agrees = torch.cat([b.argmax(dim=-1).cpu() == e.argmax(dim=-1).cpu() for b, e in pairs])
        lengths = [len(tokens) for tokens in targets]
        for i, own, same in zip(batch, values.split(lengths), agrees.split(lengths), strict=True):
            if own.isnan().any():
                raise NumericalError(
                    f"a model's logits on prompt {prompts[i].prompt.id!r} are NaN, so its divergence is none; load it "
                    "in float32, or weaken the edit"
                )
            found[i] = PositionValues(own, same)
        if on_progress is not None:
            on_progress(len(batch))
    return [found[i] for i in range(len(prompts))]
