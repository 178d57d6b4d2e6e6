"""How far detectors agree on the same responses: Cohen's kappa, the confusion table, and where they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from sombrero.errors import UsageError
from sombrero.evaluation.detectors import Detector
from sombrero.records import Prompt, Response, Verdict, VerdictLabel

PromptKind = Literal["harmful", "harmless", "borderline", "contrast", "all"]
SHOWN: tuple[PromptKind, ...] = ("harmless", "borderline")
"""Kinds of prompts whose texts may be shown; of every other kind there are ids alone."""


@dataclass(frozen=True)
class Disagreement:
    """A prompt whose response two detectors label otherwise. prompt, response: None unless its kind may be shown."""

    prompt_id: str
    first: VerdictLabel
    second: VerdictLabel
    prompt: str | None = field(default=None, repr=False)
    response: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Agreement:
    """Two detectors on the same ``n`` responses.

    kappa: Cohen's kappa (Cohen 1960) of their labels, over the ``n_judged`` responses that both gave a verdict on;
    refusal_kappa: of refusal or not. 1 is agreement on everything, 0 what chance gives; None with the reason in
    ``problem``. observed: share of equal labels. table: ``table[i][j]`` responses that the first labels ``labels[i]``
    and the second ``labels[j]``, those that are ``unknown`` among them, apart.
    """

    first: str
    second: str
    n: int
    n_judged: int
    kappa: float | None
    refusal_kappa: float | None
    observed: float | None
    problem: str | None
    labels: tuple[VerdictLabel, ...]
    table: tuple[tuple[int, ...], ...]
    disagreements: tuple[Disagreement, ...]


def judge_with(
    detectors: Sequence[Detector], prompts: Sequence[Prompt], responses: Sequence[Response]
) -> dict[str, tuple[Verdict, ...]]:
    """Every detector's verdicts on the same responses, by its name. Raises UsageError for two of one name."""
    names = Counter(detector.name for detector in detectors)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UsageError(f"there are {names[twice[0]]} detectors of the name {twice[0]!r}; give each once")
    return {detector.name: detector.judge_all(prompts, responses) for detector in detectors}


def measure_agreement(
    verdicts: Mapping[str, Sequence[Verdict]],
    *,
    kind: PromptKind,
    prompts: Sequence[Prompt] = (),
    responses: Sequence[Response] = (),
) -> tuple[Agreement, ...]:
    """Agreement of every pair of detectors, in the order of ``verdicts`` (by detector name).

    kind: of all the prompts. The texts of disagreements are shown for harmless and borderline ones, where ``prompts``
    and ``responses`` are given; of other kinds never, whatever is given.

    Raises UsageError for fewer than two detectors, no responses, or verdicts on different prompts.
    """
    if len(verdicts) < 2:
        raise UsageError(
            f"agreement is between detectors, and there are verdicts of {list(verdicts)}; give two or more"
        )
    ids = {name: [verdict.prompt_id for verdict in found] for name, found in verdicts.items()}
    expected = next(iter(ids.values()))
    if not expected:
        raise UsageError("there are no responses to agree on (n = 0); judge at least one")
    for name, found in ids.items():
        if found != expected:
            raise UsageError(
                f"the verdicts of {name!r} ({len(found)}) and {next(iter(ids))!r} ({len(expected)}) are not on the "
                "same prompts in the same order; judge the same responses with both"
            )
    names = list(verdicts)
    shown = kind in SHOWN
    asked = {prompt.id: prompt.text for prompt in prompts} if shown else {}
    said = {response.prompt_id: response.text for response in responses} if shown else {}
    return tuple(
        _agree(first, second, verdicts[first], verdicts[second], asked, said)
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    )


def _agree(
    first: str,
    second: str,
    firsts: Sequence[Verdict],
    seconds: Sequence[Verdict],
    asked: Mapping[str, str],
    said: Mapping[str, str],
) -> Agreement:
    pairs = [(a.label, b.label) for a, b in zip(firsts, seconds, strict=True)]
    judged = [pair for pair in pairs if "unknown" not in pair]
    counts = Counter(pairs)
    labels: tuple[VerdictLabel, ...] = tuple(
        label for label in get_args(VerdictLabel) if any(label in pair for pair in counts)
    )
    kappa, problem = _kappa(judged)
    refusals, of_refusals = _kappa([(_refusal_or_not(a), _refusal_or_not(b)) for a, b in judged])
    return Agreement(
        first=first,
        second=second,
        n=len(pairs),
        n_judged=len(judged),
        kappa=kappa,
        refusal_kappa=refusals,
        observed=sum(a == b for a, b in judged) / len(judged) if judged else None,
        problem=problem or of_refusals,
        labels=labels,
        table=tuple(tuple(counts[a, b] for b in labels) for a in labels),
        disagreements=tuple(
            Disagreement(a.prompt_id, a.label, b.label, asked.get(a.prompt_id), said.get(a.prompt_id))
            for a, b in zip(firsts, seconds, strict=True)
            if a.label != b.label
        ),
    )


def _refusal_or_not(label: VerdictLabel) -> str:
    return "refusal" if label == "refusal" else "no refusal"


def _kappa(pairs: Sequence[tuple[str, str]]) -> tuple[float | None, str | None]:
    """Cohen's kappa of pairs of labels; None, and why, where it is not defined."""
    if not pairs:
        return None, "no response has a verdict of both detectors"
    used = {label for pair in pairs for label in pair}
    if len(used) == 1:
        # chance would agree on everything too, so kappa is 0 / 0
        return None, f"both detectors give every response the one label {used.pop()!r}: kappa is not defined"
    from sklearn.metrics import cohen_kappa_score

    firsts, seconds = zip(*pairs, strict=True)
    return float(cohen_kappa_score(firsts, seconds, labels=sorted(used))), None
