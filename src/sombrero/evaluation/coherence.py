"""Whether the edited model's harmless answers still read as language."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from sombrero.errors import UsageError
from sombrero.evaluation.degenerate import repeated_share
from sombrero.evaluation.divergence import continuation_batches, continuation_log_probs
from sombrero.records import Coherence, RenderedPrompt, Response, Subject, Verdict


def perplexity(
    base: Subject,
    prompts: Sequence[RenderedPrompt],
    responses: Sequence[Response],
    *,
    batch_tokens: int = 4096,
    on_progress: Callable[[int], None] | None = None,
) -> float:
    """Perplexity of the responses under the base model, each given its prompt: exp of the mean over all answer tokens.

    An end token counts as an answer token. Raises UsageError when there is no response.
    """
    answers = [response.token_ids for response in responses]
    total, n_tokens = 0.0, 0
    with base() as handle:
        for batch in continuation_batches(handle, prompts, answers, batch_tokens):
            log_probs = continuation_log_probs(handle, [prompts[i] for i in batch], [answers[i] for i in batch])
            tokens = torch.tensor([t for i in batch for t in answers[i]], device=log_probs.device)
            total -= float(log_probs.gather(1, tokens[:, None]).double().sum())
            n_tokens += len(tokens)
            if on_progress is not None:
                on_progress(len(batch))
    return math.exp(total / n_tokens)


def measure_coherence(
    base: Subject,
    prompts: Sequence[RenderedPrompt],
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    *,
    batch_tokens: int = 4096,
) -> Coherence:
    """Perplexity under ``base``, mean share of repeated token 4-grams, and counts of empty and degenerate answers.

    prompts, responses and verdicts belong together, one of each for every harmless prompt. Raises UsageError when
    they do not.
    """
    if not len(prompts) == len(responses) == len(verdicts):
        raise UsageError(
            f"{len(prompts)} prompts, {len(responses)} responses and {len(verdicts)} verdicts; give one of each"
        )
    value = perplexity(base, prompts, responses, batch_tokens=batch_tokens)
    labels = [verdict.label for verdict in verdicts]
    return Coherence(
        perplexity=value,
        repetition=sum(repeated_share(response.token_ids) for response in responses) / len(responses),
        empty=labels.count("empty"),
        degenerate=labels.count("degenerate"),
        n=len(responses),
    )
