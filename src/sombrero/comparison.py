"""A comparison of direction sources in one folder: the stages of a run up to its map, then a study for each source and
seed with the same budget, and what their fronts cost at equal refusal rates."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from sombrero.edits import EditPlanner
from sombrero.errors import UsageError
from sombrero.pipeline import Pipeline
from sombrero.records import (
    Comparison,
    ComparisonBase,
    DirectionSet,
    HiddenStates,
    Measurement,
    MethodName,
    TrialScore,
)
from sombrero.reports import write_comparison
from sombrero.run_folder import fingerprint
from sombrero.search import SerialScorer
from sombrero.stages import comparing, comparison_results, searching
from sombrero.stages.charting import Mapped
from sombrero.stages.comparison_results import Searched
from sombrero.stages.comparison_verdict import give_verdict
from sombrero.stages.mapping import Folds
from sombrero.stages.preparing import trial_bench
from sombrero.stages.trials import TrialLog, read_trials, write_trials
from sombrero.states import load_states
from sombrero.tensor_records import load_record, save_record

FORMAT = 1
SUBFOLDER = "compare"
NOT_THE_STUDY = {"trials", "finalists", "patience", "max_refusals", "max_leak", "keep_true_refusals", "workers"}
"""Settings of the search that may change without another study."""


class ComparisonPipeline:
    """The stages of a comparison. What is already on disk is read, not made again."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.config, self.folder = pipeline.config, pipeline.folder
        self.session, self.progress = pipeline.session, pipeline.progress
        self._planner: tuple[int, EditPlanner] | None = None

    def run(self) -> Comparison:
        """Every stage; the report is written as well."""
        if self.config.search.goal != "suppress":
            raise UsageError(
                f"a comparison is of the goal suppress, and search.goal is {self.config.search.goal}: matched refusal "
                "rates say nothing of what a calibrating edit keeps; leave the goal out"
            )
        if self.config.search.warm_from is not None:
            raise UsageError(
                f"search.warm_from ({self.config.search.warm_from}) would start some sources of a comparison ahead of "
                "others; leave it out"
            )
        self.pipeline.check_identity()
        searching.usable_rules(self.session)  # before minutes are spent on a map
        mapped, settings = self.pipeline.map(), self.config.compare
        # seed by seed: the sources of one share a planner
        sources = {(m, seed): self._find(m, seed) for seed in settings.seeds for m in settings.methods}
        n_units = comparing.units_offered(sources.values(), self.config.search.max_units)
        base = self._measure_base()
        found = {(m, seed): self._method(m, seed, mapped, sources, n_units, base) for m, seed in sources}
        by_method = {m: [found[m, seed] for seed in settings.seeds] for m in settings.methods}
        self._planner = None
        comparison = self.folder.once_json(
            "compare",
            [settings.model_dump(mode="json"), n_units, self.config.search.trials, self._results(found)],
            Comparison,
            lambda: self._conclude(mapped, base, by_method, n_units),
        )
        with self.progress.stage("report and figures of the comparison"):
            write_comparison(self.folder.path)
        return comparison

    def _find(self, method: MethodName, seed: int) -> DirectionSet:
        """One source's directions."""
        path = self._place(method, seed) / "directions.safetensors"
        upstream = [self.folder.stage_hash(name) for name in ("states-harmful", "states-harmless")]
        settings = self.config.map

        def make() -> DirectionSet:
            folds = Folds.cut(*self._states(), settings.holdout, self.config.seed)
            with self.progress.stage(f"directions: {method}, seed {seed}"):
                return comparing.find_source(settings, method, seed, folds)

        return self.folder.once(
            f"compare-directions-{method}-{seed}",
            [settings.model_dump(mode="json"), method, seed, self.config.seed, upstream],
            make,
            lambda value: save_record(value, path),
            lambda: load_record(DirectionSet, path),
        )

    def _method(
        self,
        method: MethodName,
        seed: int,
        mapped: Mapped,
        sources: dict[tuple[MethodName, int], DirectionSet],
        n_units: int,
        base: ComparisonBase,
    ) -> Searched:
        """One source's study, and its front measured again."""
        directions: dict[str, DirectionSet] = {
            m: comparing.offered(found, n_units) for (m, s), found in sources.items() if s == seed
        }
        scores = self._search(method, seed, mapped, directions, n_units)
        chosen = comparing.trials_to_measure(scores, self.config.compare.levels, self.config.search.finalists)
        measured = tuple((s, self._measure(method, seed, s, directions, mapped, base)) for s in chosen)
        return Searched(method, seed, scores, measured)

    def _search(
        self, method: MethodName, seed: int, mapped: Mapped, directions: dict[str, DirectionSet], n_units: int
    ) -> tuple[TrialScore, ...]:
        settings, place = self.config.search, self._place(method, seed)
        same = settings.model_dump(mode="json", exclude=NOT_THE_STUDY)
        upstream = [self.folder.stage_hash(n) for n in ("baseline", "layers", f"compare-directions-{method}-{seed}")]
        identity = fingerprint([same, method, seed, n_units, upstream])
        # another number of directions, say, is another study: it gets its own file instead of an error
        path, storage = place / "trials.jsonl", f"sqlite:///{place.absolute() / f'study-{identity[:12]}.db'}"

        def make() -> tuple[TrialScore, ...]:
            planner = self._prepared(seed, directions, mapped)
            place.mkdir(parents=True, exist_ok=True)
            return searching.search(
                self.session,
                SerialScorer(trial_bench(self.session, planner, mapped.baseline, None)),
                directions,
                mapped.choice.state,
                mapped.baseline,
                None,
                storage,
                identity,
                comparing.Titled(TrialLog(self.progress, path), f"{method}, seed {seed}"),
                space=comparing.fair_space(self.session, method, n_units, mapped.choice.state),
                seed=seed,
            )

        return self.folder.once(
            f"compare-search-{method}-{seed}",
            [identity, settings.trials],
            make,
            lambda scores: write_trials(scores, path),
            lambda: read_trials(path),
        )

    def _measure_base(self) -> ComparisonBase:
        return self.folder.once_json(
            "compare-base",
            [self.session.identity, self.config.evaluation.model_dump(mode="json"), self.config.model.dtype],
            ComparisonBase,
            lambda: comparing.measure_base(self.session, self.progress),
            under=f"{SUBFOLDER}/base",
        )

    def _measure(
        self,
        method: MethodName,
        seed: int,
        score: TrialScore,
        directions: dict[str, DirectionSet],
        mapped: Mapped,
        base: ComparisonBase,
    ) -> Measurement:
        name = f"compare-measure-{method}-{seed}-{score.number}"
        upstream = [self.folder.stage_hash(n) for n in ("compare-base", f"compare-directions-{method}-{seed}")]
        progress = comparing.Titled(self.progress, f"{method}, seed {seed}")
        return self.folder.once_json(
            name,
            [upstream, asdict(score.parameters)],
            Measurement,
            lambda: comparing.measure_trial(
                self.session, self._prepared(seed, directions, mapped), score, base, progress
            ),
            under=str(self._place(method, seed).relative_to(self.folder.path)),
        )

    def _prepared(self, seed: int, directions: dict[str, DirectionSet], mapped: Mapped) -> EditPlanner:
        """One planner for all sources of a seed: they share the factorised keys. One seed's is held at a time."""
        if self._planner is None or self._planner[0] != seed:
            self._planner = None
            planner = EditPlanner(
                self.session.handle, self.session.writers, directions, *self._states(), (mapped.choice.state,)
            )
            prepared = comparing.prepared_planner(self.session, planner, self.progress, f"seed {seed}")
            self._planner = (seed, prepared)
        return self._planner[1]

    def _conclude(
        self,
        mapped: Mapped,
        base: ComparisonBase,
        by_method: dict[MethodName, list[Searched]],
        n_units: int,
    ) -> Comparison:
        settings, base_rate = self.config.compare, comparison_results.unanswered_rate(mapped.baseline)
        fronts = tuple(comparison_results.front_of(one) for rows in by_method.values() for one in rows)
        matched = comparison_results.match(base.measurement, by_method, settings.levels)
        differences = comparison_results.differ(base.measurement, by_method, matched, settings)
        prompts = {role: len(self.session.prompts[role, "report"]) for role in ("harmful", "harmless", "borderline")}
        return Comparison(
            format=FORMAT,
            model=self.config.model.source,
            methods=settings.methods,
            seeds=settings.seeds,
            levels=settings.levels,
            trials=self.config.search.trials,
            rules=searching.usable_rules(self.session),
            units_offered=n_units,
            best_state=mapped.choice.state,
            margin=settings.margin,
            resamples=settings.resamples,
            prompts=prompts | {"harmful_search": len(self.session.prompts["harmful", "search"])},
            base=comparison_results.figures_of(base.measurement),
            base_search_rate=base_rate,
            verdict=give_verdict(settings.levels[0], differences, matched, prompts["harmful"], prompts["harmless"]),
            differences=differences,
            matched=matched,
            bands=tuple(
                comparison_results.band_of([f for f in fronts if f.method == method], base_rate) for method in by_method
            ),
            fronts=fronts,
        )

    def _results(self, found: dict[tuple[MethodName, int], Searched]) -> list[str]:
        names = ["compare-base", *(f"compare-search-{m}-{seed}" for m, seed in found)]
        names += [f"compare-measure-{m}-{seed}-{s.number}" for (m, seed), one in found.items() for s, _ in one.measured]
        return [self.folder.stage_hash(name) for name in names]

    def _states(self) -> tuple[HiddenStates, HiddenStates]:
        path = self.folder.path / "states"
        return load_states(path, "harmful"), load_states(path, "harmless")

    def _place(self, method: MethodName, seed: int) -> Path:
        return self.folder.path / SUBFOLDER / f"seed-{seed}" / method
