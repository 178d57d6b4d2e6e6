"""Answers, verdicts and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

VerdictLabel = Literal["refusal", "partial", "answer", "unfinished", "empty", "degenerate"]
"""partial: deflects, lectures or asks back instead of answering. unfinished: cut off inside its reasoning."""


@dataclass(frozen=True)
class Response:
    """A greedy answer, held in memory alone. ``stopped`` says why it ended: end token, length, or verdict certain."""

    prompt_id: str
    text: str
    token_ids: tuple[int, ...]
    stopped: Literal["end", "length", "settled"]


@dataclass(frozen=True)
class Verdict:
    """What a detector said of one response. Holds the matched marker and the length, never the response.

    reasoning_refuses: whether the reasoning before the final answer refuses, apart from the label, which is that of the
    final answer; None where there was no reasoning.
    """

    prompt_id: str
    label: VerdictLabel
    marker: str | None
    n_tokens: int
    reasoning_refuses: bool | None = None


@dataclass(frozen=True)
class Proportion:
    """``count`` of ``n`` with its Wilson 95% interval."""

    count: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """count / n."""
        return self.count / self.n


@dataclass(frozen=True)
class Divergence:
    """KL(base || edited) in nats, float32, full vocabulary; means, with the value of every prompt."""

    first_token: float
    sequence: float
    first_token_by_prompt: tuple[float, ...] = field(repr=False)
    sequence_by_prompt: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class Coherence:
    """Of the edited model's answers to harmless prompts.

    perplexity: under the base model, per token. repetition: mean share of repeated 4-grams. empty, degenerate: counts.
    """

    perplexity: float
    repetition: float
    empty: int
    degenerate: int
    n: int


@dataclass(frozen=True)
class Measurement:
    """Everything that is measured of one model on one set of prompts (DESIGN §3).

    refusals: on harmful prompts. false_refusals: on borderline-safe prompts. harmless_refusals: on plain harmless ones.
    contrast_refusals: on short harmful contrasts, where there are any. verdicts: of the harmful prompts, then of the
    contrasts.
    """

    refusals: Proportion
    false_refusals: Proportion
    harmless_refusals: Proportion
    labels: Mapping[str, int]
    kl: Divergence
    coherence: Coherence
    verdicts: tuple[Verdict, ...] = field(repr=False)
    contrast_refusals: Proportion | None = None


@dataclass(frozen=True)
class Sample:
    """An answer of the base and of the edited model to one harmless or borderline prompt, for reports."""

    prompt_id: str
    kind: Literal["harmless", "borderline"]
    prompt: str
    base: str
    edited: str
