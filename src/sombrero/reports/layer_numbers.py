"""What figures draw over the layers: where refusal is readable, how large it is, how many directions it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sombrero.reports.run_files import RunFiles

if TYPE_CHECKING:
    import torch

    from sombrero.records import DirectionSet


ENDS = ("low", "high")
"""Of an interval."""


@dataclass(frozen=True)
class Band:
    """A line over the state indices with its 95% interval; NaN where not measured."""

    name: str
    line: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class LayerNumbers:
    """What figures draw over the layers, one value a state index, NaN where not measured.

    single, salient: AUROC of the single direction, and of the unit with the most training hits. best: the largest
    AUROC of any unit that was hit; a maximum over m units on the prompts that it is measured on, so it flatters.
    """

    single: Band
    salient: Band
    best: list[float]
    difference: list[float]
    quantization: list[float]
    rank: list[float]
    topographic: list[float]
    accounting: list[float]

    @property
    def table(self) -> dict[str, list[float]]:
        """The columns of the table, by heading."""
        return {
            "AUROC, single": self.single.line,
            "AUROC, most salient unit": self.salient.line,
            "AUROC, best unit": self.best,
            "‖difference of means‖": self.difference,
            "Quantization error": self.quantization,
            "Effective rank": self.rank,
            "Topographic error": self.topographic,
            "Accounting error": self.accounting,
        }

    @property
    def all_columns(self) -> dict[str, list[float]]:
        """Everything that the figure draws, the intervals too, by heading."""
        bands = {
            f"{band.name}, 95% {side}": getattr(band, side) for band in (self.single, self.salient) for side in ENDS
        }
        return self.table | bands


def layer_numbers(run: RunFiles) -> LayerNumbers:
    """Every line of the figures. The run needs its map and both of its direction sets."""
    if run.refusal_map is None or run.som is None or run.single is None:
        raise ValueError("layer_numbers needs the map and its directions")
    refusal_map = run.refusal_map
    difference = (refusal_map.harmful_mean - refusal_map.harmless_mean).float().norm(dim=-1).tolist()
    errors: list[float] = [float("nan")] * len(difference)
    for entry in run.coverage or ():
        if entry.layer + 1 < len(errors):
            errors[entry.layer + 1] = entry.relative_error
    hit = run.som.hit_counts > 0
    return LayerNumbers(
        single=first_band("single direction", run.single),
        salient=first_band("most salient unit", run.som),
        best=run.som.auroc.where(hit, 0.0).amax(dim=1).tolist(),
        difference=difference,
        quantization=refusal_map.quantization_error.tolist(),
        rank=effective_rank(run.som.vectors, run.som.hit_counts).tolist(),
        topographic=refusal_map.topographic_error.tolist(),
        accounting=errors,
    )


def first_band(name: str, found: DirectionSet) -> Band:
    """The AUROC of a set's most salient direction at every state index."""
    return Band(name, *(values[:, 0].tolist() for values in (found.auroc, found.auroc_low, found.auroc_high)))


def effective_rank(vectors: torch.Tensor, hit_counts: torch.Tensor) -> torch.Tensor:
    """Effective number of dimensions of the directions of units that were hit: ``(L + 1, m, d)`` to ``(L + 1,)``.

    exp of the entropy of the normalised singular values of the unit directions (Roy & Vetterli 2007, definition 1),
    taken from the ``(m, m)`` Gram matrix in float64, so that it costs little at any width.
    """
    import torch

    unit = torch.nn.functional.normalize(vectors.to(torch.float64), dim=-1) * (hit_counts > 0)[..., None]
    values = torch.linalg.eigvalsh(unit @ unit.mT).clamp_min(0.0).sqrt()
    share = values / values.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.exp(torch.special.entr(share).sum(dim=-1))


def without_interval(band: Band) -> Band:
    """The line alone."""
    nothing = [float("nan")] * len(band.line)
    return Band(band.name, band.line, nothing, nothing)
