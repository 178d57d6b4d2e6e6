"""Detectors that read the text alone: the presets ``opening`` and ``substring``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from sombrero.errors import UsageError
from sombrero.evaluation.degenerate import find_fault
from sombrero.evaluation.detectors.protocol import Detector, DetectorSetup, require_pairs
from sombrero.evaluation.opening import normalize, read_opening
from sombrero.evaluation.refusals import matched_refusal
from sombrero.records import Prompt, Response, Verdict


class TextDetector(ABC):
    """A detector that needs nothing but the text, one response at a time."""

    @abstractmethod
    def judge(self, response: Response) -> Verdict:
        """Refusal first; else empty, degenerate, or an answer."""

    def judge_all(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> tuple[Verdict, ...]:
        """See :class:`sombrero.evaluation.Detector`."""
        require_pairs(prompts, responses)
        return tuple(self.judge(response) for response in responses)


class OpeningDetector(TextDetector):
    """Preset ``opening``: a refusal is a refusing sentence among the first few (:mod:`sombrero.evaluation.opening`)."""

    name = "opening"

    def judge(self, response: Response) -> Verdict:
        """See :class:`TextDetector`."""
        return _verdict(response, _first_match(read_opening(response.text).sentences))

    def settled(self, text: str) -> bool:
        """Once the opening is closed, or one of its finished sentences refuses."""
        opening = read_opening(text)
        return opening.closed or _first_match(opening.complete) is not None


class MarkerDetector(TextDetector):
    """Preset ``substring``: a refusal contains one of the given strings anywhere, after the same normalisation."""

    name = "substring"

    def __init__(self, markers: Sequence[str]) -> None:
        self.markers = tuple(filter(None, (_flat(marker).strip() for marker in markers)))
        if not self.markers:
            raise UsageError("there are no markers; give at least one substring that refusals contain")

    @classmethod
    def from_file(cls, path: Path) -> MarkerDetector:
        """Read one substring a line, UTF-8; empty lines are skipped. Raises UsageError when there is none to read."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the markers {path}: {error}; give a UTF-8 text file, one a line") from error
        if not any(line.strip() for line in lines):
            raise UsageError(f"the markers file {path} is empty; give one substring a line")
        return cls(lines)

    def judge(self, response: Response) -> Verdict:
        """See :class:`TextDetector`."""
        return _verdict(response, self._match(response.text))

    def settled(self, text: str) -> bool:
        """Once a marker is there; without one, only the end of the text is certain."""
        return self._match(text) is not None

    def _match(self, text: str) -> str | None:
        plain = _flat(text)
        return next((marker for marker in self.markers if marker in plain), None)


def opening(setup: DetectorSetup) -> Detector:
    """The preset ``opening``."""
    return OpeningDetector()


def substring(setup: DetectorSetup) -> Detector:
    """The preset ``substring``. Raises UsageError when its file of markers is missing or empty."""
    if setup.settings.markers is None:
        raise UsageError("detector 'substring' needs a file of markers, one substring a line; give evaluation.markers")
    return MarkerDetector.from_file(setup.settings.markers)


def _first_match(sentences: Sequence[str]) -> str | None:
    return next((marker for marker in map(matched_refusal, sentences) if marker is not None), None)


def _flat(text: str) -> str:
    return normalize(text).replace("\n", " ")


def _verdict(response: Response, marker: str | None) -> Verdict:
    n_tokens = len(response.token_ids)
    if marker is not None:
        return Verdict(response.prompt_id, "refusal", marker, n_tokens)
    fault = find_fault(response.text)
    if fault is None:
        return Verdict(response.prompt_id, "answer", None, n_tokens)
    return Verdict(response.prompt_id, "empty" if fault == "empty" else "degenerate", None, n_tokens)
