"""What a run folder holds so far. A report is made of these files alone; no model is needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sombrero.errors import RunError
from sombrero.records import (
    Baseline,
    Comparison,
    Effect,
    Finalist,
    LayerAccounting,
    LayerLeak,
    TrialScore,
    UnitProfile,
    Verification,
)

if TYPE_CHECKING:
    from sombrero.records import DirectionSet, EditedPlane, Manifold, MapQuality, RefusalMap

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

UNITS, QUALITY, MANIFOLD = "map/units.json", "map/quality.safetensors", "map/manifold.safetensors"
EDITED_PLANE, COMPARISON = "map/edited-plane.safetensors", "compare.json"
CONTROLS = ("k-means", "pca", "random", "shuffled")
"""Direction sets beside ``som`` and ``single``, in the order in which figures name them."""

LATER_FIELDS = ("auroc_low", "auroc_high", "log_odds")
"""Of a direction set; runs of the first version have none of them: not measured."""


SOURCES = {
    "refusal_map": "map/map.safetensors",
    "som": "map/directions-som.safetensors",
    "single": "map/directions-single.safetensors",
    "controls": "directions of a control (map/directions-k-means.safetensors and the like)",
    "quality": QUALITY,
    "manifold": MANIFOLD,
    "units": UNITS,
}
"""Where the records of the map come from, by their name in :class:`RunFiles`."""


@dataclass(frozen=True)
class RunFiles:
    """Everything a report is made of; None where the run has not come so far yet."""

    path: Path
    manifest: dict[str, Any]
    coverage: tuple[LayerAccounting, ...] | None
    leak: tuple[LayerLeak, ...] | None
    baseline: Baseline | None
    refusal_map: RefusalMap | None
    som: DirectionSet | None
    single: DirectionSet | None
    controls: Mapping[str, DirectionSet]
    quality: MapQuality | None
    manifold: Manifold | None
    units: tuple[UnitProfile, ...] | None
    trials: tuple[TrialScore, ...] | None
    effect: Effect | None
    verification: Verification | None
    summary: dict[str, Any] | None
    edited_plane: EditedPlane | None = None
    comparison: Comparison | None = None
    importance: dict[str, Any] | None = None

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

    @property
    def shown_state(self) -> int | None:
        """The state index that figures open at: the one whose units were asked who lives in them, else the best."""
        return self.units[0].state if self.units else self.best_state


def what_is_missing(run: RunFiles, needs: Iterable[str]) -> str | None:
    """What of these records the run does not have, in words; None when it has all of them."""
    absent = [SOURCES[name] for name in needs if not getattr(run, name)]
    if not absent:
        return None
    return f"this run has no {', no '.join(absent)} (not made yet, or by a version that did not)"


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
    map_records = _map_records(path)
    effect = _record(path / "effect.json", Effect)
    if effect is not None and effect.chosen not in {finalist.number for finalist in effect.finalists}:
        raise _damaged(path / "effect.json", f"the chosen trial {effect.chosen} is not among its finalists")
    return RunFiles(
        path=path,
        manifest=manifest,
        coverage=_record(path / "coverage.json", tuple[LayerAccounting, ...]),
        leak=_record(path / "leak.json", tuple[LayerLeak, ...]),
        baseline=_record(path / "baseline.json", Baseline),
        **map_records,
        trials=_trials(path / "trials.jsonl"),
        effect=effect,
        verification=_record(path / "verification.json", Verification),
        summary=_record(path / "summary.json", dict[str, Any]),
        comparison=_record(path / COMPARISON, Comparison),
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


def _trials(path: Path) -> tuple[TrialScore, ...] | None:
    if not path.is_file():
        return None
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
        return TypeAdapter(tuple[TrialScore, ...]).validate_python(lines)
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise _damaged(path, error) from error


def _map_records(path: Path) -> dict[str, Any]:
    """Every record about the map, None while it is not there; their shapes fit each other."""
    from sombrero.records import EditedPlane, Manifold, MapQuality, RefusalMap

    folder = path / "map"
    refusal_map = _tensor_record(folder / "map.safetensors", RefusalMap)
    sets = {name: _direction_set(folder / f"directions-{name}.safetensors") for name in ("som", "single", *CONTROLS)}
    quality, manifold = _tensor_record(path / QUALITY, MapQuality), _tensor_record(path / MANIFOLD, Manifold)
    edited = _tensor_record(path / EDITED_PLANE, EditedPlane)
    units = _record(path / UNITS, tuple[UnitProfile, ...])
    if refusal_map is not None:
        n_states, n_units = refusal_map.hit_counts.shape
        lattice = (n_states, refusal_map.n_rows * refusal_map.n_columns)
        _require(folder / "map.safetensors", "hit counts", (n_states, n_units), lattice)
        for name, record in sets.items():
            if record is not None:
                expected = lattice if name == "som" else (n_states, record.hit_counts.shape[-1])
                _require(folder / f"directions-{name}.safetensors", "hit counts", record.hit_counts.shape, expected)
        if quality is not None:
            _require(path / QUALITY, "numbers of units", quality.chosen.shape, (n_states,))
        if manifold is not None:
            _require(path / MANIFOLD, "codebook", manifold.codebook.shape, (*lattice, 2))
            if edited is not None:
                _require_rows(path / EDITED_PLANE, edited, manifold)
        if any(not (0 <= found.state < n_states and 0 <= found.unit < n_units) for found in units or ()):
            raise _damaged(path / UNITS, f"it names a unit outside a map of {lattice}")
    controls = {name: record for name, record in sets.items() if name in CONTROLS and record is not None}
    return {
        "refusal_map": refusal_map,
        "som": sets["som"],
        "single": sets["single"],
        "controls": controls,
        "quality": quality,
        "manifold": manifold,
        "edited_plane": edited,
        "units": units,
    }


def _require(path: Path, what: str, found: Iterable[int], expected: tuple[int, ...]) -> None:
    if tuple(found) != expected:
        raise _damaged(path, f"{what} of shape {tuple(found)}, a map of {expected}")


def _require_rows(path: Path, edited: EditedPlane, manifold: Manifold) -> None:
    """A prompt after the edit has one before it."""
    for after, before in ((edited.harmful, manifold.harmful), (edited.harmless, manifold.harmless)):
        if after.shape[0] != before.shape[0] or after.shape[1] > before.shape[1]:
            raise _damaged(path, f"points of shape {tuple(after.shape)}, a manifold of {tuple(before.shape)}")


def _direction_set(path: Path) -> DirectionSet | None:
    import torch

    from sombrero.records import DirectionSet

    fields = _tensor_record(path, dict)
    if fields is None:
        return None
    unknown: dict[str, Any] = {
        name: torch.full_like(fields["auroc"], torch.nan) for name in LATER_FIELDS if "auroc" in fields
    }
    try:
        return DirectionSet(**(unknown | fields))
    except TypeError as error:
        raise _damaged(path, error) from error


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
