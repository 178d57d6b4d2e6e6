"""Measure a model: greedy answers, refusals, divergence from the base model, coherence."""

from sombrero.evaluation.agreement import Agreement, PromptKind, judge_with, measure_agreement
from sombrero.evaluation.capability import run_tasks
from sombrero.evaluation.coherence import distinct_share, measure_coherence, perplexity
from sombrero.evaluation.detectors import (
    Detector,
    DetectorSetup,
    MarkerDetector,
    OpeningDetector,
    TextDetector,
    build_detector,
    detector_names,
    find_detector,
    is_refusal,
    make_detector,
    refusal_share,
    settled_label,
)
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
from sombrero.evaluation.reasoning import FinalAnswerDetector, SplitResponse, split_response, starting_place
from sombrero.evaluation.screening import refusal_log_odds, refusal_tokens
from sombrero.evaluation.statistics import bootstrap_mean, compare_refusals, summarize_values, wilson

__all__ = [
    "Agreement",
    "Detector",
    "DetectorSetup",
    "EvaluationSets",
    "FinalAnswerDetector",
    "MarkerDetector",
    "Matched",
    "MeasuredFront",
    "OpeningDetector",
    "PromptKind",
    "SplitResponse",
    "TextDetector",
    "base_continuations",
    "bootstrap_mean",
    "build_detector",
    "choose_measured",
    "compare_refusals",
    "detector_names",
    "distinct_share",
    "find_detector",
    "first_token_log_probs",
    "front_weights",
    "generate",
    "interpolate",
    "is_refusal",
    "judge_with",
    "kl",
    "make_detector",
    "matched_values",
    "measure",
    "measure_agreement",
    "measure_coherence",
    "measure_divergence",
    "paired_interval",
    "paired_refusals",
    "perplexity",
    "refusal_log_odds",
    "refusal_share",
    "refusal_tokens",
    "resample_matched",
    "run_tasks",
    "samples",
    "sequence_kl",
    "settled_label",
    "split_response",
    "starting_place",
    "summarize_values",
    "wilson",
]
