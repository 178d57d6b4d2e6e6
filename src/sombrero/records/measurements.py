"""Answers, verdicts and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

VerdictLabel = Literal["refusal", "answer", "empty", "degenerate", "unknown"]
"""``unknown``: the detector could not say. It is no verdict, so no rate counts it on either side."""


@dataclass(frozen=True)
class Response:
    """A greedy answer, held in memory alone. ``stopped`` says why it ended: end token, length, or verdict certain."""

    prompt_id: str
    text: str
    token_ids: tuple[int, ...]
    stopped: Literal["end", "length", "settled"]


@dataclass(frozen=True)
class Verdict:
    """What a detector said of one response. Holds what it went by (a marker, a classifier's label, why it is unknown)
    and the length, never the response."""

    prompt_id: str
    label: VerdictLabel
    marker: str | None
    n_tokens: int


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
