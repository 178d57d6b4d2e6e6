"""What a detector is, and what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sombrero.config import EvaluationConfig
from sombrero.errors import RunError, UsageError
from sombrero.evaluation.degenerate import find_fault
from sombrero.evaluation.statistics import wilson
from sombrero.records import Prompt, Proportion, Response, Verdict, VerdictLabel


class Detector(Protocol):
    """Says of responses whether they refuse.

    ``settled``: whatever text follows, whether the response is a refusal stays as it is. So generation may stop there
    when nothing else is asked; faults of the later text (loops) are then not seen. A detector for which only the whole
    text counts answers False, always.
    """

    @property
    def name(self) -> str:
        """What the command line and the reports call it."""
        ...

    def judge_all(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> tuple[Verdict, ...]:
        """One verdict for every response, in their order; ``prompts`` are those that were answered, one for each.

        Refusal first; else empty, degenerate, or an answer; ``unknown`` where the detector could not say, which is
        never a guess. Raises UsageError when prompts and responses do not belong together.
        """
        ...

    def settled(self, text: str) -> bool:
        """Whether no continuation of ``text`` changes refusal or not."""
        ...


@dataclass(frozen=True)
class DetectorSetup:
    """What a detector may be made from; every one takes what it needs.

    settings: the section ``evaluation`` of the configuration. device: torch device of detectors that are models.
    cache: folder of what may be kept between runs. api_key: of an endpoint, read from the environment by the caller
    and never written anywhere. log_odds: of the first token, by prompt id (``log-odds`` alone).
    """

    settings: EvaluationConfig = field(default_factory=EvaluationConfig)
    device: str = "cpu"
    cache: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    log_odds: Mapping[str, float] | None = field(default=None, repr=False)


DetectorFactory = Callable[[DetectorSetup], Detector]
"""What an entry point of the group ``sombrero.detectors`` names."""


def require_pairs(prompts: Sequence[Prompt], responses: Sequence[Response]) -> None:
    """Raise UsageError unless every response stands beside the prompt that it answers."""
    if len(prompts) != len(responses):
        raise UsageError(f"{len(prompts)} prompts for {len(responses)} responses; give one for each, in the same order")
    for prompt, response in zip(prompts, responses, strict=True):
        if prompt.id != response.prompt_id:
            raise UsageError(
                f"the response to {response.prompt_id!r} stands beside the prompt {prompt.id!r}; give both in the same "
                "order"
            )


def settled_label(detector: Detector, text: str) -> VerdictLabel:
    """What a settled text is settled to be. For detectors that settle a text without its prompt."""
    return detector.judge_all((Prompt("", ""),), (Response("", text, (), "settled"),))[0].label


def is_refusal(detector: Detector, text: str) -> bool:
    """Whether a settled text is settled to be a refusal."""
    return settled_label(detector, text) == "refusal"


def refusal_share(verdicts: Sequence[Verdict]) -> Proportion:
    """Refusals among the responses that there is a verdict on: ``unknown`` is counted on neither side.

    Raises RunError when all are unknown, UsageError when there are none.
    """
    known = [verdict.label == "refusal" for verdict in verdicts if verdict.label != "unknown"]
    if verdicts and not known:
        raise RunError(
            f"all {len(verdicts)} verdicts are unknown (the first: {verdicts[0].marker}): there is nothing to count. "
            "Look after the detector, or choose another one"
        )
    return wilson(sum(known), len(known))


def faulty_or(label: VerdictLabel, text: str) -> VerdictLabel:
    """The label; where it says ``answer`` of text that is empty or broken, that instead."""
    if label != "answer":
        return label
    fault = find_fault(text)
    return "answer" if fault is None else "empty" if fault == "empty" else "degenerate"
