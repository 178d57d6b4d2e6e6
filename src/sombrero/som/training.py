"""The two training rules, for all layers at once: pure functions of tensors.

``online`` is Kohonen's: one sample at a time, the rule of Piras et al. (arXiv 2511.08379). ``batch`` replaces all units
at once by weighted means (Kohonen, Neural Networks 37, 2013). Layers never mix, and all see the same random draws, so
a layer's outcome does not depend on which others it is trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from sombrero.som.lattice import Lattice
from sombrero.som.quality import hit_counts, relative_scores
from sombrero.som.relocation import arrange, relocate
from sombrero.som.spaces import Space, precise_dtype, weighted_means

RuleName = Literal["batch", "online"]
RULES: tuple[str, ...] = get_args(RuleName)

ORDERING_EPOCHS = 16
SETTLING_EPOCHS = 6
LARGEST_SUBSET = 512
SUBSET_PER_UNIT = 16
"""More samples than both allow are first mapped by a random subset; ``FULL_EPOCHS`` epochs over all of them follow."""
FULL_EPOCHS = 3


@dataclass(frozen=True)
class Training:
    """What decides the training of a map besides its samples. Raises ValueError for a value out of range.

    sigma: width of the neighbourhood, in units of the grid. learning_rate: a0, in (0, 1]. n_steps: T, the online steps.
    The batch rule uses neither learning_rate nor n_steps.
    """

    lattice: Lattice
    rule: str = "batch"
    sigma: float = 0.3
    learning_rate: float = 0.01
    n_steps: int = 10_000

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule is {self.rule!r}; choose one of {', '.join(RULES)}")
        if not 0.0 < self.sigma < float("inf"):
            raise ValueError(f"sigma is {self.sigma}; it must be a finite number above 0")
        if not 0.0 < self.learning_rate <= 1.0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0 and at most 1")
        if self.n_steps < 1:
            raise ValueError(f"n_steps is {self.n_steps}; at least 1 step is needed")

    @property
    def is_online(self) -> bool:
        """Whether single steps are taken. Of one unit both rules want the mean, which the batch rule gives exactly."""
        return self.rule == "online" and self.lattice.n_units > 1

    def squared_distances(self, like: torch.Tensor) -> torch.Tensor:
        """Squared lattice distances ``(m, m)`` in the dtype and on the device of ``like``."""
        return torch.from_numpy(self.lattice.squared_distances).to(like)


@dataclass(frozen=True)
class Draws:
    """Everything random in a training.

    subset ``(s,)``: the samples that the batch rule trains on before it sees all of them. start ``(m,)``: the first
    units, distinct positions in subset. order ``(T,)``: the sample of each online step.
    """

    subset: NDArray[np.int64]
    start: NDArray[np.int64]
    order: NDArray[np.int64]


def draw(n_samples: int, training: Training, generator: np.random.RandomState) -> Draws:
    """Draw the first units and the order of the samples; each sample comes equally often, as in MiniSom."""
    n_units = training.lattice.n_units
    shuffled = generator.permutation(n_samples)
    if training.is_online:
        order = generator.permutation(np.arange(training.n_steps) % n_samples)
        return Draws(np.arange(n_samples), shuffled[:n_units], order)
    subset = np.sort(shuffled[: max(LARGEST_SUBSET, SUBSET_PER_UNIT * n_units)])
    return Draws(subset, generator.permutation(len(subset))[:n_units], np.empty(0, dtype=np.int64))


def asymptotic_decay(value: float, step: NDArray[np.int64], n_steps: int) -> NDArray[np.float64]:
    """``value / (1 + 2 t / T)``: from ``value`` to a third of it (DESIGN; MiniSom's ``asymptotic_decay``)."""
    return np.asarray(value / (1.0 + 2.0 * step / n_steps), dtype=np.float64)


def online_schedule(training: Training, steps: NDArray[np.int64]) -> torch.Tensor:
    """Learning rate a(t) and sharpness 1 / (2 sigma(t)^2) of the steps t, ``(2, len(steps))`` float64 on the CPU."""
    rate = asymptotic_decay(training.learning_rate, steps, training.n_steps)
    sigma = asymptotic_decay(training.sigma, steps, training.n_steps)
    return torch.from_numpy(np.stack([rate, 0.5 / sigma**2]))


def online_in_features(
    samples: torch.Tensor, codebook: torch.Tensor, order: NDArray[np.int64], schedule: torch.Tensor, training: Training
) -> torch.Tensor:
    """Online steps in the space of features; returns the new codebook ``(L, m, d)``.

    samples ``(L, n, d)``; order ``(T,)`` the sample of each step; schedule ``(2, T)`` from ``online_schedule``. Each
    step: ``b = argmin |x - w_j|``, then ``w_j += a exp(-dist(j, b)^2 / 2 sigma^2) (x - w_j)``.
    """
    codebook = codebook.to(precise_dtype(codebook.device), copy=True)  # float32 drifts by 3e-5 in 10,000 steps
    squared = training.squared_distances(codebook)
    for sample, rate, sharpness in zip(order.tolist(), *schedule.tolist(), strict=True):
        difference = samples[:, sample, None].to(codebook.dtype) - codebook
        best = difference.square().sum(dim=2).argmin(dim=1)
        step = squared[best].mul_(-sharpness).exp_().mul_(rate)
        codebook.addcmul_(difference, step[..., None])
    return codebook.to(samples.dtype)


def online_in_rows(
    gram: torch.Tensor, start: torch.Tensor, order: NDArray[np.int64], schedule: torch.Tensor, training: Training
) -> torch.Tensor:
    """The same steps without features: returns weights P ``(L, m, n)`` with codebook ``W = P X``.

    gram ``(L, n, n)``; start ``(m,)`` the samples that are the first units. ``C = P G`` and ``q_j = |w_j|^2`` obey
    recursions: with step e, ``C_j <- (1-e) C_j + e G_i`` and ``q_j <- (1-e)^2 q_j + 2 e (1-e) C_ji + e^2 G_ii``.
    """
    squared = training.squared_distances(gram)
    products = gram[:, start].clone()
    weights = torch.zeros_like(products)
    weights[:, torch.arange(len(start)), start] = 1.0
    lengths = gram.diagonal(dim1=1, dim2=2)[:, start].clone()
    for sample, rate, sharpness in zip(order.tolist(), *schedule.tolist(), strict=True):
        along = products[:, :, sample]
        best = torch.addcmul(lengths, along, along.new_tensor(-2.0)).argmin(dim=1)
        step = squared[best].mul_(-sharpness).exp_().mul_(rate)
        kept = 1.0 - step
        lengths = kept * (kept * lengths + 2.0 * step * along) + step.square() * gram[:, sample, sample, None]
        products.lerp_(gram[:, sample, None], step[..., None])
        weights.mul_(kept[..., None])
        weights[:, :, sample] += step
    return weights


def unit_weights(best: torch.Tensor, sigma: float, squared: torch.Tensor) -> torch.Tensor:
    """Weight in unit j of one sample of cluster k, ``g_jk / sum_i g_j,b(i)``, ``(L, m, m)``.

    Distances count from the nearest unit that has samples, which leaves the ratio as it is and keeps the total above
    0: an empty unit becomes the mean of the samples nearest to it on the grid, at any sigma.
    """
    hits = hit_counts(best, len(squared)).to(squared.dtype)
    reach = squared.expand(len(best), -1, -1).masked_fill(hits[:, None] == 0.0, float("inf"))
    influence = torch.exp((reach - reach.amin(dim=2, keepdim=True)) * (-0.5 / sigma**2))
    return influence / (influence @ hits[..., None])


def batch(space: Space, start: torch.Tensor, training: Training) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch rule; returns ``members (L, m, m)`` and ``best (L, n)``, which give the codebook (``weighted_means``).

    Ordering: sigma falls geometrically from half the grid to ``training.sigma``. Then sigma is what the online rule
    ends with, a third of that: units that are wasted move where samples are badly represented, as long as this lowers
    the quantization error; the units are arranged on the grid again; a few epochs settle them.
    """
    n_layers, _ = space.shape
    units = space.to_samples(start.expand(n_layers, -1))
    squared = training.squared_distances(units)
    final = training.sigma / 3.0

    def epoch(distances: torch.Tensor, sigma: float) -> torch.Tensor:
        best = distances.min(dim=1).indices
        return space.to_means(unit_weights(best, sigma, squared), best)

    for sigma in np.geomspace(max(training.lattice.widest_sigma, training.sigma), training.sigma, ORDERING_EPOCHS):
        units = epoch(units, float(sigma))
    for _ in range(SETTLING_EPOCHS):
        units = epoch(units, final)
    relocated = relocate(units, space, lambda distances: epoch(epoch(distances, final), final))
    units = arrange(relocated, training.lattice)
    for _ in range(SETTLING_EPOCHS):
        units = epoch(units, final)
    best = units.min(dim=1).indices
    return unit_weights(best, final, squared), best


def settle(samples: torch.Tensor, codebook: torch.Tensor, training: Training) -> torch.Tensor:
    """A few epochs at the final sigma over all centred samples ``(L, n, d)``, from a codebook of a subset of them."""
    squared = training.squared_distances(codebook)
    for _ in range(FULL_EPOCHS):
        best = relative_scores(samples, codebook).argmin(dim=2)
        codebook = weighted_means(samples, unit_weights(best, training.sigma / 3.0, squared), best)
    return codebook
