"""The two models that a chat is with, and what can be changed of the edit while it goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sombrero.chat.setting import Setting
from sombrero.config import RunConfig
from sombrero.errors import RunError, UsageError
from sombrero.progress import Progress, Silent
from sombrero.run_folder import is_run, read_config
from sombrero.session import Session

if TYPE_CHECKING:
    from sombrero.records import ModelEdit, Subject, TrialScore
    from sombrero.stages.preparing import Preparing

History = Sequence[dict[str, str]]
BASE, EDITED = "base", "edited"


class ChatModels:
    """One loaded model as ``base`` and, of a run, as ``edited``: the edit is a hook, so changing it costs no reload.

    The edit at the beginning is the run's own. What builds others is prepared when the first change is asked for.
    """

    def __init__(
        self, session: Session, run: Preparing | None, edit: ModelEdit | None, setting: Setting | None
    ) -> None:
        self.session = session
        self.system_prompt = session.config.prompts.system_prompt
        self.shows_base = True
        self.setting = setting
        self._run = run
        self._edit = edit

    @property
    def names(self) -> tuple[str, ...]:
        """The models that answer."""
        if self.setting is None:
            return (BASE,)
        return (BASE, EDITED) if self.shows_base else (EDITED,)

    def answer(self, name: str, history: History, *, max_new_tokens: int) -> Iterator[str]:
        """The model's greedy answer as it grows; see :func:`sombrero.evaluation.stream`."""
        from sombrero.evaluation import stream

        prompt = self.session.conversation_under(self.system_prompt, history)
        return stream(self._subjects[name], prompt, max_new_tokens=max_new_tokens)

    @property
    def trials(self) -> tuple[TrialScore, ...]:
        """The trials of the run."""
        from sombrero.stages.trials import TRIALS, read_trials

        run, _ = self._edited()
        return read_trials(run.folder.path / TRIALS)

    def take_trial(self, number: int) -> None:
        """Edit as that trial did. Raises UsageError when there is none."""
        trials = self.trials
        found = next((trial for trial in trials if trial.number == number), None)
        if found is None:
            raise UsageError(f"there is no trial {number}; the run has 0 to {len(trials) - 1}")
        self._set(Setting(found))

    def take_strength(self, factor: float) -> None:
        """Scale every profile of the trial by this factor. Raises UsageError when that is out of range."""
        if not (math.isfinite(factor) and factor >= 0):
            raise UsageError(f"the strength {factor} is not a number of 0 or more; 1 is the trial's own")
        _, setting = self._edited()
        self._set(replace(setting, strength=factor))

    def take_units(self, units: tuple[int, ...]) -> None:
        """Edit along these units of the map (by salience). Raises UsageError when they are not among them."""
        _, setting = self._edited()
        self._set(replace(setting, units=units))

    def save(self, out: Path, progress: Progress | None = None) -> Path:
        """Bake the edit as it is set now into ``out``, with its provenance and a card.

        Raises UsageError when the folder holds something already, CheckpointError when the bake fails.
        """
        from sombrero.checkpoints import write_card
        from sombrero.records import Baseline
        from sombrero.stages.baking import bake_edit
        from sombrero.stages.provenance import trial_card_data, trial_provenance

        run, setting = self._edited()
        assert self._edit is not None
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} holds something already; give a new folder")
        score = setting.score
        facts = trial_provenance(self.session, score, run.folder.path) | setting.provenance
        report = bake_edit(self.session, self._edit, out, facts, progress or Silent())
        baseline = run.folder.load_json("baseline", Baseline)
        write_card(out, trial_card_data(self.session, score, self._edit, len(report.edited), baseline))
        return report.out

    def _edited(self) -> tuple[Preparing, Setting]:
        if self._run is None or self.setting is None:
            raise UsageError("there is no edit here to set or save; chat with the folder of a run")
        return self._run, self.setting

    def _set(self, setting: Setting) -> None:
        """Build first: an edit that cannot be built leaves everything as it was."""
        run, _ = self._edited()
        self._edit, self.setting = run.planner.build(setting.parameters), setting

    @property
    def _subjects(self) -> Mapping[str, Subject]:
        from sombrero.edits import edited
        from sombrero.stages.searching import subject

        found = {BASE: subject(self.session.handle)}
        if self._edit is not None:
            found[EDITED] = edited(self.session.handle, self.session.writers, self._edit)
        return found


def open_chat(target: str, config: RunConfig, progress: Progress | None = None) -> ChatModels:
    """The base model of ``target``, and the edited one where that is a finished run.

    Of a run, the settings are its own; a system prompt in ``config`` replaces the run's. Nothing is written.
    Raises RunError when the run has no edit yet.
    """
    path = Path(target)
    if not is_run(path):
        model = config.model.model_copy(update={"source": target, "revision": None})
        session = Session(config.model_copy(update={"model": model}), progress=progress)
        found = ChatModels(session, None, None, None)
    else:
        found = _open_run(path, progress)
    if config.prompts.system_prompt is not None:
        found.system_prompt = config.prompts.system_prompt
    found.session.handle  # noqa: B018  # loaded before the first message, not after it
    return found


def _open_run(path: Path, progress: Progress | None) -> ChatModels:
    file = path / "edit.safetensors"
    settings = read_config(path)
    if not file.is_file():
        raise RunError(f"the run in {path} has no edit yet; finish it first: sombrero run {path}")
    from sombrero.records import Effect
    from sombrero.stages.preparing import FinishedStages, Preparing
    from sombrero.stages.trials import TRIALS, read_trials
    from sombrero.tensor_records import load_edit

    run = Preparing(settings, FinishedStages(path), progress)
    chosen = run.folder.load_json("effect", Effect).chosen
    trial = next((trial for trial in read_trials(path / TRIALS) if trial.number == chosen), None)
    if trial is None:
        raise RunError(f"{path / TRIALS} does not hold the picked trial {chosen}; start over with --fresh")
    return ChatModels(run.session, run, load_edit(file), Setting(trial))
