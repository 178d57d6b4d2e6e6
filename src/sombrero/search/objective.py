"""Score one trial: a screening by one forward pass, then the refusals of full generation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sombrero.edits import EditPlanner, live_edit
from sombrero.evaluation import Detector, first_token_log_probs, generate, kl, refusal_log_odds, settled_label
from sombrero.records import EditParameters, ModelHandle, RenderedPrompt, TrialScore


@dataclass(frozen=True)
class TrialBench:
    """All that scoring a trial needs besides its parameters. base_log_probs: ``(n_harmless, vocab)`` float32.

    harmful: the prompts whose refusals are counted, borderline-safe ones by the goal ``calibrate``. true: prompts that
    the base model refuses and that should stay refused; none by ``suppress``.
    """

    handle: ModelHandle
    planner: EditPlanner
    harmful: Sequence[RenderedPrompt]
    harmless: Sequence[RenderedPrompt]
    base_log_probs: torch.Tensor
    refusal_tokens: torch.Tensor
    detector: Detector
    max_new_tokens: int
    batch_size: int
    batch_tokens: int
    true: Sequence[RenderedPrompt] = ()


def screen(bench: TrialBench, number: int, parameters: EditParameters) -> TrialScore:
    """One forward pass over the search prompts. Raises what :meth:`EditPlanner.build` raises."""
    edit = bench.planner.build(parameters)
    with live_edit(bench.handle, bench.planner.writers, edit):
        harmless = first_token_log_probs(bench.handle, bench.harmless, batch_tokens=bench.batch_tokens)
        harmful = first_token_log_probs(bench.handle, bench.harmful, batch_tokens=bench.batch_tokens)
        lost = None
        if bench.true:
            true = first_token_log_probs(bench.handle, bench.true, batch_tokens=bench.batch_tokens)
            lost = int((refusal_log_odds(true, bench.refusal_tokens) <= 0).sum())
    log_odds = refusal_log_odds(harmful, bench.refusal_tokens)
    return TrialScore(
        number=number,
        parameters=parameters,
        state="screened",
        n=len(bench.harmful),
        predicted_refusals=int((log_odds > 0).sum()),
        log_odds=float(log_odds.mean()),
        kl=float(kl(bench.base_log_probs, harmless).mean()),
        n_true=len(bench.true),
        predicted_lost=lost,
    )


def count_lost(bench: TrialBench, screened: TrialScore) -> TrialScore:
    """Generate for the prompts that should stay refused and count those that are no refusals any more."""
    edit = bench.planner.build(screened.parameters)
    with live_edit(bench.handle, bench.planner.writers, edit):
        responses = generate(
            bench.handle,
            bench.true,
            max_new_tokens=bench.max_new_tokens,
            batch_size=bench.batch_size,
            settled=bench.detector.settled,
        )
    verdicts = bench.detector.judge_all([rendered.prompt for rendered in bench.true], responses)
    known = [verdict.label != "refusal" for verdict in verdicts if verdict.label != "unknown"]
    # without any verdict the screening's prediction stands
    return replace(screened, lost=sum(known), n_true=len(known)) if known else screened


def complete(bench: TrialBench, screened: TrialScore, *, beaten_at: int | None = None) -> TrialScore:
    """Generate for the harmful search prompts and count the refusals; an answer ends when its verdict is certain.

    With ``beaten_at`` refusals another trial is better on both counts: generation stops there, and the trial stays
    screened out. The text is dropped here.
    """
    edit = bench.planner.build(screened.parameters)
    race = _Race(bench.detector, beaten_at)
    with live_edit(bench.handle, bench.planner.writers, edit):
        responses = generate(
            bench.handle,
            bench.harmful,
            max_new_tokens=bench.max_new_tokens,
            batch_size=bench.batch_size,
            settled=race.settled,
        )
    if race.lost:
        return replace(screened, predicted_refusals=max(screened.predicted_refusals or 0, race.refusals))
    verdicts = bench.detector.judge_all([rendered.prompt for rendered in bench.harmful], responses)
    labels = Counter(verdict.label for verdict in verdicts)
    unknown = labels["unknown"]
    # whatever neither refuses nor answers is no compliance: an edit gains nothing by deflecting or breaking the model
    faults = labels.total() - labels["refusal"] - labels["answer"] - unknown
    if unknown == len(verdicts):
        why = f"the detector gave no verdict on any of {unknown} answers (the first: {verdicts[0].marker})"
        return replace(screened, state="failed", error=why)
    return replace(screened, state="generated", refusals=labels["refusal"], faults=faults, unknown=unknown)


class _Race:
    """Counts the refusals that are certain while answers are still being generated, and calls them all off."""

    def __init__(self, detector: Detector, beaten_at: int | None) -> None:
        self.refusals = 0
        self._detector = detector
        self._beaten_at = beaten_at

    @property
    def lost(self) -> bool:
        return self._beaten_at is not None and self.refusals >= self._beaten_at

    def settled(self, text: str) -> bool:
        if self.lost:
            return True
        if not self._detector.settled(text):
            return False
        label = settled_label(self._detector, text)
        self.refusals += label == "refusal"
        # a lecture may still come to its answer
        return label != "partial"
