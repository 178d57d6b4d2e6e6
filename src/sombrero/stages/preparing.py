"""What trials are scored with once the map is there: in the run's own process, or again in each of its workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from transformers.utils.logging import disable_progress_bar

from sombrero.config import RunConfig
from sombrero.directions import LayerChoice
from sombrero.edits import EditPlanner
from sombrero.errors import RunError
from sombrero.evaluation import first_token_log_probs, refusal_tokens
from sombrero.records import Baseline, Calibration
from sombrero.run_folder import FORMAT, RunFolder, fingerprint, read_manifest
from sombrero.search import ALPHAS, Scorer, SerialScorer, TrialBench, WorkerPool
from sombrero.session import Session
from sombrero.stages import controls
from sombrero.stages.calibration import true_refusals
from sombrero.stages.charting import Charting
from sombrero.stages.controls import EDITED
from sombrero.stages.searching import asked_role, usable_rules

T = TypeVar("T")


class Preparing(Charting):
    """The stages up to the map, and what trials are scored with. That needs the stages to be finished."""

    @cached_property
    def planner(self) -> EditPlanner:
        """Builds edits by the run's rules."""
        harmful, harmless = self._states("harmful"), self._states("harmless")
        directions = controls.load_directions(self.folder.path / "map", EDITED)
        choice = self.folder.load_json("layers", LayerChoice, under="map")
        handle, writers = self.session.handle, self.session.writers
        goal, kept = self.config.search.goal, None
        if goal == "calibrate":
            harmful, kept = self._calibration_states(self.calibration())
        n_answer = self.config.states.key_answer_tokens
        planner = EditPlanner(handle, writers, directions, harmful, harmless, (choice.state,), kept, n_answer)
        with self.progress.stage("prepare edits", len(writers)) as advance:
            planner.prepare(usable_rules(self.session), alpha=ALPHAS[goal], on_writer=advance)
        planner.release_keys()
        return planner

    def bench(self) -> TrialBench:
        """Planner, model and prompts of this run."""
        found = self.calibration() if self.config.search.goal == "calibrate" else None
        return trial_bench(self.session, self.planner, self.folder.load_json("baseline", Baseline), found)

    def scorer(self) -> Scorer:
        """Scores the trials of this run: here, or in ``search.workers`` processes."""
        workers = self.config.search.workers
        if workers == 1:
            return SerialScorer(self.bench())
        if self.config.search.goal == "calibrate":  # states that a worker, which makes no stage, finds in the folder
            self._calibration_states(self.calibration())
        n = len(self.session.rendered(asked_role(self.config.search.goal), "search"))
        make = partial(open_bench, self.config, self.folder.path, self.session.judge_key)
        return WorkerPool(make, workers, n)


class FinishedStages(RunFolder):
    """A run's folder as one sees it who does not hold its lock (a worker, a chat): stages are read, none is made."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, read_manifest(path))

    def once(
        self, name: str, inputs: object, make: Callable[[], T], save: Callable[[T], None], load: Callable[[], T]
    ) -> T:
        """The stage's record. Raises RunError when it was not finished with these inputs."""
        if not self.is_finished(name, fingerprint([FORMAT, name, inputs])):
            raise RunError(
                f"the stage {name} of the run in {self.path} is unfinished, or was made with another model or other "
                "prompts than are there now; let 'sombrero run' finish, or start over with --fresh"
            )
        return load()


def open_bench(config: RunConfig, path: Path, judge_key: str | None = None) -> TrialBench:
    """The bench of a worker: the model and the planner again, from the run's folder."""
    disable_progress_bar()  # the run has a bar of its own on the same terminal
    return Preparing(config, FinishedStages(path), judge_key=judge_key).bench()


def trial_bench(
    session: Session, planner: EditPlanner, baseline: Baseline, calibration: Calibration | None
) -> TrialBench:
    """All that scoring a trial needs besides its parameters."""
    settings = session.config
    harmless = session.rendered("harmless", "search")
    return TrialBench(
        handle=session.handle,
        planner=planner,
        harmful=session.rendered(asked_role(settings.search.goal), "search"),
        harmless=harmless,
        base_log_probs=first_token_log_probs(session.handle, harmless, batch_tokens=settings.states.batch_tokens),
        refusal_tokens=refusal_tokens(baseline.refusal_starts, baseline.answer_starts),
        detector=session.detector,
        max_new_tokens=settings.evaluation.max_new_tokens,
        batch_size=settings.evaluation.batch_size,
        batch_tokens=settings.states.batch_tokens,
        true=() if calibration is None else true_refusals(session, baseline, calibration),
    )
