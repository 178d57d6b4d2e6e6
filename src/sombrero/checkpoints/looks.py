"""What a difference of two weights looks like (low rank, rescaled rows, all ranks); and many: which kind of edit."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sombrero.checkpoints.sketch import Spectrum

Kind = Literal["vector", "low-rank", "low-rank, rows rescaled", "full-rank", "rounding"]
AGREE = 0.9
"""Share of the energy that shared directions hold, and of the weights that must agree."""
NOISE_MARGIN = 1.5
LEFT = 0.05
"""Share of a difference that a low rank may leave where it is more than rounding."""
ARITHMETIC = 1e-4
SAME_NORM = 5e-3
SHARED_SHARE = 0.6
REMOVES = 0.9


@dataclass(frozen=True)
class Change:
    """One weight that differs.

    energy: ``||D||_F / ||W||_F``. rank: singular values above what rounding can make (of the difference with rows
    rescaled back, where ``kind`` says so); None for a vector, and where they are too many to count. explained: share
    of D's energy in them, or where there is no rank in all that were looked for. rounding: share of D's energy that
    rounding to the stored dtype can make. removes: squared cosine, weighted by energy, between each right singular
    vector and ``Wᵀu`` of its left one: 1 where the edit removes what the weight writes along u.
    """

    name: str
    shape: tuple[int, ...]
    energy: float
    rank: int | None
    explained: float | None
    rounding: float
    kind: Kind
    removes: float | None = None


@dataclass(frozen=True)
class Shape:
    """The numbers that a change is judged by.

    plain, rescaled: spectra of ``W' - W`` and of ``W' - diag(slope) W``. basis ``(rows, k)``, projected ``(k,
    columns)``: Q of the plain sketch and ``Qᵀ W``. norms ``(rows, 2)``: of the rows before and after. noise: energy
    that rounding can make; threshold: the largest singular value that it can make.
    """

    plain: Spectrum
    rescaled: Spectrum
    basis: torch.Tensor
    projected: torch.Tensor
    norms: torch.Tensor
    noise: float
    threshold: float

    def rank(self) -> int | None:
        """The rank of the plain difference, where a low one leaves no more than rounding, or than a small share of it.

        Singular values above what rounding can make, in the stored dtype or in the arithmetic of float32; where these
        are too many, the first few that hold nearly all. None where there is no such rank.
        """
        values, energy = self.plain.values.double(), self.plain.energy
        rank = int((values > max(self.threshold, ARITHMETIC * float(values[0]))).sum())
        left = energy - float(values[:rank].square().sum())
        if 0 < rank < len(values) and left <= NOISE_MARGIN * self.noise + LEFT * energy:
            return rank
        return main_rank(self.plain, LEFT) if rank else None

    def rows_kept(self) -> bool:
        """Whether all rows kept their lengths, though what was mainly added to them changes the length of the whole."""
        before, after = self.norms[:, 0], self.norms[:, 1]
        if float(((after - before).abs() <= SAME_NORM * before).double().mean()) < AGREE:
            return False
        energy = self.plain.energy
        gain = float((after.square() - before.square()).sum())
        main = main_rank(self.plain, 1 - AGREE) or 0
        U, values, Vt = self.plain.U[:, :main], self.plain.values[:main].double(), self.plain.Vt[:main]
        along = (((self.basis.T @ U).T @ self.projected) * Vt).sum(dim=1).double()  # u^T W v
        implied = float((2 * values * along + values.square()).sum())
        return abs(gain) < 0.2 * energy and (main == 0 or abs(implied) > 0.5 * energy)


def main_rank(spectrum: Spectrum, share: float) -> int | None:
    """How many singular values leave less than ``share`` of the energy; None where they are not few."""
    left = spectrum.energy - torch.cumsum(spectrum.values.double().square(), 0)
    few = int((left > share * spectrum.energy).sum()) + 1
    return few if few <= len(spectrum.values) // 4 else None


@dataclass(frozen=True)
class Looks:
    """What all changes together look like.

    directions: left singular directions that hold 90% of the energy of the low-rank changes, each weight counting the
    same; of ``ranks`` in all. removes: mean of the changes' ``removes``. kinds: how many weights of each kind.
    """

    verdict: Literal["identical", "rounding", "directional", "low-rank", "full-rank", "mixed"]
    text: str
    kinds: dict[Kind, int]
    directions: int | None = None
    ranks: int | None = None
    removes: float | None = None


Directions = torch.Tensor | None
"""Left singular vectors ``(rows, rank)`` of a change of low rank, weighted to a squared norm of 1 in all."""


def judge_change(name: str, shape: tuple[int, int], weight: float, found: Shape) -> tuple[Change, Directions]:
    """Say what kind of difference it is, and along what it writes; weight: ``||W||_F^2``."""
    energy = found.plain.energy
    rounding = min(1.0, found.noise / energy)
    relative = math.sqrt(energy / max(weight, 1e-300))

    def change(kind: Kind, rank: int | None, removes: float | None = None) -> Change:
        return Change(name, shape, relative, rank, explained, rounding, kind, removes)

    rank, rescaled = found.rank(), main_rank(found.rescaled, LEFT)
    explained = min(1.0, float(found.plain.values[: rank or None].double().square().sum()) / energy)
    if rescaled is not None and found.rows_kept():
        return change("low-rank, rows rescaled", rescaled), _directions(found.rescaled, rescaled)
    if rank is not None:
        return change("low-rank", rank, _removes(found, rank)), _directions(found.plain, rank)
    if energy <= NOISE_MARGIN * found.noise:
        return change("rounding", 0), None
    return change("full-rank", None), None


def _directions(spectrum: Spectrum, rank: int) -> torch.Tensor:
    values = spectrum.values[:rank]
    return torch.mul(spectrum.U[:, :rank], values / values.norm())


def _removes(found: Shape, rank: int) -> float:
    written = (found.basis.T @ found.plain.U[:, :rank]).T @ found.projected  # u^T W, for each u
    cosine = torch.nn.functional.cosine_similarity(written, found.plain.Vt[:rank], dim=1).double()
    weights = found.plain.values[:rank].double().square()
    return float((cosine.square() * weights).sum() / weights.sum())


def judge_edit(changes: Sequence[tuple[Change, Directions]]) -> Looks:
    """Say what the changes together look like."""
    kinds = dict(Counter(change.kind for change, _ in changes))
    if not changes:
        return Looks("identical", "every number is the same", kinds)
    counted = [(change, directions) for change, directions in changes if change.kind not in ("vector", "rounding")]
    if not counted and "vector" not in kinds:
        return Looks("rounding", "no difference is larger than rounding to the stored dtype makes", kinds)
    low = [(change, directions) for change, directions in counted if directions is not None]
    if not low:
        return Looks("full-rank", "changes of full rank, as training makes them", kinds)
    if len(low) < AGREE * len(counted):
        return Looks("mixed", f"{len(low)} of {len(counted)} changed matrices are of low rank", kinds)
    directions, ranks, room = _shared([part for _, part in low if part is not None])
    removes = [change.removes for change, _ in low if change.removes is not None]
    mean = sum(removes) / len(removes) if removes else None
    few = len(low) > 1 and directions <= SHARED_SHARE * min(ranks, room)
    facts = f"{len(low)} matrices of low rank, {ranks} ranks in all, {directions} directions hold 90% of them"
    if few or (mean is not None and mean >= REMOVES):
        how = "few output directions shared by many weights" if few else "each weight lost what it writes along them"
        return Looks("directional", f"a directional edit: {how}; {facts}", kinds, directions, ranks, mean)
    text = f"low rank without shared directions, as a merged adapter; {facts}"
    return Looks("low-rank", text, kinds, directions, ranks, mean)


def _shared(parts: Sequence[torch.Tensor]) -> tuple[int, int, int]:
    """Directions that hold 90% of what the changes write, ranks in all, and how many directions there could be.

    Each weight counts one, spread over its directions by energy; weights of another number of rows are apart.
    """
    groups: dict[int, list[torch.Tensor]] = defaultdict(list)
    for part in parts:
        groups[part.shape[0]].append(part)
    directions = 0
    for group in groups.values():
        stack = torch.cat(group, dim=1)
        gram = stack @ stack.T if stack.shape[0] < stack.shape[1] else stack.T @ stack
        energy = torch.linalg.eigvalsh(gram.double()).flip(0).clamp(min=0)
        directions += int((torch.cumsum(energy, 0) < AGREE * energy.sum()).sum()) + 1
    return directions, sum(part.shape[1] for part in parts), sum(groups)
