"""What a comparison of direction sources found. None stands for what was not reached, or has no bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sombrero.records.edits import EditParameters, RuleName
from sombrero.records.measurements import Coherence, Measurement, Proportion

MethodName = Literal["som", "single", "k-means", "pca", "random"]
Outcome = Literal["map better", "control better", "equal", "no better", "undecided", "not reached"]
VerdictCode = Literal[
    "map_better", "several_directions", "one_direction", "no_better", "control_better", "undecided", "not_reached"
]


@dataclass(frozen=True)
class ComparisonBase:
    """The untouched model on the reporting prompts, and the tokens with which it begins its harmless answers."""

    measurement: Measurement
    continuations: tuple[tuple[int, ...], ...] = field(repr=False)


@dataclass(frozen=True)
class FrontPoint:
    """A generated trial of the front on the search prompts; rate: refused or broken answers among harmful prompts."""

    trial: int
    rate: float
    kl: float


@dataclass(frozen=True)
class MeasuredFigures:
    """A model's figures on the reporting prompts. unanswered: everything but answers (refusals too)."""

    unanswered: Proportion
    refusals: Proportion
    false_refusals: Proportion
    first_token: float
    sequence: float
    coherence: Coherence


@dataclass(frozen=True)
class MeasuredTrial:
    """A trial of the front, measured again on the reporting prompts."""

    trial: int
    parameters: EditParameters
    figures: MeasuredFigures


@dataclass(frozen=True)
class MethodFront:
    """One method with one seed: what became of its trials, its front, and what was measured again of it."""

    method: MethodName
    seed: int
    trials: Mapping[str, int]
    front: tuple[FrontPoint, ...]
    measured: tuple[MeasuredTrial, ...]


@dataclass(frozen=True)
class FrontBand:
    """First-token KL interpolated along one method's fronts on the search prompts, over its seeds.

    reached: how many seeds reach the rate; low, median and high are over these.
    """

    method: MethodName
    rates: tuple[float, ...]
    reached: tuple[int, ...]
    low: tuple[float | None, ...]
    median: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True)
class MatchedFigures:
    """One method at one refusal level on the reporting prompts, interpolated; means over the seeds that reach it."""

    method: MethodName
    level: float
    reached: int
    seeds: int
    first_token: float | None
    sequence: float | None
    perplexity: float | None
    repetition: float | None
    first_token_by_seed: tuple[float | None, ...]


@dataclass(frozen=True)
class Interval:
    """A value with its paired bootstrap 95% interval; no bound where that side stays open."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """Map − control at one level, in nats. Below 0 the map needs less. outcome follows from the first-token KL.

    margin: nats of a first-token difference that does not matter; None where the control does not reach the level.
    """

    control: MethodName
    level: float
    first_token: Interval
    sequence: Interval
    margin: float | None
    outcome: Outcome
    outcome_sequence: Outcome
    first_token_by_seed: tuple[float | None, ...]


@dataclass(frozen=True)
class ComparisonVerdict:
    """What the numbers say at the level that decides."""

    code: VerdictCode
    level: float
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """``compare.json`` (docs/formats.md)."""

    format: int
    model: str
    methods: tuple[MethodName, ...]
    seeds: tuple[int, ...]
    levels: tuple[float, ...]
    trials: int
    rules: tuple[RuleName, ...]
    units_offered: int
    best_state: int
    margin: float
    resamples: int
    prompts: Mapping[str, int]
    base: MeasuredFigures
    base_search_rate: float
    verdict: ComparisonVerdict
    differences: tuple[Difference, ...]
    matched: tuple[MatchedFigures, ...]
    bands: tuple[FrontBand, ...]
    fronts: tuple[MethodFront, ...]
