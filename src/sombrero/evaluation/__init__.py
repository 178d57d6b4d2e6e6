"""Measure a model: greedy answers, refusals, divergence from the base model, coherence."""

from sombrero.evaluation.capability import run_tasks
from sombrero.evaluation.coherence import distinct_share, measure_coherence, perplexity
from sombrero.evaluation.detectors import Detector, MarkerDetector, OpeningDetector, make_detector
from sombrero.evaluation.divergence import (
    base_continuations,
    first_token_log_probs,
    kl,
    measure_divergence,
    sequence_kl,
)
from sombrero.evaluation.generate import generate
from sombrero.evaluation.matched import (
    Matched,
    MeasuredFront,
    choose_measured,
    front_weights,
    interpolate,
    matched_values,
    paired_interval,
    resample_matched,
)
from sombrero.evaluation.measure import EvaluationSets, measure, paired_refusals, samples
from sombrero.evaluation.screening import refusal_log_odds, refusal_tokens
from sombrero.evaluation.statistics import bootstrap_mean, compare_refusals, summarize_values, wilson

__all__ = [
    "Detector",
    "EvaluationSets",
    "MarkerDetector",
    "Matched",
    "MeasuredFront",
    "OpeningDetector",
    "base_continuations",
    "bootstrap_mean",
    "choose_measured",
    "compare_refusals",
    "distinct_share",
    "first_token_log_probs",
    "front_weights",
    "generate",
    "interpolate",
    "kl",
    "make_detector",
    "matched_values",
    "measure",
    "measure_coherence",
    "measure_divergence",
    "paired_interval",
    "paired_refusals",
    "perplexity",
    "refusal_log_odds",
    "refusal_tokens",
    "resample_matched",
    "run_tasks",
    "samples",
    "sequence_kl",
    "summarize_values",
    "wilson",
]
