"""The mapping half of a run: from the untouched model to its map, directions and controls, each kept in the folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sombrero.config import RunConfig
from sombrero.directions import LayerChoice, LayerFigures, layer_curves, principal_plane, unit_profiles
from sombrero.evaluation import find_detector
from sombrero.progress import Progress, Silent
from sombrero.records import (
    Baseline,
    Calibration,
    DirectionSet,
    HiddenStates,
    LayerAccounting,
    Manifold,
    MapQuality,
    RefusalMap,
    UnitProfile,
)
from sombrero.run_folder import RunFolder
from sombrero.session import Session
from sombrero.stages import calibration, controls, layers, mapping
from sombrero.stages.controls import DIRECTION_SETS, EDITED, Controls
from sombrero.stages.log_odds import PromptLogOdds, measure_log_odds
from sombrero.stages.quality import judge_map
from sombrero.states import load_states, save_states, shard_path
from sombrero.tensor_records import load_record, save_record

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


class Charting:
    """One configuration in one folder. Stages that are already on disk are read, not made again."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        progress: Progress | None = None,
        *,
        judge_key: str | None = None,
    ) -> None:
        find_detector(config.evaluation.detector)  # before minutes are spent
        self.config = config
        self.folder = folder
        self.progress = progress or Silent()
        self.session = Session(config, judge_key=judge_key, progress=self.progress)

    def map(self) -> Mapped:
        """Residual accounting, baseline, states, map, directions, layer choice, controls."""
        accounting = self.folder.once_json(
            "coverage", self._inputs(), list[LayerAccounting], lambda: mapping.account(self.session, self.progress)
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

    def _train(self, harmful: HiddenStates, harmless: HiddenStates) -> RefusalMap:
        """The map, trained on one part of the map prompts; its directions are judged on the other."""
        path = self.folder.path / "map" / "map.safetensors"

        def make() -> RefusalMap:
            folds = mapping.Folds.cut(harmful, harmless, self.config.map.holdout, self.config.seed)
            with self.progress.stage("map of every layer"):
                return mapping.train_map(self.session, folds)

        return self.folder.once(
            "map",
            self._inputs("map", after=("states-harmful", "states-harmless")),
            make,
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

    def calibration(self) -> Calibration:
        """What the base model refuses falsely; for the goal ``calibrate``."""
        return self.folder.once_json(
            "calibration",
            self._inputs("evaluation", "states"),
            Calibration,
            lambda: calibration.measure_calibration(self.session, self.progress),
        )

    def _calibration_states(self, found: Calibration) -> tuple[HiddenStates, HiddenStates]:
        """Of the prompts whose refusals are false, and of those that must stay refused."""
        openings = self._openings()
        makers = {
            "moved": lambda: calibration.collect_moved(self.session, found, openings, self.progress),
            "kept": lambda: calibration.collect_kept(self.session, found, self.progress),
        }
        moved, kept = (self._once_states(role, ("openings", "calibration"), make) for role, make in makers.items())
        return moved, kept

    def _openings(self) -> list[tuple[int, ...]]:
        return self.folder.once_json(
            "openings",
            self._inputs("states"),
            list[tuple[int, ...]],
            lambda: mapping.begin_answers(self.session, self.progress),
        )

    def _states(self, role: Literal["harmful", "harmless"]) -> HiddenStates:
        openings = self._openings()
        return self._once_states(
            role, ("openings",), lambda: mapping.collect(self.session, role, openings, self.progress)
        )

    def _once_states(self, role: str, after: tuple[str, ...], make: Callable[[], HiddenStates]) -> HiddenStates:
        path = self.folder.path / "states"
        return self.folder.once(
            f"states-{role}",
            self._inputs("states", after=after),
            make,
            lambda states: save_states(states, shard_path(path, role, 0)),
            lambda: load_states(path, role),
        )

    def _inputs(self, *sections: str, after: tuple[str, ...] = ()) -> list[object]:
        """What decides a stage: its sections of the configuration, the model, the prompts, the stages before it."""
        names = ("model", "prompts", *sections)
        left_out = {"map": READINGS, "prompts": {"contrast"}, "search": {"workers"}}
        chosen = {
            name: getattr(self.config, name).model_dump(mode="json", exclude=left_out.get(name)) for name in names
        }
        return [chosen, self.config.seed, self.session.identity, self._upstream(*after)]

    def _upstream(self, *stages: str) -> list[str]:
        return [self.folder.stage_hash(name) for name in stages]
