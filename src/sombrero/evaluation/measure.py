"""Everything that is measured of one model on one set of prompts (DESIGN §3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sombrero.errors import PromptError, UsageError
from sombrero.evaluation.agreement import judge_with
from sombrero.evaluation.coherence import measure_coherence
from sombrero.evaluation.detectors import Detector, is_refusal, refusal_share
from sombrero.evaluation.divergence import base_continuations, measure_divergence, no_divergence
from sombrero.evaluation.generate import generate
from sombrero.evaluation.statistics import compare_refusals, wilson
from sombrero.records import (
    Divergence,
    Measurement,
    PairedRefusals,
    Proportion,
    RenderedPrompt,
    Response,
    Sample,
    SecondOpinion,
    Subject,
    Verdict,
    VerdictLabel,
)

DEFAULT_SEQUENCE_TOKENS = 32


@dataclass(frozen=True)
class EvaluationSets:
    """Rendered prompts of the three kinds, contrasts where there are any, and the base model's own greedy continuations
    of the harmless ones.

    Without ``continuations`` the base model is asked for them at every measurement.
    Raises PromptError for a set without prompts, or an id that stands for two prompts.
    """

    harmful: tuple[RenderedPrompt, ...]
    harmless: tuple[RenderedPrompt, ...]
    borderline: tuple[RenderedPrompt, ...]
    continuations: tuple[tuple[int, ...], ...] = ()
    contrast: tuple[RenderedPrompt, ...] = ()

    def __post_init__(self) -> None:
        for name in ("harmful", "harmless", "borderline"):
            if not getattr(self, name):
                raise PromptError(f"there are no {name} prompts to measure on; give at least one")
        ids = Counter(p.prompt.id for p in (*self.harmful, *self.harmless, *self.borderline, *self.contrast))
        twice = [prompt_id for prompt_id, count in ids.items() if count > 1]
        if twice:
            raise PromptError(
                f"{len(twice)} prompt ids stand for several prompts, such as {twice[0]!r}; make them unique"
            )
        if self.continuations and len(self.continuations) != len(self.harmless):
            raise UsageError(
                f"{len(self.continuations)} continuations for {len(self.harmless)} harmless prompts; give one for each"
            )

    @property
    def count(self) -> int:
        """How many prompts are answered in a measurement."""
        return len(self.harmful) + len(self.harmless) + len(self.borderline) + len(self.contrast)


def measure(
    subject: Subject,
    base: Subject,
    sets: EvaluationSets,
    *,
    detector: Detector,
    others: Sequence[Detector] = (),
    max_new_tokens: int = 100,
    batch_size: int = 64,
    sequence_tokens: int | None = None,
    batch_tokens: int = 4096,
    keep_harmful: bool = False,
    n_whole: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Measurement, Mapping[str, Response]]:
    """Measure ``subject`` against ``base``; labels of the measurement are those of the harmful prompts, verdicts those
    of harmful prompts and contrasts.

    ``sequence_tokens`` shortens the continuations for the sequence KL; None takes them as they are (32 tokens where
    they have to be made). ``on_progress`` is given answered prompts, ``sets.count`` in all. The two subjects are never
    open at once.

    The second value holds the responses to harmless and borderline prompts by prompt id. Those to harmful prompts are
    scored and dropped, and cut as soon as they are certain refusals, unless ``keep_harmful`` asks for them. Borderline
    answers after the first ``n_whole`` end when it is settled whether they refuse. ``others`` are detectors that judge
    the same responses, which are then all whole; raises UsageError for two of one name.
    """
    whole, is_base = keep_harmful or bool(others), subject is base
    asked = (*sets.harmful, *sets.contrast)
    certain = None if whole else _refuses_for_certain(detector)
    cut = [None if whole or place < n_whole else detector.settled for place in range(len(sets.borderline))]
    with subject() as handle:
        # all at once: rows of one set take the places of another's that have ended
        answers = generate(
            handle,
            (*asked, *sets.harmless, *sets.borderline),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            settled=[*([certain] * len(asked)), *([None] * len(sets.harmless)), *cut],
            on_progress=on_progress,
            log_probs=is_base,
        )
    harmful, safe = answers[: len(asked)], answers[len(asked) :]
    harmless, borderline = safe[: len(sets.harmless)], safe[len(sets.harmless) :]
    every, *second = _judge(detector, others, asked, harmful)
    kept = harmful if keep_harmful else ()
    del answers, harmful
    verdicts, contrast = every[: len(sets.harmful)], every[len(sets.harmful) :]
    harmless_verdicts, *on_harmless = _judge(detector, others, sets.harmless, harmless)
    borderline_verdicts, *on_borderline = _judge(detector, others, sets.borderline, borderline)
    measurement = Measurement(
        refusals=refusal_share(verdicts),
        false_refusals=refusal_share(borderline_verdicts),
        harmless_refusals=refusal_share(harmless_verdicts),
        labels=_count_labels(verdicts),
        kl=_diverge(subject, base, sets, sequence_tokens, batch_tokens),
        coherence=measure_coherence(
            None if is_base else base, sets.harmless, harmless, harmless_verdicts, batch_tokens=batch_tokens
        ),
        verdicts=every,
        contrast_refusals=refusal_share(contrast) if contrast else None,
        safe_verdicts=(*borderline_verdicts, *harmless_verdicts),
        reasoning_refusals=_reasoning_refusals(verdicts),
        opinions=tuple(
            SecondOpinion(other.name, found, (*of_borderline, *of_harmless))
            for other, found, of_borderline, of_harmless in zip(others, second, on_borderline, on_harmless, strict=True)
        ),
    )
    return measurement, {response.prompt_id: response for response in (*kept, *harmless, *borderline)}


def paired_refusals(base: Measurement, edited: Measurement, *, seed: int = 0) -> dict[str, PairedRefusals]:
    """The two models' refusals prompt by prompt, by the name of their counts: ``refusals``, ``false_refusals``, ...

    ``seed`` draws the resamples of the intervals. Contrasts where both have them; sets of which an old record has no
    verdicts are left out. A prompt without a verdict of either is in no pair.

    Raises UsageError when the two were not measured on the same prompts.
    """
    one, other = _verdict_sets(base), _verdict_sets(edited)
    found = {}
    for name in (name for name in one if name in other):
        ids = [[verdict.prompt_id for verdict in verdicts] for verdicts in (one[name], other[name])]
        if ids[0] != ids[1]:
            raise UsageError(
                f"the {name} of the two models are of other prompts ({len(ids[0])} and {len(ids[1])}), so they cannot "
                "be paired; measure both on the same ones"
            )
        labels = [pair for pair in zip(_labels(one[name]), _labels(other[name]), strict=True) if "unknown" not in pair]
        if labels:
            refused = ([label == "refusal" for label in side] for side in zip(*labels, strict=True))
            found[name] = compare_refusals(*refused, seed=seed)
    return found


def samples(
    base_responses: Mapping[str, Response], edited_responses: Mapping[str, Response], sets: EvaluationSets, n: int
) -> tuple[Sample, ...]:
    """The first ``n`` harmless and the first ``n`` borderline prompts with both models' answers; no harmful ones."""
    found = []
    kinds: tuple[tuple[Literal["harmless", "borderline"], tuple[RenderedPrompt, ...]], ...] = (
        ("harmless", sets.harmless),
        ("borderline", sets.borderline),
    )
    for kind, prompts in kinds:
        for prompt in prompts[:n]:
            key = prompt.prompt.id
            found.append(Sample(key, kind, prompt.prompt.text, base_responses[key].text, edited_responses[key].text))
    return tuple(found)


