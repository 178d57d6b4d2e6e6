"""Whether the edited model's harmless answers still read as language."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from sombrero.errors import UsageError
from sombrero.evaluation.degenerate import find_fault, repeated_share
from sombrero.evaluation.divergence import KnownBeginning, continuation_batches, continuation_log_probs
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
    total, n_tokens, known = 0.0, 0, KnownBeginning()
    with base() as handle:
        for batch in continuation_batches(handle, prompts, answers, batch_tokens):
            log_probs = continuation_log_probs(handle, [prompts[i] for i in batch], [answers[i] for i in batch], known)
            tokens = torch.tensor([t for i in batch for t in answers[i]], device=log_probs.device)
            total -= float(log_probs.gather(1, tokens[:, None]).double().sum())
            n_tokens += len(tokens)
            if on_progress is not None:
                on_progress(len(batch))
    return math.exp(total / n_tokens)


def own_perplexity(responses: Sequence[Response]) -> float:
    """The same of responses to the model that gave them, from the log-probabilities that they were generated with.

    Raises UsageError when there is no response, or one without.
    """
    known = [response.log_prob for response in responses if response.log_prob is not None]
    if not known or len(known) < len(responses):
        raise UsageError(f"{len(known)} of {len(responses)} responses have a log-probability; generate them with it")
    return math.exp(-sum(known) / sum(len(response.token_ids) for response in responses))


def measure_coherence(
    base: Subject | None,
    prompts: Sequence[RenderedPrompt],
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    *,
    batch_tokens: int = 4096,
) -> Coherence:
    """Perplexity under ``base``, repetition, variety and length of the answers, counts of empty and broken ones.

    base: None where the answers are its own and bring their log-probabilities, so that nothing is run again.

    prompts, responses and verdicts belong together, one of each for every harmless prompt. Raises UsageError when
    they do not.
    """
    if not len(prompts) == len(responses) == len(verdicts):
        raise UsageError(
            f"{len(prompts)} prompts, {len(responses)} responses and {len(verdicts)} verdicts; give one of each"
        )
    if base is None:
        value = own_perplexity(responses)
    else:
        value = perplexity(base, prompts, responses, batch_tokens=batch_tokens)
    labels = [verdict.label for verdict in verdicts]
    answers = [response.token_ids for response in responses]
    return Coherence(
        perplexity=value,
        repetition=sum(map(repeated_share, answers)) / len(answers),
        empty=labels.count("empty"),
        degenerate=labels.count("degenerate"),
        n=len(responses),
        distinct_1=distinct_share(answers, 1),
        distinct_2=distinct_share(answers, 2),
        distinct_3=distinct_share(answers, 3),
        loops=sum(find_fault(response.text) == "loop" for response in responses),
        mean_tokens=sum(map(len, answers)) / len(answers),
    )


def distinct_share(answers: Sequence[tuple[int, ...]], n: int) -> float:
    """distinct-n: different n-grams over all answers, divided by the number of tokens (Li et al. 2016, §5.1).

    No n-gram reaches over two answers. 0 where there is no token.
    """
    grams = {answer[i : i + n] for answer in answers for i in range(len(answer) - n + 1)}
    return len(grams) / max(1, sum(map(len, answers)))
