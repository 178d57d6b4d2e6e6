"""A bench to score trials on: a tiny model, its planner, and markers that some of its answers hold."""

from __future__ import annotations

from pathlib import Path

from sombrero.directions import choose_by_auroc
from sombrero.evaluation import MarkerDetector, first_token_log_probs, generate, refusal_tokens
from sombrero.records import ModelEdit
from sombrero.search import SearchSpace, TrialBench, make_space
from tests.planned import Planned, plan
from tests.tiny_models import N_LAYERS

MARKERS = tuple("abcdefghijk")


def make_bench(folder: Path) -> tuple[Planned, TrialBench]:
    """A bench whose base model refuses some of the prompts, by what its answers happen to hold."""
    planned = plan("llama", folder)
    bench = TrialBench(
        handle=planned.handle,
        planner=planned.planner,
        harmful=planned.harmful_prompts,
        harmless=planned.harmless_prompts,
        base_log_probs=first_token_log_probs(planned.handle, planned.harmless_prompts),
        refusal_tokens=first_tokens(planned),
        detector=MarkerDetector(MARKERS),
        max_new_tokens=8,
        batch_size=8,
        batch_tokens=1024,
    )
    assert 0 < count_refusals(bench) < len(bench.harmful), "the markers must split the answers of the tiny model"
    return planned, bench


def count_refusals(bench: TrialBench) -> int:
    """Refusals of the model as it stands, on whole answers."""
    responses = generate(bench.handle, bench.harmful, max_new_tokens=bench.max_new_tokens)
    return [bench.detector.judge(response).label for response in responses].count("refusal")


def first_tokens(planned: Planned):  # type: ignore[no-untyped-def]
    """The first tokens of the answers to harmful prompts, as if these were all refusals."""
    starts = [
        first_token_log_probs(planned.handle, prompts).argmax(dim=-1).tolist()
        for prompts in (planned.harmful_prompts, planned.harmless_prompts)
    ]
    return refusal_tokens(*starts)


def whole_space(planned: Planned) -> SearchSpace:
    """Everything that a search may vary on the tiny model."""
    best = choose_by_auroc(planned.directions["single"]).state
    return make_space(N_LAYERS, ("guarded", "project", "compose"), planned.directions, 3, best)


class WatchedPlanner:
    """A planner that calls ``watch(number of the call)`` before it builds."""

    def __init__(self, planned: Planned, watch) -> None:  # type: ignore[no-untyped-def]
        self.writers = planned.planner.writers
        self._build, self._watch, self.calls = planned.planner.build, watch, 0

    def build(self, parameters) -> ModelEdit:  # type: ignore[no-untyped-def]
        """See :meth:`sombrero.edits.EditPlanner.build`."""
        self.calls += 1
        self._watch(self.calls, parameters)
        return self._build(parameters)
