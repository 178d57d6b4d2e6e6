"""The stages of a run, in order. Each hands one record to the next and keeps it in the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sombrero.checkpoints import write_card
from sombrero.config import BakeConfig
from sombrero.errors import RunError
from sombrero.records import (
    EditedPlane,
    Effect,
    LayerLeak,
    LayerRouting,
    ModelEdit,
    Response,
    TrialScore,
    Verification,
)
from sombrero.reports import write_figures, write_report
from sombrero.run_folder import fingerprint, peak_rss_bytes, write_bytes, write_json
from sombrero.search import ALPHAS
from sombrero.stages import baking, leak, moving, routing, searching
from sombrero.stages.charting import Mapped
from sombrero.stages.preparing import Preparing
from sombrero.stages.provenance import card_data, provenance
from sombrero.stages.summary import summarize
from sombrero.stages.trials import TrialLog, read_trials, write_trials
from sombrero.tensor_records import load_edit, load_record, save_edit, save_record


class Pipeline(Preparing):
    """Every stage of one configuration in one folder, one method each."""

    def run(self) -> dict[str, Any]:
        """Every stage; returns the summary."""
        self.check_identity()
        searching.usable_rules(self.session)  # before minutes are spent on a map
        mapped = self.map()
        scores = self.search(mapped)
        effect = self.measure(scores)
        edit = self.chosen_edit(effect)
        leaks = self.leak(edit)
        self.route(edit)
        self.moved(edit)
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

    def search(self, mapped: Mapped) -> tuple[TrialScore, ...]:
        """The study, up to the configured number of trials."""
        path = self.folder.path / "trials.jsonl"
        settings = self.config.search
        same_study = settings.model_dump(
            mode="json", exclude=searching.PICKING | (set() if settings.warm_from else {"warm_from"})
        )
        found = self.calibration() if settings.goal == "calibrate" else None
        stages = ("directions", "baseline", "layers", *(() if found is None else ("calibration",)))
        solved = [] if found is None else [ALPHAS["calibrate"]]  # a study of before would hold edits of another solve
        identity = fingerprint([same_study, self.config.seed, self._upstream(*stages), *solved])

        def make() -> tuple[TrialScore, ...]:
            storage = settings.storage or f"sqlite:///{self.folder.path.absolute() / 'study.db'}"
            progress = TrialLog(self.progress, path)
            return searching.search(
                self.session,
                self.scorer(),
                mapped.directions,
                mapped.choice.state,
                mapped.baseline,
                found,
                storage,
                identity,
                progress,
            )

        ended = [identity, settings.trials, *([settings.patience] if settings.patience else [])]
        return self.folder.once("search", ended, make, lambda s: write_trials(s, path), lambda: read_trials(path))

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

    def route(self, edit: ModelEdit) -> None:
        """For a model with experts: which of them the map's prompts reach, and what the edit did to the routers."""
        if routing.has_experts(self.session):
            found = self.folder.once_json(
                "routing",
                self._upstream("edit"),
                list[LayerRouting],
                lambda: routing.measure(self.session, edit, self.progress),
            )
            self.folder.note(experts=routing.counted(self.session, found))

    def moved(self, edit: ModelEdit) -> EditedPlane:
        """Where the edit moved the prompts, for the picture of the manifold before and after."""
        path = self.folder.path / "map" / "edited-plane.safetensors"
        return self.folder.once(
            "edited-plane",
            self._upstream("edit", "manifold"),
            lambda: moving.edited_plane(
                self.session, edit, self._states("harmful"), self._states("harmless"), self.progress
            ),
            lambda plane: save_record(plane, path),
            lambda: load_record(EditedPlane, path),
        )

    def bake(self, effect: Effect, edit: ModelEdit) -> Verification:
        """The baked checkpoint in ``model/``, reloaded and measured again, with its card."""
        out = self.folder.path / "model"
        settings = self.config.bake
        key = [*self._upstream("edit"), *([settings.model_dump()] if settings != BakeConfig() else [])]

        def make() -> Verification:
            facts = provenance(self.session, effect, self.folder.path)
            report = baking.bake_edit(
                self.session,
                edit,
                out,
                facts,
                self.progress,
                packing=settings.packed,
                accept_error=settings.accept_requantization_error,
            )
            verification = baking.verify_bake(self.session, edit, effect, report, self.progress)
            card = card_data(self.session, effect, edit, verification)
            write_card(out, replace(card, packed=report.packed))
            return verification

        return self.folder.once_json("verification", key, Verification, make)

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

    def _keep_responses(self, responses: Mapping[str, Mapping[str, Response]]) -> None:
        lines = [
            json.dumps({"model": model, "prompt_id": name, "text": response.text}, ensure_ascii=False)
            for model, by_prompt in responses.items()
            for name, response in by_prompt.items()
        ]
        write_bytes(self.folder.path / "responses.jsonl", ("\n".join(lines) + "\n").encode())
