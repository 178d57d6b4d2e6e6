"""Perplexity against one position at a time; repetition and counts against hand-made answers."""

from __future__ import annotations

import math

import pytest
import torch

from sombrero.errors import UsageError
from sombrero.evaluation import distinct_share, generate, measure_coherence, perplexity
from sombrero.evaluation.coherence import own_perplexity
from sombrero.evaluation.degenerate import repeated_share
from sombrero.records import Response, Verdict
from tests.evaluation.subjects import as_subject, random_prompts, tiny_handle


@pytest.mark.parametrize("batch_tokens", [1, 50, 4096])
def test_perplexity_is_per_answer_token(batch_tokens: int) -> None:
    base, edited, prompts = tiny_handle(), tiny_handle(seed=1), random_prompts()
    edited.model.generation_config.eos_token_id = list(range(40))
    answers = generate(edited, prompts, max_new_tokens=9)
    assert len({len(answer.token_ids) for answer in answers}) > 2
    losses = []
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = torch.tensor([(*prompt.token_ids, *answer.token_ids)])
        with torch.no_grad():
            log_probs = base.model(input_ids=tokens).logits[0].double().log_softmax(dim=-1)
        start = len(prompt.token_ids)
        losses += [-log_probs[start + i - 1, token].item() for i, token in enumerate(answer.token_ids)]
    found = perplexity(as_subject(base), prompts, answers, batch_tokens=batch_tokens)
    assert found == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


def test_a_model_finds_its_own_answers_likeliest() -> None:
    base, edited, prompts = tiny_handle(), tiny_handle(seed=1), random_prompts()
    own = perplexity(as_subject(base), prompts, generate(base, prompts, max_new_tokens=9))
    others = perplexity(as_subject(base), prompts, generate(edited, prompts, max_new_tokens=9))
    assert 1 <= own < others


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_models_own_perplexity_comes_with_its_answers(batch_size: int) -> None:
    """Rows end at different steps and others take their places: each keeps the log-probability of its own tokens."""
    base, prompts = tiny_handle(), random_prompts()
    base.model.generation_config.eos_token_id = list(range(40))
    answers = generate(base, prompts, max_new_tokens=9, batch_size=batch_size, log_probs=True)
    assert len({len(answer.token_ids) for answer in answers}) > 2
    for prompt, answer in zip(prompts, answers, strict=True):
        alone = perplexity(as_subject(base), [prompt], [answer])
        assert own_perplexity([answer]) == pytest.approx(alone, rel=1e-4)
    assert own_perplexity(answers) == pytest.approx(perplexity(as_subject(base), prompts, answers), rel=1e-4)


def test_a_broken_model_has_no_perplexity_and_loses_nothing_else() -> None:
    """NaN in, NaN out: what else was measured of it is not thrown away."""
    broken, prompts = tiny_handle(), random_prompts()
    with torch.no_grad():
        broken.model.get_output_embeddings().weight.fill_(torch.nan)
    answers = generate(broken, prompts, max_new_tokens=2, log_probs=True)
    assert all(answer.log_prob is not None for answer in answers) and math.isnan(own_perplexity(answers))


def test_answers_without_log_probabilities_have_no_perplexity_of_their_own() -> None:
    base, prompts = tiny_handle(), random_prompts()
    (with_one,) = generate(base, prompts[:1], max_new_tokens=2, log_probs=True)
    without = generate(base, prompts[1:], max_new_tokens=2)
    assert with_one.log_prob is not None and with_one.log_prob < 0 and without[0].log_prob is None
    with pytest.raises(UsageError, match=f"1 of {len(prompts)} responses have a log-probability"):
        own_perplexity([with_one, *without])
    with pytest.raises(UsageError, match="0 of 0"):
        own_perplexity([])


@pytest.mark.parametrize(
    ("tokens", "share"),
    [((), 0.0), ((1, 2, 3), 0.0), (tuple(range(9)), 0.0), ((7,) * 13, 0.9), ((1, 2, 3, 4) * 2, 0.2)],
)
def test_repeated_share(tokens: tuple[int, ...], share: float) -> None:
    assert repeated_share(tokens) == pytest.approx(share)


@pytest.mark.parametrize(
    ("answers", "n", "share"),
    [
        ([(1, 2, 3)], 1, 1.0),
        ([(1, 2, 3)], 2, 2 / 3),  # two of the three tokens begin a bigram
        ([(1, 2), (1, 2)], 1, 0.5),
        ([(1, 2), (2, 1)], 2, 0.5),  # (2, 2), over the border of two answers, is none
        ([(7,) * 10], 3, 0.1),
        ([(4,)], 3, 0.0),
        ([()], 1, 0.0),
    ],
)
def test_distinct_share(answers: list[tuple[int, ...]], n: int, share: float) -> None:
    assert distinct_share(answers, n) == pytest.approx(share)


def test_counts_and_means() -> None:
    base, prompts = tiny_handle(), random_prompts()[:3]
    texts = ["fine", "", "once and for all " * 12]
    tokens = [tuple(range(9)), (258,), (7,) * 13]
    responses = [Response(p.prompt.id, t, k, "end") for p, t, k in zip(prompts, texts, tokens, strict=True)]
    labels = ("answer", "empty", "degenerate")
    verdicts = [Verdict(p.prompt.id, label, None, 1) for p, label in zip(prompts, labels, strict=True)]
    found = measure_coherence(as_subject(base), prompts, responses, verdicts)
    assert (found.empty, found.degenerate, found.n) == (1, 1, 3)
    assert found.repetition == pytest.approx(0.3)
    assert (found.loops, found.mean_tokens) == (1, pytest.approx(23 / 3))
    assert (found.distinct_1, found.distinct_2) == (pytest.approx(10 / 23), pytest.approx(9 / 23))
    with pytest.raises(UsageError, match="3 prompts, 2 responses"):
        measure_coherence(as_subject(base), prompts, responses[:2], verdicts)
