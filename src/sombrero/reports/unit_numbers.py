"""What a figure can tell of every unit of a map at one state index, by unit, in the map's order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sombrero.reports.colours import MOST_CATEGORIES
from sombrero.reports.lattice_shapes import Shape, between, neighbours
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import finite

if TYPE_CHECKING:
    import torch

    from sombrero.records import DirectionSet, RefusalMap, UnitProfile

Numbers = list[float | None]


@dataclass(frozen=True)
class UnitNumbers:
    """One state index. Every list has a value per unit; None where nothing was measured or a value is not finite.

    u: mean distance to the neighbours. rank: salience, 1 is the most salient. auroc with its 95% interval, low and
    high. log_odds: mean refusal log-odds of the unit's prompts. categories: of each unit, how many of its prompts are
    of each category, most frequent first; None where no profile was kept. single: AUROC of the single direction.
    """

    index: int
    hits: list[int]
    u: Numbers
    rank: list[int]
    auroc: Numbers
    low: Numbers
    high: Numbers
    log_odds: Numbers
    categories: list[tuple[tuple[str, int], ...]] | None
    single: float | None


def lattice_shape(refusal_map: RefusalMap) -> Shape:
    """Rows, columns and lattice, as the functions of ``lattice_shapes`` take them."""
    return refusal_map.n_rows, refusal_map.n_columns, refusal_map.lattice


def unit_numbers(run: RunFiles, index: int) -> UnitNumbers:
    """Everything of state ``index``. The run needs its map and both of its direction sets."""
    if run.refusal_map is None or run.som is None or run.single is None:
        raise ValueError("unit_numbers needs the map and its directions")
    units: list[int] = run.som.units[index].tolist()
    place = {unit: rank for rank, unit in enumerate(units)}
    profiles = {profile.unit: profile for profile in run.units or () if profile.state == index}
    order = range(len(units))

    def by_unit(values: torch.Tensor) -> Numbers:
        ranked = values[index].tolist()
        return [finite(ranked[place[unit]]) for unit in order]

    return UnitNumbers(
        index=index,
        hits=run.refusal_map.hit_counts[index].tolist(),
        u=[finite(value) for value in run.refusal_map.u_matrix[index].tolist()],
        rank=[place[unit] + 1 for unit in order],
        auroc=by_unit(run.som.auroc),
        low=by_unit(run.som.auroc_low),
        high=by_unit(run.som.auroc_high),
        log_odds=_log_odds(by_unit(run.som.log_odds), profiles),
        categories=[tuple(profiles[u].categories.items()) if u in profiles else () for u in order]
        if profiles
        else None,
        single=finite(float(run.single.auroc[index, 0])),
    )


def between_distances(refusal_map: RefusalMap, index: int) -> Numbers:
    """Distance between the codebook vectors of neighbours, one value a cell of ``lattice_shapes.between``."""
    codebook, shape = refusal_map.codebook[index].float(), lattice_shape(refusal_map)
    pairs = neighbours(*shape)
    one, other = [first for first, _ in pairs], [second for _, second in pairs]
    distances = dict(zip(pairs, (codebook[one] - codebook[other]).norm(dim=1).tolist(), strict=True))
    return [finite(sum(distances[pair] for pair in cell) / len(cell), 3) for _, cell in between(*shape)]


def category_keys(numbers: UnitNumbers) -> dict[str, str]:
    """Letters of the categories that lead in most prompts of the map, most frequent first: ``{"fraud": "A", ...}``."""
    totals: Counter[str] = Counter()
    for unit in numbers.categories or ():
        if unit:
            totals[unit[0][0]] += unit[0][1]
    return {name: chr(ord("A") + i) for i, (name, _) in enumerate(totals.most_common(MOST_CATEGORIES))}


def set_numbers(found: DirectionSet, index: int) -> list[tuple[int, int, float | None, float | None, float | None]]:
    """Of every direction at a state index, by salience: unit, hits, AUROC, low, high."""
    columns = (found.units, found.hit_counts, found.auroc, found.auroc_low, found.auroc_high)
    rows = zip(*(column[index].tolist() for column in columns), strict=True)
    return [(unit, hits, finite(auroc), finite(low), finite(high)) for unit, hits, auroc, low, high in rows]


def _log_odds(measured: Numbers, profiles: dict[int, UnitProfile]) -> Numbers:
    """Those of the direction set; where it has none, those of the profiles."""
    told = {unit: profile.log_odds for unit, profile in profiles.items()}
    return [finite(told.get(unit)) if value is None else value for unit, value in enumerate(measured)]
