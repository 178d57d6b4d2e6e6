"""What decides the training of a map besides its samples: the settings, and everything random, drawn beforehand.

All layers see the same random draws, so a layer's outcome does not depend on which others it is trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from sombrero.som.lattice import Lattice
from sombrero.som.neighbourhoods import NEIGHBOURHOODS, cluster_weights, influence, lattice_distances

RuleName = Literal["batch", "online"]
RULES: tuple[str, ...] = get_args(RuleName)
InitializationName = Literal["random", "pca", "k-means++"]
INITIALIZATIONS: tuple[str, ...] = get_args(InitializationName)

LARGEST_SUBSET = 512
SUBSET_PER_UNIT = 16
"""More samples than both allow are first mapped by a random subset; epochs over all of them follow."""
MOST_SUBSET = 2048
"""Units beyond this many sixteenths share a subset: inner products of more samples would take too much memory."""
LARGEST_POOL = 4096
"""Samples that a map in the subspace of the widest directions is made of."""


@dataclass(frozen=True)
class Training:
    """The settings. Raises ValueError for a value out of range, or settings that exclude each other.

    sigma: width of the neighbourhood, in units of the grid. learning_rate: a0, in (0, 1]. n_steps: T, the online steps.
    The batch rule uses neither learning_rate nor n_steps.
    """

    lattice: Lattice
    rule: str = "batch"
    sigma: float = 0.3
    learning_rate: float = 0.01
    n_steps: int = 10_000
    neighbourhood: str = "gaussian"
    initialization: str = "random"

    def __post_init__(self) -> None:
        choices = {"rule": RULES, "neighbourhood": NEIGHBOURHOODS, "initialization": INITIALIZATIONS}
        for what, known in choices.items():
            if getattr(self, what) not in known:
                raise ValueError(f"{what} is {getattr(self, what)!r}; choose one of {', '.join(known)}")
        if not 0.0 < self.sigma < float("inf"):
            raise ValueError(f"sigma is {self.sigma}; it must be a finite number above 0")
        if not 0.0 < self.learning_rate <= 1.0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0 and at most 1")
        if self.n_steps < 1:
            raise ValueError(f"n_steps is {self.n_steps}; at least 1 step is needed")
        if self.rule == "batch" and self.neighbourhood == "mexican_hat":
            raise ValueError(
                "neighbourhood is 'mexican_hat' with rule 'batch'; its negative weights leave a weighted mean without "
                "bound (their total may be 0 or below): use rule='online', or the gaussian or bubble neighbourhood"
            )

    @property
    def is_online(self) -> bool:
        """Whether single steps are taken. Of one unit both rules want the mean, which the batch rule gives exactly."""
        return self.rule == "online" and self.lattice.n_units > 1

    def distances(self, like: torch.Tensor) -> torch.Tensor:
        """Lattice distances ``(m, m)`` as the neighbourhood takes them, in the dtype and on the device of ``like``."""
        return lattice_distances(self.neighbourhood, self.lattice, like)

    def influence(self, distances: torch.Tensor, sigma: float) -> torch.Tensor:
        """The neighbourhood function at lattice ``distances``."""
        return influence(self.neighbourhood, distances, sigma)

    def cluster_weights(self, hits: torch.Tensor, distances: torch.Tensor, sigma: float) -> torch.Tensor:
        """Weights of the batch rule ``(L, m, m)``, by the samples of each cluster, ``hits (L, m)``."""
        return cluster_weights(self.neighbourhood, hits, distances, sigma)


@dataclass(frozen=True)
class Draws:
    """Everything random in a training.

    subset ``(s,)`` and pool ``(p,)``: ascending samples, all of them or what maps of many samples begin with (see
    ``codebooks``). start and pool_start ``(m,)``: the first units, distinct positions in subset and in pool. order
    ``(T,)``: the sample of each online step. uniform ``(m, t)``: in [0, 1), for the t trials of each unit of k-means++.
    """

    subset: NDArray[np.int64]
    pool: NDArray[np.int64]
    start: NDArray[np.int64]
    pool_start: NDArray[np.int64]
    order: NDArray[np.int64]
    uniform: NDArray[np.float64]


def draw(n_samples: int, training: Training, generator: np.random.RandomState) -> Draws:
    """Draw the first units and the order of the samples; each sample comes equally often, as in MiniSom."""
    n_units = training.lattice.n_units
    shuffled = generator.permutation(n_samples)
    size = max(LARGEST_SUBSET, min(SUBSET_PER_UNIT * n_units, MOST_SUBSET), n_units)
    subset, pool = np.sort(shuffled[:size]), np.sort(shuffled[: max(LARGEST_POOL, size)])
    start = generator.permutation(len(subset))[:n_units]
    pool_start = generator.permutation(len(pool))[:n_units]
    trials = 2 + int(np.log(n_units))  # as many as scikit-learn's k-means++ makes
    uniform = generator.uniform(size=(n_units, trials))
    order = np.empty(0, dtype=np.int64)
    if training.is_online:
        order = generator.permutation(np.arange(training.n_steps) % n_samples)
    return Draws(subset, pool, start, pool_start, order, uniform)
