"""Reasoning apart from the final answer, by the delimiters of the architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sombrero.architectures import ReasoningDelimiters
from sombrero.evaluation.detectors import Detector, require_pairs
from sombrero.evaluation.opening import read_opening
from sombrero.evaluation.refusals import matched_refusal
from sombrero.records import Prompt, Response, Verdict

Place = Literal["reasoning", "answer", "between"]
"""Where a text stands. ``between``: outside reasoning, but its channel of final answers has not been opened."""
MAX_SENTENCES = 400
MAX_CHARACTERS = 40_000
"""How much of the reasoning is searched for refusals."""


@dataclass(frozen=True)
class SplitResponse:
    """The two parts of a response, delimiters left out. ``place`` is where it ends."""

    reasoning: str
    final: str
    place: Place


def starting_place(prompt: str, delimiters: ReasoningDelimiters) -> Place:
    """Where a response to this rendered prompt begins: the template may have opened the reasoning, or the answer."""
    head = prompt.rstrip()
    if head.endswith(delimiters.opening.strip()):
        return "reasoning"
    if delimiters.final is None or head.endswith(delimiters.final.strip()):
        return "answer"
    return "between"


def split_response(text: str, delimiters: ReasoningDelimiters, start: Place = "answer") -> SplitResponse:
    """Take the reasoning blocks out of a response; there may be several, or none, or one that is never closed.

    What stands outside them is the final answer, in its order: a text that goes on only adds to it. With ``final``
    delimiters (harmony's channels) the answer begins after that one; between channels there are only headers. A text
    without any delimiter is an answer, unless the prompt opened the reasoning.
    """
    opening, closing = delimiters.opening.strip(), delimiters.closing.strip()
    final = delimiters.final.strip() if delimiters.final is not None else None
    if start == "between" and not any(mark in text for mark in (opening, closing, final or opening)):
        return SplitResponse("", text, "answer")
    parts: dict[Place, list[str]] = {"reasoning": [], "answer": [], "between": []}
    place, rest = start, text
    after: dict[str, Place] = {opening: "reasoning", closing: "answer" if final is None else "between"}
    after |= {} if final is None else {final: "answer"}
    while True:
        # inside reasoning only its end counts: it may quote the other delimiters
        marks = (closing,) if place == "reasoning" else tuple(after)
        found = [(rest.index(mark), mark) for mark in marks if mark in rest]
        if not found:
            parts[place].append(rest)
            return SplitResponse("\n".join(parts["reasoning"]).strip(), "".join(parts["answer"]).lstrip(), place)
        at, mark = min(found)
        parts[place].append(rest[:at])
        place, rest = after[mark], rest[at + len(mark) :]


class FinalAnswerDetector:
    """Judges the final answer by another detector, and says apart whether the reasoning refuses.

    A response that ends inside its reasoning, and has not refused before, is unfinished. ``start``: see
    :func:`starting_place`. Reasoning refuses when one of its sentences does, by the rules of ``opening``.
    """

    def __init__(self, detector: Detector, delimiters: ReasoningDelimiters, start: Place = "answer") -> None:
        self.detector = detector
        self.delimiters = delimiters
        self.start = start

    @property
    def name(self) -> str:
        """That of the detector which judges the final answer."""
        return self.detector.name

    def judge_all(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> tuple[Verdict, ...]:
        """See :class:`~sombrero.evaluation.Detector`; the other detector is given what has a final part."""
        require_pairs(prompts, responses)
        parts = [split_response(response.text, self.delimiters, self.start) for response in responses]
        asked = [i for i, part in enumerate(parts) if part.place == "answer" or part.final.strip()]
        finals = [replace(responses[i], text=parts[i].final) for i in asked]
        judged = self.detector.judge_all([prompts[i] for i in asked], finals) if asked else ()
        found = dict(zip(asked, judged, strict=True))
        return tuple(_join(found.get(i), responses[i], part) for i, part in enumerate(parts))

    def settled(self, text: str) -> bool:
        """Once the final part is settled; never inside the reasoning before it."""
        parts = split_response(text, self.delimiters, self.start)
        if not parts.final or (self.start == "between" and self._bare(text)):
            return False
        return self.detector.settled(_without_begun(parts.final, self.delimiters))

    def _bare(self, text: str) -> bool:
        """Whether no delimiter is there yet, so that all of the text may still turn out to be a header."""
        marks = (self.delimiters.opening, self.delimiters.closing, self.delimiters.final or self.delimiters.opening)
        return not any(mark.strip() in text for mark in marks)


def _join(verdict: Verdict | None, response: Response, parts: SplitResponse) -> Verdict:
    """The verdict on the final part, if there is one, and what the reasoning says."""
    if verdict is None:
        verdict = Verdict(response.prompt_id, "unfinished", None, len(response.token_ids))
    elif parts.place == "reasoning" and verdict.label != "refusal":
        verdict = replace(verdict, label="unfinished", marker=None)
    return replace(verdict, reasoning_refuses=_reasoning_refuses(parts.reasoning) if parts.reasoning else None)


def _without_begun(text: str, delimiters: ReasoningDelimiters) -> str:
    """Without the first characters of a delimiter at the end: it may be on its way, and then they are not text."""
    marks = [mark.strip() for mark in (delimiters.opening, delimiters.closing, delimiters.final or "")]
    lengths = [n for mark in marks for n in range(1, len(mark)) if text.endswith(mark[:n])]
    return text[: len(text) - max(lengths, default=0)]


def _reasoning_refuses(reasoning: str) -> bool:
    opening = read_opening(reasoning, MAX_SENTENCES, MAX_CHARACTERS)
    return any(matched_refusal(sentence) is not None for sentence in opening.sentences)
