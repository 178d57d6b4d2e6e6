"""Detector ``judge``: a language model behind any OpenAI-compatible endpoint says which label fits a response."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sombrero.errors import RunError, UsageError
from sombrero.evaluation.degenerate import find_fault
from sombrero.evaluation.detectors.judge_cache import JudgeCache, content_hash
from sombrero.evaluation.detectors.judge_endpoint import Endpoint, OutageError
from sombrero.evaluation.detectors.judge_words import INSTRUCTION, question, read_label, reminded
from sombrero.evaluation.detectors.protocol import Detector, DetectorSetup, faulty_or, require_pairs
from sombrero.records import Prompt, Response, Verdict, VerdictLabel

ATTEMPTS = 2
"""Times that a judge is asked for a label: once, and once more when its reply is none."""


@dataclass(frozen=True)
class _Said:
    label: VerdictLabel
    why: str | None = None


class JudgeDetector:
    """Asks for exactly one of our labels; a reply that is none is asked for again, then the verdict is ``unknown``.

    An endpoint that cannot be reached, answers with an HTTP error or not in time, after the client's own attempts, is
    never a verdict: by ``outage`` it is a RunError, or ``unknown`` with the reason. Equal questions are asked once;
    labels are kept in the cache by the hash of model, instruction, prompt and response. Empty text is not sent.

    Raises UsageError as :class:`Endpoint` does.
    """

    name = "judge"

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        cache: Path | None = None,
        concurrency: int = 4,
        timeout: float = 60.0,
        retries: int = 3,
        per_minute: float | None = None,
        outage: Literal["error", "unknown"] = "error",
        remote: bool = False,
    ) -> None:
        self.concurrency, self.outage = concurrency, outage
        self._endpoint = Endpoint(
            base_url,
            model,
            api_key=api_key,
            timeout=timeout,
            retries=retries,
            per_minute=per_minute,
            remote=remote,
        )
        self._cache = JudgeCache(cache)

    def judge_all(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> tuple[Verdict, ...]:
        """See :class:`sombrero.evaluation.Detector`. Raises RunError for an outage, unless that is ``unknown``."""
        require_pairs(prompts, responses)
        pairs = zip(prompts, responses, strict=True)
        texts = [(p.text, r.text) for p, r in pairs if find_fault(r.text) != "empty"]
        said = self._ask_all(dict.fromkeys(texts))
        return tuple(
            _verdict(r, said.get((p.text, r.text), _Said("empty"))) for p, r in zip(prompts, responses, strict=True)
        )

    def settled(self, text: str) -> bool:
        """Never: a judge reads whole responses."""
        return False

    def close(self) -> None:
        """Close the connections to the endpoint."""
        self._endpoint.close()

    def _ask_all(self, pairs: dict[tuple[str, str], None]) -> dict[tuple[str, str], _Said]:
        found: dict[tuple[str, str], _Said] = {}
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge")
        try:
            waiting = {pool.submit(self._ask, *pair): pair for pair in pairs}
            for done in as_completed(waiting):
                found[waiting[done]] = done.result()
        finally:
            # after the first error nothing more is asked
            pool.shutdown(wait=True, cancel_futures=True)
        return found

    def _ask(self, prompt: str, response: str) -> _Said:
        key = content_hash(self._endpoint.model, INSTRUCTION, prompt, response)
        known = self._cache.get(key)
        if known is not None:
            return _Said(known)
        messages = question(prompt, response)
        for _ in range(ATTEMPTS):
            try:
                reply = self._endpoint.ask(messages)
            except OutageError as error:
                return self._outage(str(error))
            label = read_label(reply)
            if label is not None:
                self._cache.put(key, label)
                return _Said(label)
            messages = reminded(messages, reply)
        return _Said("unknown", "the judge's reply is none of the labels")

    def _outage(self, reason: str) -> _Said:
        if self.outage == "unknown":
            return _Said("unknown", f"no reply from the judge: {reason}")
        raise RunError(
            f"the judge {self._endpoint.model!r} at {self._endpoint.base_url} gave no reply: {reason}. Labels so far "
            "are kept: see that it runs and run the same command again, raise judge_timeout or judge_retries, or take "
            'judge_outage = "unknown"'
        )


def judge(setup: DetectorSetup) -> Detector:
    """Made from the settings ``judge_...``, the cache folder and the API key of the setup. Raises UsageError."""
    settings = setup.settings
    if settings.judge_url is None or settings.judge_model is None:
        raise UsageError(
            f"detector 'judge' has judge_url {settings.judge_url!r} and judge_model {settings.judge_model!r}; give "
            "both, for example http://127.0.0.1:8000/v1 and the name of the model that is served there"
        )
    if settings.judge_key_variable is not None and setup.api_key is None:
        raise UsageError(
            f"judge_key_variable is {settings.judge_key_variable}, and no API key was handed over; the command line "
            "reads it from that environment variable, from Python give judge_key="
        )
    return JudgeDetector(
        settings.judge_url,
        settings.judge_model,
        api_key=setup.api_key,
        cache=setup.cache,
        concurrency=settings.judge_concurrency,
        timeout=settings.judge_timeout,
        retries=settings.judge_retries,
        per_minute=settings.judge_per_minute,
        outage=settings.judge_outage,
        remote=settings.judge_remote,
    )


def _verdict(response: Response, said: _Said) -> Verdict:
    return Verdict(response.prompt_id, faulty_or(said.label, response.text), said.why, len(response.token_ids))
