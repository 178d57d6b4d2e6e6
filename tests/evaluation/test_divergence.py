"""KL against an independent float64 computation, teacher forcing against one position at a time."""

from __future__ import annotations

import math

import pytest
import torch

from sombrero.errors import NumericalError, PromptError, UsageError
from sombrero.evaluation import base_continuations, first_token_log_probs, kl, measure_divergence, sequence_kl
from sombrero.evaluation import divergence as divergence_module
from sombrero.records import Divergence, ModelHandle
from tests.evaluation.subjects import LiveSubjects, as_subject, random_prompts, tiny_handle
from tests.tiny_models import FAMILIES


def log_probs_one_by_one(handle: ModelHandle, tokens: tuple[int, ...]) -> torch.Tensor:
    """The log-probs of the token after ``tokens``, ``(vocab,)`` float64, without padding, batch or cache."""
    with torch.no_grad():
        logits = handle.model(input_ids=torch.tensor([tokens])).logits[0, -1]
    return logits.double().log_softmax(dim=-1)


def kl_float64(base: torch.Tensor, edited: torch.Tensor) -> float:
    total = 0.0
    for p, q in zip(base.tolist(), edited.tolist(), strict=True):
        total += 0.0 if p == -math.inf else math.exp(p) * (p - q)
    return total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_first_token_log_probs(family: str, batch_tokens: int) -> None:
    handle, prompts = tiny_handle(family), random_prompts()
    found = first_token_log_probs(handle, prompts, batch_tokens=batch_tokens)
    expected = torch.stack([log_probs_one_by_one(handle, prompt.token_ids) for prompt in prompts])
    assert found.dtype == torch.float32 and found.device.type == "cpu"
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("n", [1, 7])
def test_kl_equals_float64(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    base = (5 * torch.randn(n, 50_000, generator=generator)).log_softmax(dim=-1)
    edited = (base + 0.3 * torch.randn(n, 50_000, generator=generator)).log_softmax(dim=-1)
    expected = [kl_float64(b, e) for b, e in zip(base.double(), edited.double(), strict=True)]
    found = kl(base, edited)
    assert found.shape == (n,) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_kl_of_excluded_tokens() -> None:
    half = math.log(0.5)
    base = torch.tensor([[half, half, -math.inf]])
    assert kl(base, torch.tensor([[half, math.log(0.25), math.log(0.25)]])).item() == pytest.approx(0.5 * math.log(2))
    assert kl(base, base).item() == 0.0
    assert kl(base, torch.tensor([[0.0, -math.inf, -math.inf]])).item() == math.inf


def test_kl_is_never_negative() -> None:
    base = torch.randn(200, 997, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
    nearly = base * (1 + 1e-7)
    assert (kl(base, nearly) >= 0).all()


def test_kl_wants_equal_shapes() -> None:
    with pytest.raises(UsageError, match=r"\(2, 3\) and \(2, 4\)"):
        kl(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [1, 2**26])
def test_sequence_kl(family: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean over the continuation, the position before its first token included; continuations of unequal lengths."""
    monkeypatch.setattr(divergence_module, "LOGITS_BUDGET", budget)
    monkeypatch.setattr(divergence_module, "POSITIONS_AT_ONCE", 3)
    prompts = random_prompts()
    base, edited = tiny_handle(family), tiny_handle(family, seed=1)
    continuations = [tuple(range(10, 11 + i % 6)) for i in range(len(prompts))]
    found = sequence_kl(as_subject(base), as_subject(edited), prompts, continuations, batch_tokens=70)
    for value, prompt, continuation in zip(found.tolist(), prompts, continuations, strict=True):
        expected = []
        for n in range(len(continuation)):
            tokens = (*prompt.token_ids, *continuation[:n])
            expected.append(kl_float64(log_probs_one_by_one(base, tokens), log_probs_one_by_one(edited, tokens)))
        assert value == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_continuations_are_the_greedy_answers() -> None:
    handle, prompts = tiny_handle(), random_prompts()
    for prompt, continuation in zip(prompts, base_continuations(handle, prompts, 5), strict=True):
        tokens = prompt.token_ids
        for token in continuation:
            assert log_probs_one_by_one(handle, tokens).argmax().item() == token
            tokens = (*tokens, token)


def test_live_subjects_are_never_open_at_once() -> None:
    prompts = random_prompts()
    live = LiveSubjects(tiny_handle())
    continuations = base_continuations(live.handle, prompts, 6)
    divergence = measure_divergence(live.base, live.edited, prompts, continuations, batch_tokens=60)
    assert live.entered.count("base") > 2 and live.entered.count("edited") > 2

    plain = first_token_log_probs(live.handle, prompts)
    with live.edited() as handle:
        hooked = first_token_log_probs(handle, prompts)
    torch.testing.assert_close(torch.tensor(divergence.first_token_by_prompt), kl(plain, hooked), rtol=1e-3, atol=1e-6)
    assert divergence.first_token == pytest.approx(kl(plain, hooked).mean().item(), rel=1e-3)
    assert divergence.first_token > 0.01
    assert divergence.sequence == pytest.approx(sum(divergence.sequence_by_prompt) / len(prompts), rel=1e-5)
    expected = sequence_kl(live.base, live.edited, prompts, continuations)
    torch.testing.assert_close(torch.tensor(divergence.sequence_by_prompt), expected, rtol=1e-3, atol=1e-6)


def test_a_model_does_not_diverge_from_itself() -> None:
    prompts = random_prompts()
    live = LiveSubjects(tiny_handle(), factor=1.0)
    continuations = base_continuations(live.handle, prompts, 4)
    assert measure_divergence(live.base, live.edited, prompts, continuations).sequence == 0.0
    base = as_subject(live.handle)
    same = measure_divergence(base, base, prompts, continuations)
    assert (same.first_token, same.sequence, len(same.sequence_by_prompt)) == (0.0, 0.0, len(prompts))


def test_agreement_and_place_of_the_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one position at a time; continuations of unequal lengths, so fewer prompts reach the later positions."""
    monkeypatch.setattr(divergence_module, "POSITIONS_AT_ONCE", 3)
    prompts = random_prompts()[:5]
    base, edited = tiny_handle(), tiny_handle(seed=1)
    continuations = [tuple(range(10, 11 + i)) for i in range(len(prompts))]
    found = measure_divergence(as_subject(base), as_subject(edited), prompts, continuations, batch_tokens=70)
    values: list[list[float]] = [[] for _ in prompts]
    same: list[list[float]] = [[] for _ in prompts]
    for i, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        for n in range(len(continuation)):
            tokens = (*prompt.token_ids, *continuation[:n])
            one, other = log_probs_one_by_one(base, tokens), log_probs_one_by_one(edited, tokens)
            values[i].append(kl_float64(one, other))
            same[i].append(float(one.argmax() == other.argmax()))
    assert found.n_by_position == (5, 4, 3, 2, 1)
    expected = [sum(column) / len(column) for column in ([v[p] for v in values if len(v) > p] for p in range(5))]
    assert found.by_position == pytest.approx(expected, rel=1e-4)
    assert found.first_token_agreement == sum(row[0] for row in same) / 5
    assert found.sequence_agreement == pytest.approx(sum(sum(row) / len(row) for row in same) / 5)
    assert found.first_token_spread is not None and found.first_token_spread.low is not None
    assert found.first_token_spread.low < found.first_token < (found.first_token_spread.high or 0)


def test_one_prompt_is_enough() -> None:
    base, edited, prompts = tiny_handle(), tiny_handle(seed=1), random_prompts()[:1]
    found = measure_divergence(as_subject(base), as_subject(edited), prompts, [(3,)])
    assert found.first_token == found.sequence == found.first_token_by_prompt[0] > 0
    assert found.first_token_spread is not None
    assert found.first_token_spread.median == found.first_token and found.first_token_spread.low is None
    assert (found.by_position, found.n_by_position) == ((found.first_token,), (1,))


def exclude(handle: ModelHandle, *tokens: int) -> ModelHandle:
    """The model with logits of −inf for some tokens, as a head with a constrained vocabulary gives."""
    head = handle.model.get_output_embeddings()

    def hook(_module: object, _args: object, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., list(tokens)] = -math.inf
        return logits

    head.register_forward_hook(hook)
    return handle


def test_excluded_tokens() -> None:
    """Both exclude: finite. The base alone: finite. The edited alone: infinite, and counted."""
    prompts, continuations = random_prompts()[:3], [(1, 2), (3, 4), (5,)]

    def diverge(base: ModelHandle, edited: ModelHandle) -> Divergence:
        return measure_divergence(as_subject(base), as_subject(edited), prompts, continuations)

    plain, other = tiny_handle(), tiny_handle(seed=1)
    assert math.isfinite(diverge(exclude(tiny_handle(), 7, 8), exclude(tiny_handle(seed=1), 7, 8)).sequence)
    assert math.isfinite(diverge(exclude(tiny_handle(), 7), other).sequence)
    found = diverge(plain, exclude(tiny_handle(seed=1), 7))
    assert found.first_token == found.sequence == math.inf
    assert found.first_token_spread is not None and found.first_token_spread.infinite == 3
    assert found.by_position == (math.inf, math.inf)


def test_logits_that_are_no_numbers_are_an_error() -> None:
    prompts = random_prompts()[:2]
    broken = exclude(tiny_handle(), *range(tiny_handle().model.config.vocab_size))
    with pytest.raises(NumericalError, match=r"'p\d' are NaN"):
        measure_divergence(as_subject(tiny_handle()), as_subject(broken), prompts, [(1,), (2,)])


def test_wrong_arguments_are_said() -> None:
    handle, prompts = tiny_handle(), random_prompts()
    subject = as_subject(handle)
    with pytest.raises(UsageError, match="at least one"):
        first_token_log_probs(handle, ())
    with pytest.raises(UsageError, match="12 prompts and 1 continuations"):
        sequence_kl(subject, subject, prompts, [(1, 2)])
    with pytest.raises(UsageError, match="at least one token"):
        sequence_kl(subject, subject, prompts, [()] * len(prompts))
    with pytest.raises(PromptError, match="context of 512"):
        sequence_kl(subject, subject, prompts, [(1,) * 500] * len(prompts))
