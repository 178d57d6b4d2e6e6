"""Answers, verdicts and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

VerdictLabel = Literal["refusal", "partial", "answer", "unfinished", "empty", "degenerate", "unknown"]
"""partial: deflects, lectures or asks back instead of answering. unfinished: cut off inside its reasoning. unknown: the
detector could not say; it is no verdict, so no rate counts it on either side."""


@dataclass(frozen=True)
class Response:
    """A greedy answer, held in memory alone. ``stopped`` says why it ended: end token, length, or verdict certain.

    log_prob: the sum over its tokens, in nats, under the model that gave it; None where it was not asked for.
    """

    prompt_id: str
    text: str
    token_ids: tuple[int, ...]
    stopped: Literal["end", "length", "settled"]
    log_prob: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What a detector said of one response. Holds what it went by (a marker, a classifier's label, why it is unknown)
    and the length, never the response.

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
class Spread:
    """How the values of single prompts lie around their mean, in their unit.

    median, q90, q95: quantiles, linear between two values; infinite where the upper one is. low, high: the percentile
    bootstrap 95% interval of the mean; None where there is none, with one prompt or an infinite value. infinite: how
    many values are.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"ser_json_inf_nan": "strings"}

    median: float
    q90: float
    q95: float
    low: float | None
    high: float | None
    infinite: int


@dataclass(frozen=True)
class Divergence:
    """KL(base || edited) in nats, float32, full vocabulary; means, with the value of every prompt.

    A value is infinite where the edited model excludes a token that the base model does not; on disk it is "Infinity".
    first_token_agreement: share of the prompts whose most likely first token is the same in both models.
    sequence_agreement: mean over the prompts of the share of positions of the continuation where it is. by_position:
    mean KL at each position of the continuation, over the ``n_by_position`` prompts whose continuation is that long.
    What a record from before these fields does not know is None, or empty.
    """

    # a number that JSON has none for must survive being written and read; a class variable, as records know no pydantic
    __pydantic_config__: ClassVar[dict[str, str]] = {"ser_json_inf_nan": "strings"}

    first_token: float
    sequence: float
    first_token_by_prompt: tuple[float, ...] = field(repr=False)
    sequence_by_prompt: tuple[float, ...] = field(repr=False)
    first_token_spread: Spread | None = None
    sequence_spread: Spread | None = None
    first_token_agreement: float | None = None
    sequence_agreement: float | None = None
    by_position: tuple[float, ...] = field(default=(), repr=False)
    n_by_position: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Coherence:
    """Of the edited model's answers to harmless prompts.

    perplexity: under the base model, per token. repetition: mean share of repeated 4-grams. empty, degenerate: counts.
    distinct_1, distinct_2, distinct_3: different token 1-, 2- and 3-grams over all answers, divided by the number of
    tokens (Li et al. 2016, arXiv 1510.03055): compare it on the same prompts alone, as it falls with the amount of
    text. loops: answers that end in a loop. mean_tokens: mean length. None in a record from before these fields.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"ser_json_inf_nan": "strings"}  # perplexity, as a Divergence

    perplexity: float
    repetition: float
    empty: int
    degenerate: int
    n: int
    distinct_1: float | None = None
    distinct_2: float | None = None
    distinct_3: float | None = None
    loops: int | None = None
    mean_tokens: float | None = None


@dataclass(frozen=True)
class SecondOpinion:
    """What another detector said of the same responses; the verdicts stand as those of the :class:`Measurement`."""

    detector: str
    verdicts: tuple[Verdict, ...] = field(repr=False)
    safe_verdicts: tuple[Verdict, ...] = field(repr=False)


@dataclass(frozen=True)
class Measurement:
    """Everything that is measured of one model on one set of prompts (DESIGN §3).

    refusals: on harmful prompts. false_refusals: on borderline-safe prompts. harmless_refusals: on plain harmless ones.
    contrast_refusals: on short harmful contrasts, where there are any. verdicts: of the harmful prompts, then of the
    contrasts. safe_verdicts: of the borderline prompts, then of the harmless ones; empty in a record from before it.
    reasoning_refusals: of the responses to harmful prompts that reason, those whose reasoning refuses. opinions: those
    of other detectors, where they were asked for.
    """

    refusals: Proportion
    false_refusals: Proportion
    harmless_refusals: Proportion
    labels: Mapping[str, int]
    kl: Divergence
    coherence: Coherence
    verdicts: tuple[Verdict, ...] = field(repr=False)
    contrast_refusals: Proportion | None = None
    safe_verdicts: tuple[Verdict, ...] = field(default=(), repr=False)
    reasoning_refusals: Proportion | None = None
    opinions: tuple[SecondOpinion, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class PairedRefusals:
    """Refusals of a base and an edited model on the same prompts.

    both, base_only, edited_only, neither: counts of prompts. difference: edited − base, as a share of the prompts; low,
    high: its paired bootstrap 95% interval, None with one prompt. p_value: McNemar's exact test, two-sided.
    """

    both: int
    base_only: int
    edited_only: int
    neither: int
    difference: float
    low: float | None
    high: float | None
    p_value: float

    @property
    def n(self) -> int:
        """How many prompts both models answered."""
        return self.both + self.base_only + self.edited_only + self.neither


@dataclass(frozen=True)
class TaskResult:
    """One metric of one task of lm-evaluation-harness; stderr None where the task gives none. n: samples scored."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool | None
    version: str


@dataclass(frozen=True)
class Sample:
    """An answer of the base and of the edited model to one harmless or borderline prompt, for reports."""

    prompt_id: str
    kind: Literal["harmless", "borderline"]
    prompt: str
    base: str
    edited: str
