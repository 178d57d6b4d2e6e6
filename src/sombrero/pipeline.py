"""The stages of a run, in order. Each hands one record to the next and keeps it in the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from sombrero.checkpoints import write_card
from sombrero.config import RunConfig
from sombrero.edits import EditPlanner
from sombrero.errors import RunError
from sombrero.progress import Progress, Silent
from sombrero.records import (
    Baseline,
    DirectionSet,
    Effect,
    HiddenStates,
    LayerAccounting,
    ModelEdit,
    RefusalMap,
    Response,
    Verification,
)
from sombrero.reports import write_figures, write_report
from sombrero.run_folder import RunFolder, fingerprint, write_bytes, write_json
from sombrero.search import BETAS, TrialScore
from sombrero.session import Session
from sombrero.stages import baking, mapping, searching
from sombrero.stages.provenance import card_data, provenance
from sombrero.stages.summary import peak_rss_bytes, summarize
from sombrero.states import load_states, save_states, shard_path
from sombrero.tensor_records import load_edit, load_record, save_edit, save_record

Until = Literal["map", "search", "report"]
STATES_PER_SHARD = 1024
DIRECTION_SETS = ("som", "single")

_scores = TypeAdapter(tuple[TrialScore, ...])


@dataclass(frozen=True)
class Mapped:
    """What the mapping half of a run leaves."""

    baseline: Baseline
    refusal_map: RefusalMap
    directions: Mapping[str, DirectionSet]
    accounting: list[LayerAccounting]


class Pipeline:
    """One configuration in one folder. Stages that are already on disk are read, not made again."""

    def __init__(self, config: RunConfig, folder: RunFolder, progress: Progress | None = None) -> None:
        self.config = config
        self.folder = folder
        self.progress = progress or Silent()
        self.session = Session(config)

    def run(self, until: Until = "report") -> dict[str, Any] | None:
        """Every stage up to ``until``; the summary, when that is the last one."""
        self.check_identity()
        mapped = self.map()
        if until == "map":
            return None
        scores = self.search(mapped)
        if until == "search":
            return None
        effect = self.measure(scores)
        edit = self.chosen_edit(effect)
        self.__dict__.pop("planner", None)  # with its states: the bake is measured beside the base model
        verification = self.bake(effect, edit)
        summary = self.summarize(mapped, scores, effect, edit, verification)
        write_report(self.folder.path)
        write_figures(self.folder.path)
        return summary

    def map(self) -> Mapped:
        """Baseline, states, map, directions, residual accounting."""
        accounting = self.folder.once_json(
            "coverage", self._inputs(), list[LayerAccounting], lambda: mapping.account(self.session)
        )
        baseline = self.folder.once_json(
            "baseline",
            self._inputs("evaluation"),
            Baseline,
            lambda: mapping.measure_baseline(self.session, self.progress),
        )
        mapping.require_refusals(baseline, self.config.evaluation.min_base_refusals)
        refusal_map, directions = self._train()
        return Mapped(baseline, refusal_map, directions, accounting)

    def search(self, mapped: Mapped) -> tuple[TrialScore, ...]:
        """The study, up to the configured number of trials."""
        path = self.folder.path / "trials.jsonl"
        settings = self.config.search
        same_study = settings.model_dump(mode="json", exclude={"trials", "finalists", "target_rate", "max_kl"})
        identity = fingerprint([same_study, self.config.seed, self._upstream("directions", "baseline")])

        def make() -> tuple[TrialScore, ...]:
            storage = settings.storage or f"sqlite:///{self.folder.path.absolute() / 'study.db'}"
            progress = _TrialLog(self.progress, path)
            return searching.search(
                self.session, self.planner, mapped.directions, mapped.baseline, storage, identity, progress
            )

        return self.folder.once(
            "search", [identity, settings.trials], make, lambda s: write_trials(s, path), lambda: read_trials(path)
        )

    def measure(self, scores: tuple[TrialScore, ...]) -> Effect:
        """The base model and the finalists on the reporting prompts."""

        def make() -> Effect:
            effect, responses = searching.measure_effect(self.session, self.planner, scores, self.progress)
            if self.config.evaluation.keep_responses:
                self._keep_responses(responses)
            return effect

        return self.folder.once_json("effect", self._inputs("evaluation", "search", after=("search",)), Effect, make)

    def chosen_edit(self, effect: Effect) -> ModelEdit:
        """The picked trial's edit, as tensors."""
        path = self.folder.path / "edit.safetensors"
        return self.folder.once(
            "edit",
            self._upstream("effect", "directions"),
            lambda: self.planner.build(effect.finalists[0].parameters),
            lambda edit: save_edit(edit, path),
            lambda: load_edit(path),
        )

    def bake(self, effect: Effect, edit: ModelEdit) -> Verification:
        """The baked checkpoint in ``model/``, reloaded and measured again, with its card."""
        out = self.folder.path / "model"

        def make() -> Verification:
            facts = provenance(self.session, effect)
            report = baking.bake_edit(self.session, edit, out, facts, self.progress)
            verification = baking.verify_bake(self.session, edit, effect, report, self.progress)
            write_card(out, card_data(self.session, effect, edit, verification))
            return verification

        return self.folder.once_json("verification", self._upstream("edit"), Verification, make)

    def summarize(
        self,
        mapped: Mapped,
        scores: tuple[TrialScore, ...],
        effect: Effect,
        edit: ModelEdit,
        verification: Verification,
    ) -> dict[str, Any]:
        """``summary.json``. Timings are those of the stages when they were made."""
        path = self.folder.path / "summary.json"
        key = self._upstream("verification", "search")

        def make() -> dict[str, Any]:
            return summarize(
                self.session.handle, self.config.search.goal, effect, edit, scores, mapped.accounting, verification
            ) | {"seconds": self.folder.seconds, "peak_rss_bytes": peak_rss_bytes()}

        return self.folder.once(
            "summary", key, make, lambda s: write_json(path, s), lambda: json.loads(path.read_bytes())
        )

    @cached_property
    def planner(self) -> EditPlanner:
        """Builds edits. Needs the map stages to be finished."""
        _, directions = self._train()
        harmful, harmless = self._states("harmful"), self._states("harmless")
        return EditPlanner(self.session.handle, self.session.writers, directions, harmful, harmless, BETAS)

    def check_identity(self) -> None:
        """Refuse a folder whose run was made with another checkpoint or other prompts. Raises RunError."""
        known = self.folder.facts.get("identity")
        if known is None:
            self.folder.note(identity=self.session.identity, keeps_responses=self.config.evaluation.keep_responses)
            return
        changed = [name for name, value in self.session.identity.items() if known.get(name) != value]
        if changed:
            raise RunError(
                f"{self.folder.path} holds a run whose {' and '.join(changed)} changed since it began; start over with "
                "--fresh, or choose another --out"
            )

    def _train(self) -> tuple[RefusalMap, dict[str, DirectionSet]]:
        """The map and its directions, trained on one part of the map prompts and judged on the other."""
        harmful, harmless = self._states("harmful"), self._states("harmless")
        path = self.folder.path / "map"
        holdout, seed = self.config.map.holdout, self.config.seed
        (h_train, h_held), (g_train, g_held) = (mapping.split_states(s, holdout, seed) for s in (harmful, harmless))
        refusal_map = self.folder.once(
            "map",
            self._inputs("map", after=("states-harmful", "states-harmless")),
            lambda: mapping.train_map(self.session, h_train, g_train),
            lambda value: save_record(value, path / "map.safetensors"),
            lambda: load_record(RefusalMap, path / "map.safetensors"),
        )
        directions = self.folder.once(
            "directions",
            self._inputs("map", after=("map",)),
            lambda: mapping.find_directions(self.session, refusal_map, h_held, g_held),
            lambda value: _save_directions(value, path),
            lambda: {
                name: load_record(DirectionSet, path / f"directions-{name}.safetensors") for name in DIRECTION_SETS
            },
        )
        return refusal_map, directions

    def _states(self, role: Literal["harmful", "harmless"]) -> HiddenStates:
        path = self.folder.path / "states"
        openings = self.folder.once_json(
            "openings",
            self._inputs("states"),
            list[tuple[int, ...]],
            lambda: mapping.begin_answers(self.session, self.progress),
        )
        return self.folder.once(
            f"states-{role}",
            self._inputs("states", after=("openings",)),
            lambda: mapping.collect(self.session, role, openings, self.progress),
            lambda states: save_states(states, shard_path(path, role, 0)),
            lambda: load_states(path, role),
        )

    def _inputs(self, *sections: str, after: tuple[str, ...] = ()) -> list[object]:
        """What decides a stage: its sections of the configuration, the model, the prompts, the stages before it."""
        names = ("model", "prompts", *sections)
        chosen = {name: getattr(self.config, name).model_dump(mode="json") for name in names}
        return [chosen, self.config.seed, self.session.identity, self._upstream(*after)]

    def _upstream(self, *stages: str) -> list[str]:
        return [self.folder.stage_hash(name) for name in stages]

    def _keep_responses(self, responses: Mapping[str, Mapping[str, Response]]) -> None:
        lines = [
            json.dumps({"model": model, "prompt_id": name, "text": response.text}, ensure_ascii=False)
            for model, by_prompt in responses.items()
            for name, response in by_prompt.items()
        ]
        write_bytes(self.folder.path / "responses.jsonl", ("\n".join(lines) + "\n").encode())


class _TrialLog:
    """Progress that also keeps ``trials.jsonl`` up to date."""

    def __init__(self, inner: Progress, path: Path) -> None:
        self.stage, self.say = inner.stage, inner.say
        self._inner, self._path = inner, path

    def trial(self, score: TrialScore, scores: tuple[TrialScore, ...]) -> None:
        write_trials(scores, self._path)
        self._inner.trial(score, scores)


def write_trials(scores: tuple[TrialScore, ...], path: Path) -> None:
    """One JSON object a line, in the order of the trials."""
    write_bytes(path, "".join(json.dumps(asdict(score)) + "\n" for score in scores).encode())


def read_trials(path: Path) -> tuple[TrialScore, ...]:
    """Read what :func:`write_trials` wrote."""
    return _scores.validate_python([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])


def _save_directions(directions: Mapping[str, DirectionSet], folder: Path) -> None:
    for name, record in directions.items():
        save_record(record, folder / f"directions-{name}.safetensors")
