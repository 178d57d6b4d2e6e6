"""The stages of a run, in order. Each hands one record to the next and keeps it in the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from sombrero.checkpoints import write_card
from sombrero.config import RunConfig
from sombrero.directions import LayerChoice, LayerFigures, layer_curves, principal_plane, unit_profiles
from sombrero.edits import EditPlanner
from sombrero.errors import RunError
from sombrero.progress import Progress, Silent
from sombrero.records import (
    Baseline,
    DirectionSet,
    Effect,
    HiddenStates,
    LayerAccounting,
    LayerLeak,
    Manifold,
    MapQuality,
    ModelEdit,
    RefusalMap,
    Response,
    TrialScore,
    UnitProfile,
    Verification,
)
from sombrero.reports import write_figures, write_report
from sombrero.run_folder import RunFolder, fingerprint, peak_rss_bytes, write_bytes, write_json
from sombrero.session import Session
from sombrero.stages import baking, controls, layers, leak, mapping, searching
from sombrero.stages.controls import DIRECTION_SETS, EDITED, Controls
from sombrero.stages.log_odds import PromptLogOdds, measure_log_odds
from sombrero.stages.provenance import card_data, provenance
from sombrero.stages.quality import judge_map
from sombrero.stages.summary import summarize
from sombrero.stages.trials import TrialLog, read_trials, write_trials
from sombrero.states import load_states, save_states, shard_path
from sombrero.tensor_records import load_edit, load_record, save_edit, save_record

READINGS = {"layer_rule", "layer_max_kl", "permutations"}
"""Settings of the map that do not decide how it is trained, only how it is read."""


@dataclass(frozen=True)
class Mapped:
    """What the mapping half of a run leaves. directions are those that edits are made of."""

    baseline: Baseline
    refusal_map: RefusalMap
    quality: MapQuality
    units: tuple[UnitProfile, ...]
    directions: Mapping[str, DirectionSet]
    choice: LayerChoice
    controls: Controls
    accounting: list[LayerAccounting]


class Pipeline:
    """One configuration in one folder. Stages that are already on disk are read, not made again."""

    def __init__(self, config: RunConfig, folder: RunFolder, progress: Progress | None = None) -> None:
        self.config = config
        self.folder = folder
        self.progress = progress or Silent()
        self.session = Session(config)

    def run(self) -> dict[str, Any]:
        """Every stage; returns the summary."""
        self.check_identity()
        searching.usable_rules(self.session)  # before minutes are spent on a map
        mapped = self.map()
        scores = self.search(mapped)
        effect = self.measure(scores)
        edit = self.chosen_edit(effect)
        leaks = self.leak(edit)
        self.__dict__.pop("planner", None)  # with its states: the bake is measured beside the base model
        verification = self.bake(effect, edit)
        summary = self.summarize(mapped, scores, effect, edit, leaks, verification)
        self.show()
        return summary

    def show(self) -> None:
        """The report and the figures of what there is so far."""
        with self.progress.stage("report and figures"):
            write_report(self.folder.path)
            write_figures(self.folder.path)

    def map(self) -> Mapped:
        """Residual accounting, baseline, states, map, directions, layer choice, controls."""
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
        harmful, harmless = self._states("harmful"), self._states("harmless")
        refusal_map = self._train(harmful, harmless)
        log_odds = self.folder.once_json(
            "log-odds",
            self._inputs(after=("baseline",)),
            PromptLogOdds,
            lambda: measure_log_odds(self.session, baseline, self.progress),
            under="map",
        )
        directions = self._directions(refusal_map, harmful, harmless, log_odds)
        choice = self._choose_layer(directions["single"], baseline)
        units = self._units(refusal_map, choice, log_odds)
        quality = self._judge(refusal_map, harmful, harmless)
        weighed = self._read(refusal_map, directions, choice, harmful, harmless)
        return Mapped(baseline, refusal_map, quality, units, directions, choice, weighed, accounting)

    def search(self, mapped: Mapped) -> tuple[TrialScore, ...]:
        """The study, up to the configured number of trials."""
        path = self.folder.path / "trials.jsonl"
        settings = self.config.search
        same_study = settings.model_dump(
            mode="json", exclude={"trials", "finalists", "target_rate", "max_kl", "max_leak"}
        )
        identity = fingerprint([same_study, self.config.seed, self._upstream("directions", "baseline", "layers")])

        def make() -> tuple[TrialScore, ...]:
            storage = settings.storage or f"sqlite:///{self.folder.path.absolute() / 'study.db'}"
            progress = TrialLog(self.progress, path)
            return searching.search(
                self.session,
                self.planner,
                mapped.directions,
                mapped.choice.state,
                mapped.baseline,
                storage,
                identity,
                progress,
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

    def leak(self, edit: ModelEdit) -> list[LayerLeak]:
        """What the edited layers still write along the edit's directions."""
        return self.folder.once_json(
            "leak",
            self._upstream("edit"),
            list[LayerLeak],
            lambda: leak.measure_leak(self.session, edit, self.progress),
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
        leaks: list[LayerLeak],
        verification: Verification,
    ) -> dict[str, Any]:
        """``summary.json``. Timings are those of the stages when they were made."""
        path = self.folder.path / "summary.json"
        key = self._upstream("verification", "search", "leak")

        def make() -> dict[str, Any]:
            return summarize(self.session, effect, edit, scores, mapped.accounting, leaks, verification) | {
                "seconds": self.folder.seconds,
                "peak_rss_bytes": peak_rss_bytes(),
            }

        return self.folder.once(
            "summary", key, make, lambda s: write_json(path, s), lambda: json.loads(path.read_bytes())
        )

    @cached_property
    def planner(self) -> EditPlanner:
        """Builds edits by the run's rules. Needs the map stages to be finished."""
        harmful, harmless = self._states("harmful"), self._states("harmless")
        directions = controls.load_directions(self.folder.path / "map", EDITED)
        choice = self.folder.load_json("layers", LayerChoice, under="map")
        handle, writers = self.session.handle, self.session.writers
        planner = EditPlanner(handle, writers, directions, harmful, harmless, (choice.state,))
        with self.progress.stage("prepare edits", len(writers)) as advance:
            planner.prepare(searching.usable_rules(self.session), on_writer=advance)
        planner.release_keys()
        return planner

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

    def _train(self, harmful: HiddenStates, harmless: HiddenStates) -> RefusalMap:
        """The map, trained on one part of the map prompts; its directions are judged on the other."""
        path = self.folder.path / "map" / "map.safetensors"
        return self.folder.once(
            "map",
            self._inputs("map", after=("states-harmful", "states-harmless")),
            lambda: mapping.train_map(
                self.session, mapping.Folds.cut(harmful, harmless, self.config.map.holdout, self.config.seed)
            ),
            lambda value: save_record(value, path),
            lambda: load_record(RefusalMap, path),
        )

    def _directions(
        self, refusal_map: RefusalMap, harmful: HiddenStates, harmless: HiddenStates, log_odds: PromptLogOdds
    ) -> dict[str, DirectionSet]:
        """Directions of the map and of every control; those that edits are made of are read back."""
        path = self.folder.path / "map"
        return self.folder.once(
            "directions",
            self._inputs("map", after=("map", "log-odds")),
            lambda: controls.find_directions(
                self.config.map, self.config.seed, refusal_map, harmful, harmless, log_odds.values
            ),
            lambda found: controls.save_directions(found, path),
            lambda: controls.load_directions(path, EDITED),
        )

    def _choose_layer(self, single: DirectionSet, baseline: Baseline) -> LayerChoice:
        """The state index whose directions stand for the model's refusal."""
        rule = [self.config.map.layer_rule, self.config.map.layer_max_kl]
        return self.folder.once_json(
            "layers",
            [rule, self._inputs(after=("directions", "baseline"))],
            LayerChoice,
            lambda: layers.choose_layer(self.session, single, baseline, self.progress),
            under="map",
        )

    def _units(self, refusal_map: RefusalMap, choice: LayerChoice, log_odds: PromptLogOdds) -> tuple[UnitProfile, ...]:
        """Who lives in the units of the chosen layer's map."""
        prompts = self.session.prompts["harmful", "map"]
        return self.folder.once_json(
            "units",
            self._upstream("map", "layers", "log-odds"),
            tuple[UnitProfile, ...],
            lambda: unit_profiles(refusal_map, prompts, choice.state, log_odds.values),
            under="map",
        )

    def _judge(self, refusal_map: RefusalMap, harmful: HiddenStates, harmless: HiddenStates) -> MapQuality:
        """How far the map can be trusted, and how many units the prompts support."""
        path, settings, seed = self.folder.path / "map" / "quality.safetensors", self.config.map, self.config.seed

        def make() -> MapQuality:
            folds = mapping.Folds.cut(harmful, harmless, settings.holdout, seed)
            with self.progress.stage("quality of the map"):
                return judge_map(settings, seed, refusal_map, folds, harmful.hidden, harmless.hidden)

        return self.folder.once(
            "quality",
            self._inputs("map", after=("map",)),
            make,
            lambda value: save_record(value, path),
            lambda: load_record(MapQuality, path),
        )

    def _read(
        self,
        refusal_map: RefusalMap,
        directions: Mapping[str, DirectionSet],
        choice: LayerChoice,
        harmful: HiddenStates,
        harmless: HiddenStates,
    ) -> Controls:
        """What the map says: its curves and its plane at every layer, and its controls at the chosen one."""
        path, seed, settings = self.folder.path / "map", self.config.seed, self.config.map
        after = self._upstream("directions", "layers")
        self.folder.once_json(
            "curves",
            after,
            tuple[LayerFigures, ...],
            lambda: layer_curves(directions["som"], directions["single"], harmless),
            under="map",
        )
        self.folder.once(
            "manifold",
            self._upstream("map"),
            lambda: principal_plane(harmful, harmless, refusal_map.codebook, seed=seed),
            lambda value: save_record(value, path / "manifold.safetensors"),
            lambda: load_record(Manifold, path / "manifold.safetensors"),
        )

        def make() -> Controls:
            found = controls.load_directions(path, DIRECTION_SETS)
            with self.progress.stage("controls of the map", settings.permutations) as advance:
                return controls.weigh(settings, seed, found, choice.state, harmful, harmless, advance)

        return self.folder.once_json("controls", [after, settings.permutations], Controls, make, under="map")

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
        chosen = {
            name: getattr(self.config, name).model_dump(mode="json", exclude=READINGS if name == "map" else None)
            for name in names
        }
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
