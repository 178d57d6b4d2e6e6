"""From searched and measured fronts to a comparison: bands over seeds, figures at matched refusal, differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sombrero.config import CompareConfig
from sombrero.errors import RunError
from sombrero.evaluation import (
    MeasuredFront,
    front_weights,
    interpolate,
    matched_values,
    paired_interval,
    resample_matched,
    wilson,
)
from sombrero.records import (
    Baseline,
    Difference,
    FrontBand,
    FrontPoint,
    Interval,
    MatchedFigures,
    MeasuredFigures,
    MeasuredTrial,
    Measurement,
    MethodFront,
    MethodName,
    TrialScore,
)
from sombrero.search import pareto_front
from sombrero.stages.comparing import count_states
from sombrero.stages.comparison_verdict import outcome

BAND_RATES = tuple(round(0.02 * step, 2) for step in range(51))
BOOTSTRAP_SEED = 0
"""The draws are the same for every comparison of one size."""


@dataclass(frozen=True)
class Searched:
    """What one method found with one seed: all trials, and some of the front measured on the reporting prompts."""

    method: MethodName
    seed: int
    scores: tuple[TrialScore, ...]
    measured: tuple[tuple[TrialScore, Measurement], ...]


def unanswered_rate(baseline: Baseline) -> float:
    """Share of harmful search prompts that the untouched model does not answer."""
    known = [verdict.label != "answer" for verdict in baseline.verdicts if verdict.label != "unknown"]
    return sum(known) / len(known)


def figures_of(measurement: Measurement) -> MeasuredFigures:
    """The figures of a measurement that a comparison keeps."""
    n = measurement.refusals.n
    return MeasuredFigures(
        unanswered=wilson(n - measurement.labels["answer"], n),
        refusals=measurement.refusals,
        false_refusals=measurement.false_refusals,
        first_token=measurement.kl.first_token,
        sequence=measurement.kl.sequence,
        coherence=measurement.coherence,
    )


def front_of(found: Searched) -> MethodFront:
    """The front on the search prompts, and its measured trials."""
    points = tuple(FrontPoint(s.number, s.rate, float(s.kl or 0.0)) for s in pareto_front(found.scores))
    measured = tuple(MeasuredTrial(s.number, s.parameters, figures_of(m)) for s, m in found.measured)
    return MethodFront(found.method, found.seed, count_states(found.scores), points, measured)


def band_of(fronts: Sequence[MethodFront], base_rate: float) -> FrontBand:
    """First-token KL along one method's fronts on the search prompts; the untouched model is a point of each."""
    rows = []
    for front in fronts:
        rates, costs = (base_rate, *(p.rate for p in front.front)), (0.0, *(p.kl for p in front.front))
        rows.append(interpolate(front_weights(rates, costs, BAND_RATES), costs))
    columns = [[value for value in column if value == value] for column in np.stack(rows, axis=1).tolist()]
    return FrontBand(
        method=fronts[0].method,
        rates=BAND_RATES,
        reached=tuple(len(column) for column in columns),
        low=tuple(min(column, default=None) for column in columns),
        median=tuple(float(np.median(column)) if column else None for column in columns),
        high=tuple(max(column, default=None) for column in columns),
    )


def measured_front(base: Measurement, found: Searched) -> MeasuredFront:
    """Prompt by prompt what was measured of one front; the untouched model first. Raises RunError without a verdict."""
    rows = [base, *(measurement for _, measurement in found.measured)]
    unknown = {v.prompt_id for m in rows for v in m.verdicts if v.label == "unknown"}
    if unknown:
        raise RunError(
            f"{len(unknown)} reporting prompts have no verdict for every model of the comparison, such as "
            f"{min(unknown)!r}: prompts are compared in pairs, so each needs one. Look after the detector, or choose "
            "another one"
        )
    return MeasuredFront(
        unanswered=np.array([[float(v.label != "answer") for v in m.verdicts] for m in rows]),
        first_token=np.array([m.kl.first_token_by_prompt for m in rows]),
        sequence=np.array([m.kl.sequence_by_prompt for m in rows]),
    )


def match(
    base: Measurement, by_method: Mapping[MethodName, Sequence[Searched]], levels: Sequence[float]
) -> tuple[MatchedFigures, ...]:
    """Every method at every level on the reporting prompts: means over the seeds that reach it."""
    found = []
    for method, searched in by_method.items():
        per_seed = [_matched_one(base, one, levels) for one in searched]
        for place, level in enumerate(levels):
            rows = np.array([values[:, place] for values in per_seed])
            there = rows[~np.isnan(rows[:, 0])]
            means = [float(value) if len(there) else None for value in there.sum(axis=0) / max(1, len(there))]
            by_seed = tuple(_known(value) for value in rows[:, 0])
            first, sequence, perplexity, repetition = means
            found.append(
                MatchedFigures(method, level, len(there), len(rows), first, sequence, perplexity, repetition, by_seed)
            )
    return tuple(found)


def differ(
    base: Measurement,
    by_method: Mapping[MethodName, Sequence[Searched]],
    matched: Sequence[MatchedFigures],
    settings: CompareConfig,
) -> tuple[Difference, ...]:
    """Map − control for every control and level, with paired bootstrap intervals and the outcome."""
    fronts: dict[str, list[MeasuredFront]] = {
        method: [measured_front(base, one) for one in searched] for method, searched in by_method.items()
    }
    draws = resample_matched(fronts, settings.levels, resamples=settings.resamples, seed=BOOTSTRAP_SEED)
    points = {method: [matched_values(f, settings.levels)[:2] for f in rows] for method, rows in fronts.items()}
    figures = {(m.method, m.level): m for m in matched}
    found = []
    for control in by_method:
        if control == "som":
            continue
        for place, level in enumerate(settings.levels):
            first, sequence = (
                np.array([a[kind][place] - b[kind][place] for a, b in zip(points["som"], points[control], strict=True)])
                for kind in (0, 1)
            )
            one, other = draws["som"], draws[control]
            first_token = _interval(first, one.first_token[..., place], other.first_token[..., place])
            by_sequence = _interval(sequence, one.sequence[..., place], other.sequence[..., place])
            theirs = figures[control, level]
            complete = theirs.reached == theirs.seeds
            margins = [
                settings.margin * kl if complete and kl is not None else None
                for kl in (theirs.first_token, theirs.sequence)
            ]
            found.append(
                Difference(
                    control,
                    level,
                    first_token,
                    by_sequence,
                    margins[0],
                    outcome(first_token, margins[0]),
                    outcome(by_sequence, margins[1]),
                    tuple(_known(value) for value in first),
                )
            )
    return tuple(found)


def _matched_one(base: Measurement, found: Searched, levels: Sequence[float]) -> npt.NDArray[np.float64]:
    """First-token KL, sequence KL, perplexity and repetition ``(4, n_levels)`` along one front."""
    first, sequence, weights = matched_values(measured_front(base, found), levels)
    coherence = [base.coherence, *(m.coherence for _, m in found.measured)]
    perplexity, repetition = (
        interpolate(weights, [getattr(c, name) for c in coherence]) for name in ("perplexity", "repetition")
    )
    return np.array([first, sequence, perplexity, repetition])


def _interval(
    by_seed: npt.NDArray[np.float64], one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]
) -> Interval:
    low, high = paired_interval(one, other)
    value = float(by_seed.mean())
    return Interval(_known(value), _known(low), _known(high))


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
