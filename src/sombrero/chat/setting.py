"""The edit as it is set now: a trial of the run, and what was changed of it by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sombrero.records import EditParameters, LayerProfile, TrialScore
from sombrero.records.models import WriterKind

MAP_DIRECTIONS = "som"


@dataclass(frozen=True)
class Setting:
    """strength: factor on every profile of the trial. units: map units in place of the trial's directions, or None."""

    trial: TrialScore
    strength: float = 1.0
    units: tuple[int, ...] | None = None

    @property
    def is_changed(self) -> bool:
        """Whether the edit is another one than the trial's, so that its figures do not hold."""
        return self.parameters != self.trial.parameters

    @property
    def parameters(self) -> EditParameters:
        """What the edit is built from."""
        found = self.trial.parameters
        profiles: Mapping[WriterKind, LayerProfile] = {
            kind: replace(profile, strength=profile.strength * self.strength)
            for kind, profile in found.profiles.items()
        }
        found = replace(found, profiles=profiles)
        return found if self.units is None else replace(found, directions=MAP_DIRECTIONS, units=self.units)

    @property
    def score(self) -> TrialScore:
        """The trial with its figures; of a changed one the parameters alone, as nothing was measured of it."""
        if not self.is_changed:
            return self.trial
        return TrialScore(self.trial.number, self.parameters, "screened", self.trial.n)

    @property
    def provenance(self) -> dict[str, Any]:
        """What was set by hand, for the record of a bake."""
        if not self.is_changed:
            return {}
        units = None if self.units is None else list(self.units)
        return {"measured": {}, "set_by_hand": {"trial": self.trial.number, "strength": self.strength, "units": units}}

    def __str__(self) -> str:
        where = self.parameters
        units = "single direction" if where.directions == "single" else "units " + "+".join(map(str, where.units))
        changed = ", set by hand" if self.is_changed else ""
        return f"trial {self.trial.number}, rule {where.rule}, {units}, strength ×{self.strength:g}{changed}"