def _labels(verdicts: Sequence[Verdict]) -> list[VerdictLabel]:
    return [verdict.label for verdict in verdicts]


def _verdict_sets(measurement: Measurement) -> dict[str, tuple[Verdict, ...]]:
    # a refusal's n leaves out what has no verdict
    n_harmful = sum(measurement.labels.values())
    n_borderline = max(0, len(measurement.safe_verdicts) - measurement.coherence.n)
    found = {
        "refusals": measurement.verdicts[:n_harmful],
        "false_refusals": measurement.safe_verdicts[:n_borderline],
        "harmless_refusals": measurement.safe_verdicts[n_borderline:],
        "contrast_refusals": measurement.verdicts[n_harmful:],
    }
    return {name: verdicts for name, verdicts in found.items() if verdicts}


def _refuses_for_certain(detector: Detector) -> Callable[[str], bool]:
    """A refusal stays one whatever follows; anything else is read to its end, as it may still loop or break down."""

    def certain(text: str) -> bool:
        return detector.settled(text) and is_refusal(detector, text)

    return certain


def _judge(
    detector: Detector, others: Sequence[Detector], prompts: Sequence[RenderedPrompt], responses: Sequence[Response]
) -> list[tuple[Verdict, ...]]:
    """The verdicts of the detector, then those of each other one."""
    return list(judge_with((detector, *others), [rendered.prompt for rendered in prompts], responses).values())


def _reasoning_refusals(verdicts: Sequence[Verdict]) -> Proportion | None:
    found = [verdict.reasoning_refuses for verdict in verdicts if verdict.reasoning_refuses is not None]
    return wilson(sum(found), len(found)) if found else None


def _count_labels(verdicts: Sequence[Verdict]) -> dict[str, int]:
    counts = Counter(verdict.label for verdict in verdicts)
    return {label: counts[label] for label in get_args(VerdictLabel)}


def _diverge(
    subject: Subject, base: Subject, sets: EvaluationSets, sequence_tokens: int | None, batch_tokens: int
) -> Divergence:
    if base is subject:
        return no_divergence(len(sets.harmless))
    continuations = _continuations(base, sets, sequence_tokens)
    return measure_divergence(base, subject, sets.harmless, continuations, batch_tokens=batch_tokens)


def _continuations(base: Subject, sets: EvaluationSets, sequence_tokens: int | None) -> tuple[tuple[int, ...], ...]:
    if sets.continuations:
        return tuple(tokens[:sequence_tokens] for tokens in sets.continuations)
    with base() as handle:
        return base_continuations(handle, sets.harmless, sequence_tokens or DEFAULT_SEQUENCE_TOKENS)
