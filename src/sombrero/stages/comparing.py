"""The parts of a comparison: directions of one source and seed, the search along them, its front measured again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from sombrero.config import MapConfig, RunConfig
from sombrero.directions import (
    Codebook,
    derive_directions,
    kmeans_codebook,
    pca_codebook,
    random_codebook,
    single_codebook,
)
from sombrero.edits import EditPlanner, bakeable_kinds, edited
from sombrero.errors import UsageError
from sombrero.evaluation import choose_measured
from sombrero.progress import Advance, Progress
from sombrero.records import (
    ComparisonBase,
    DirectionSet,
    Measurement,
    MethodName,
    TrialScore,
)
from sombrero.search import FairSpace, pareto_front, unit_sets
from sombrero.session import Session
from sombrero.stages.mapping import Folds, fit_map
from sombrero.stages.searching import measure_subject, report_sets, subject, usable_rules

DEFAULT_RULES = ("guarded",)


class Titled:
    """Progress whose stages say which part of a comparison they belong to."""

    def __init__(self, inner: Progress, title: str) -> None:
        self.trial, self.say = inner.trial, inner.say
        self._inner, self._title = inner, title

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """See :class:`sombrero.progress.Progress`."""
        return self._inner.stage(f"{title}: {self._title}", total)


def comparable(config: RunConfig) -> RunConfig:
    """The configuration of a comparison: rule ``guarded`` unless others were asked for.

    Raises UsageError for settings that a comparison has no use for.
    """
    if str(config.search.goal) != "suppress":
        raise UsageError(f"compare knows the goal suppress, not {config.search.goal}; leave search.goal out")
    if config.search.storage is not None:
        raise UsageError("compare keeps each of its studies in a file of its own; leave search.storage out")
    if config.search.workers > 1:
        raise UsageError(
            f"compare scores its trials in one process, and search.workers is {config.search.workers}: which trials "
            "several score depends on timing, and its sources must differ in their directions alone; leave it at 1"
        )
    if config.evaluation.keep_responses:
        raise UsageError("compare keeps no responses; leave evaluation.keep_responses out")
    if "rules" in config.search.model_fields_set:
        return config
    return config.model_copy(update={"search": config.search.model_copy(update={"rules": DEFAULT_RULES})})


def find_source(settings: MapConfig, method: MethodName, seed: int, folds: Folds) -> DirectionSet:
    """The directions of one source, of as many units as the map has; all sources see the same states."""
    mean, n_units = folds.harmless.hidden.mean(dim=0), settings.n_rows * settings.n_columns
    ids = folds.harmful.prompt_ids
    if method == "som":
        maps = fit_map(folds.harmful.hidden, settings, seed)
        codebook = Codebook("som", maps.codebook, maps.best_units, mean, ids)
    elif method == "single":
        codebook = single_codebook(folds.harmful.hidden.mean(dim=0), mean, ids)
    else:
        make = {"k-means": kmeans_codebook, "pca": pca_codebook, "random": random_codebook}[method]
        codebook = make(folds.harmful, mean, n_units, seed)
    held = folds.harmful_held, folds.harmless_held
    return derive_directions(codebook, *held, projected=settings.projected, seed=seed)


def units_offered(sources: Iterable[DirectionSet], most: int) -> int:
    """How many directions every source can offer at every layer, ``most`` at most; ``single`` is not asked.

    A unit without samples is none, nor is a component of length 0. State index 0 is left out: the template ends every
    prompt with the same token, so its embeddings hit one unit.
    """
    found = most
    for source in sources:
        if source.method != "single":
            there = source.vectors[1:].norm(dim=-1) > 0 if source.method == "pca" else source.hit_counts[1:] > 0
            found = min(found, int(there.sum(dim=1).min()))
    return max(1, found)


def offered(source: DirectionSet, n_units: int) -> DirectionSet:
    """The most salient directions of a source, and no others: what its edits are made of."""
    rows = ("vectors", "units", "hit_counts", "auroc", "auroc_low", "auroc_high", "log_odds")
    return replace(source, **{name: getattr(source, name)[:, :n_units].contiguous() for name in rows})


def fair_space(session: Session, method: MethodName, n_units: int, best_state: int) -> FairSpace:
    """What every method's search may vary: the same for all, but for the source of the directions."""
    rules, writers = usable_rules(session), session.writers
    kinds = {rule: bakeable_kinds(rule, writers) for rule in rules}
    n_layers = max(writer.layer for writer in writers) + 1
    return FairSpace(n_layers, rules, unit_sets(method, n_units), best_state, kinds, method=method)


def prepared_planner(session: Session, planner: EditPlanner, progress: Progress, title: str) -> EditPlanner:
    """The planner, with all that edits by the run's rules need; its keys are released."""
    with progress.stage(f"prepare edits: {title}", len(session.writers)) as advance:
        planner.prepare(usable_rules(session), on_writer=advance)
    planner.release_keys()
    return planner


def trials_to_measure(scores: tuple[TrialScore, ...], levels: tuple[float, ...], most: int) -> tuple[TrialScore, ...]:
    """The trials of the front that are measured again: those around the levels."""
    front = pareto_front(scores)
    return tuple(front[i] for i in choose_measured([score.rate for score in front], levels, most))


def measure_base(session: Session, progress: Progress) -> ComparisonBase:
    """The untouched model on the reporting prompts; the text is scored and dropped."""
    base, sets = subject(session.handle), report_sets(session)
    with progress.stage("measure base", sets.count) as advance:
        measurement, responses = measure_subject(session, base, base, sets, advance)
    length = session.config.evaluation.sequence_tokens
    return ComparisonBase(measurement, tuple(responses[p.prompt.id].token_ids[:length] for p in sets.harmless))


def measure_trial(
    session: Session, planner: EditPlanner, score: TrialScore, base: ComparisonBase, progress: Progress
) -> Measurement:
    """One edit on the reporting prompts, rounded as a checkpoint would store it."""
    sets = report_sets(session, base.continuations)
    live = edited(session.handle, session.writers, planner.build(score.parameters), rounded=True)
    with progress.stage(f"measure trial {score.number}", sets.count) as advance:
        return measure_subject(session, live, subject(session.handle), sets, advance)[0]


def count_states(scores: tuple[TrialScore, ...]) -> Mapping[str, int]:
    """How many trials were generated, screened out, and failed."""
    return {state: sum(s.state == state for s in scores) for state in ("generated", "screened", "failed")}
