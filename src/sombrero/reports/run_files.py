"""What a run folder holds so far. A report is made of these files alone; no model is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from sombrero.errors import RunError
from sombrero.records import Baseline, EditParameters, Effect, Finalist, LayerAccounting, Verification

if TYPE_CHECKING:
    from sombrero.records import DirectionSet, RefusalMap

T = TypeVar("T")

STAGE_FILES = {
    "coverage": ("coverage.json",),
    "baseline": ("baseline.json",),
    "map": ("map/map.safetensors",),
    "directions": ("map/directions-som.safetensors", "map/directions-single.safetensors"),
    "search": ("trials.jsonl",),
    "effect": ("effect.json",),
    "verification": ("verification.json",),
    "summary": ("summary.json",),
}
"""The stages whose files a report reads, in the order of a run."""


@dataclass(frozen=True)
class Trial:
    """One line of ``trials.jsonl``. refusals and predicted_refusals count among ``n``; kl is first-token, in nats."""

    number: int
    parameters: EditParameters
    state: Literal["generated", "screened", "failed"]
    n: int
    refusals: int | None = None
    predicted_refusals: int | None = None
    log_odds: float | None = None
    kl: float | None = None
    error: str | None = None

    @property
    def rate(self) -> float | None:
        """Refusal rate: measured where it was, predicted otherwise."""
        count = self.predicted_refusals if self.refusals is None else self.refusals
        return None if count is None or self.n == 0 else count / self.n


@dataclass(frozen=True)
class RunFiles:
    """Everything a report is made of; None where the run has not come so far yet."""

    path: Path
    manifest: dict[str, Any]
    coverage: tuple[LayerAccounting, ...] | None
    baseline: Baseline | None
    refusal_map: RefusalMap | None
    som: DirectionSet | None
    single: DirectionSet | None
    trials: tuple[Trial, ...] | None
    effect: Effect | None
    verification: Verification | None
    summary: dict[str, Any] | None

    @property
    def missing(self) -> tuple[str, ...]:
        """Stages that are not finished yet, in order."""
        return tuple(stage for stage in STAGE_FILES if stage not in self.manifest["stages"])

    @property
    def planned_trials(self) -> int | None:
        """How many trials the search is to make."""
        planned = self.manifest["config"].get("search", {}).get("trials")
        return planned if isinstance(planned, int) else None

    @property
    def chosen(self) -> Finalist | None:
        """The picked edit with its figures on the reporting prompts."""
        if self.effect is None:
            return None
        return next(f for f in self.effect.finalists if f.number == self.effect.chosen)

    @property
    def best_state(self) -> int | None:
        """The state index whose single direction separates best on held-out prompts."""
        return None if self.single is None else int(self.single.auroc[:, 0].argmax())


def read_run(path: Path) -> RunFiles:
    """Read a run folder, also of a run that is still going.

    Raises RunError when there is no run, when a file is damaged, or when ``run.json`` says that a stage is finished and
    its file is not there.
    """
    manifest = _manifest(path)
    for stage, names in STAGE_FILES.items():
        absent = [name for name in names if not (path / name).is_file()]
        if absent and stage in manifest["stages"]:
            raise RunError(
                f"run.json in {path} says that the stage '{stage}' is finished, but {absent[0]} is missing; put it "
                "back, or start over with --fresh"
            )
    refusal_map, som, single = _map_records(path)
    effect = _record(path / "effect.json", Effect)
    if effect is not None and effect.chosen not in {finalist.number for finalist in effect.finalists}:
        raise _damaged(path / "effect.json", f"the chosen trial {effect.chosen} is not among its finalists")
    return RunFiles(
        path=path,
        manifest=manifest,
        coverage=_record(path / "coverage.json", tuple[LayerAccounting, ...]),
        baseline=_record(path / "baseline.json", Baseline),
        refusal_map=refusal_map,
        som=som,
        single=single,
        trials=_trials(path / "trials.jsonl"),
        effect=effect,
        verification=_record(path / "verification.json", Verification),
        summary=_record(path / "summary.json", dict[str, Any]),
    )


def _manifest(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    if not file.is_file():
        raise RunError(f"there is no run in {path} (no run.json); give the folder that 'sombrero run' wrote")
    try:
        manifest = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error
    if not isinstance(manifest, dict) or not all(isinstance(manifest.get(key), dict) for key in ("config", "stages")):
        raise _damaged(file, "it has no 'config' or no 'stages'")
    return manifest


def _record(path: Path, kind: type[T]) -> T | None:
    if not path.is_file():
        return None
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise _damaged(path, error) from error


def _trials(path: Path) -> tuple[Trial, ...] | None:
    if not path.is_file():
        return None
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
        return TypeAdapter(tuple[Trial, ...]).validate_python(lines)
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise _damaged(path, error) from error


def _map_records(path: Path) -> tuple[RefusalMap | None, DirectionSet | None, DirectionSet | None]:
    """The map and both direction sets, each None while it is not there; their shapes fit each other."""
    from sombrero.records import DirectionSet, RefusalMap

    folder = path / "map"
    refusal_map = _tensor_record(folder / "map.safetensors", RefusalMap)
    som = _tensor_record(folder / "directions-som.safetensors", DirectionSet)
    single = _tensor_record(folder / "directions-single.safetensors", DirectionSet)
    if refusal_map is not None:
        shape = (len(refusal_map.harmless_mean), refusal_map.n_rows * refusal_map.n_columns)
        for name, record in (("map", refusal_map), ("directions-som", som)):
            if record is not None and tuple(record.hit_counts.shape) != shape:
                found = tuple(record.hit_counts.shape)
                raise _damaged(folder / f"{name}.safetensors", f"hit counts of shape {found}, a map of {shape}")
    return refusal_map, som, single


def _tensor_record(path: Path, kind: type[T]) -> T | None:
    from sombrero.tensor_records import load_record

    if not path.is_file():
        return None
    try:
        return load_record(kind, path)
    except TypeError as error:  # fields that the record does not have, or lacks
        raise _damaged(path, error) from error


def _damaged(path: Path, reason: object) -> RunError:
    return RunError(f"the record {path} cannot be read: {reason}; start over with --fresh")
