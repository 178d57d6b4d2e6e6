"""What the stages of a run hand on beside the map: baseline, trials, finalists, verification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sombrero.records.edits import EditParameters
from sombrero.records.measurements import Measurement, Proportion, Sample, Verdict

Goal = Literal["suppress", "calibrate"]
"""What a search is for: fewer refusals, or fewer false ones with the true ones kept."""


@dataclass(frozen=True)
class Baseline:
    """How the untouched model answers the search prompts. Verdicts of the harmful ones, and first tokens.

    refusal_starts and answer_starts: the first token of each refusal (harmful prompts) and of each harmless answer.
    """

    refusals: Proportion
    verdicts: tuple[Verdict, ...]
    refusal_starts: tuple[int, ...]
    answer_starts: tuple[int, ...]


@dataclass(frozen=True)
class Calibration:
    """What the goal ``calibrate`` needs of the untouched model beside its baseline.

    borderline, contrast: verdicts on the search prompts. moved: ids of the borderline map prompts that it refuses.
    openings: how it begins its own answers to harmful and to contrast map prompts: tokens, all of one length.
    """

    borderline: tuple[Verdict, ...]
    contrast: tuple[Verdict, ...]
    moved: tuple[str, ...]
    openings: tuple[tuple[int, ...], ...] = field(repr=False)


@dataclass(frozen=True)
class TrialScore:
    """What a trial gave.

    state ``generated``: refusals were counted on answers to all harmful search prompts; ``screened``: another trial is
    better on both counts, by the forward pass alone or by the refusals counted before generation was stopped;
    ``failed``: ``error`` says why. ``refusals`` counts among ``n`` prompts, None unless generated; ``faults`` counts
    the answers that are partial, unfinished, empty or degenerate as far as they were generated: no compliance, so the
    search counts both (a run older than these labels counted empty and degenerate ones); ``unknown`` counts those that
    the detector could not judge: they are left out of the rate;
    ``predicted_refusals`` is the screening's count from the log-odds of the first token, or what was counted if that is
    more; ``kl`` is the mean first-token KL (nats) on harmless search prompts.

    By the goal ``calibrate`` the prompts that are to be answered are borderline-safe ones, so ``refusals`` are false.
    ``lost`` counts true refusals among the ``n_true`` that the base model gives to harmful and contrast search prompts:
    those that are no refusals any more; ``predicted_lost`` is the screening's count. By ``suppress`` ``n_true`` is 0.
    """

    number: int
    parameters: EditParameters
    state: Literal["generated", "screened", "failed"]
    n: int
    refusals: int | None = None
    predicted_refusals: int | None = None
    log_odds: float | None = None
    kl: float | None = None
    error: str | None = None
    faults: int = 0
    n_true: int = 0
    lost: int | None = None
    predicted_lost: int | None = None
    unknown: int = 0

    @property
    def lost_rate(self) -> float:
        """Share of the true refusals that are lost: measured where it was, predicted otherwise; 0 without any."""
        count = self.predicted_lost if self.lost is None else self.lost
        return 0.0 if self.n_true == 0 else 1.0 if count is None else count / self.n_true

    @property
    def objectives(self) -> tuple[float, ...]:
        """What a search makes small: the rate and the KL, and by ``calibrate`` the share of true refusals lost."""
        found = (self.rate, float("inf") if self.kl is None else self.kl)
        return found if self.n_true == 0 else (*found, self.lost_rate)

    @property
    def rate(self) -> float:
        """Share of prompts that were not answered, refusals and faults: measured where it was, predicted otherwise."""
        count = self.predicted_refusals if self.refusals is None else self.refusals + self.faults
        if count is None:
            return 1.0
        return count / (self.n if self.refusals is None else self.n - self.unknown)

    def dominates(self, other: TrialScore) -> bool:
        """Whether this trial beats the other on all objectives together; of equal ones the earlier counts."""
        mine, theirs = self.objectives, other.objectives
        if mine == theirs:
            return self.number < other.number
        return all(a <= b for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True)
class Finalist:
    """A trial of the front, live, on the reporting prompts."""

    number: int
    parameters: EditParameters
    measurement: Measurement


@dataclass(frozen=True)
class Effect:
    """The base model and the finalists on the reporting prompts; ``chosen`` is the number of the picked trial.

    continuations: tokens with which the base model begins its own answers to the harmless prompts, for the sequence KL.
    """

    base: Measurement
    chosen: int
    finalists: tuple[Finalist, ...]
    samples: tuple[Sample, ...]
    continuations: tuple[tuple[int, ...], ...] = field(repr=False)


@dataclass(frozen=True)
class Verification:
    """The baked checkpoint, reloaded, beside the live edit on the same prompts.

    flips: harmful prompts whose verdict (refusal or not) differs. max_log_prob_difference: over first-token log-probs
    to which the live edit gives at least 0.001; mean_log_prob_difference likewise. The rounding differences are those
    between the trial's unrounded edit and the baked checkpoint: what storing the edit in the checkpoint's dtype costs.
    """

    measurement: Measurement
    flips: tuple[str, ...]
    max_log_prob_difference: float
    mean_log_prob_difference: float
    max_rounding_difference: float
    mean_rounding_difference: float
    edited_tensors: int
    untouched_tensors: int
