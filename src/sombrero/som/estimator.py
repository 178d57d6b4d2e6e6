"""The self-organizing map as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from sombrero.som import quality
from sombrero.som.lattice import Lattice
from sombrero.som.layers import LayerMaps, train_maps
from sombrero.som.training import Training, online_in_features, online_schedule


class SelfOrganizingMap(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Self-organizing map (Kohonen) with an online and a batch training rule.

    Parameters
    ----------
    n_rows, n_columns : int
        The grid. ``m = n_rows * n_columns`` units, numbered row by row. A 1 x 1 map is the mean of the samples,
        whatever the rule.
    lattice : {"hexagonal", "rectangular"}
        How the units are laid out; see ``lattice.Lattice``.
    rule : {"batch", "online"}
        ``batch``: epochs of weighted means, ordered, annealed, then refined (``training.batch``). ``online``: one
        random sample per step, ``w_j += a(t) exp(-dist(j, b)^2 / 2 sigma(t)^2) (x - w_j)``, as in MiniSom.
    sigma : float
        Width of the neighbourhood, in units of the grid: where the online rule begins and batch ordering ends. Both
        rules end with a third of it.
    learning_rate : float
        a(0) of the online rule, in (0, 1]. ``partial_fit`` uses it too.
    n_steps : int
        T, the steps of the online rule, after which rate and width have fallen to a third.
    random_state : int, RandomState instance or None
        Seeds the first units and the order of the samples. An int makes every outcome reproducible.

    Attributes
    ----------
    codebook_ : ndarray (m, n_features)
    labels_ : ndarray (n_samples,) int64, best unit of each sample of the last fit or partial_fit
    hit_counts_ : ndarray (m,) int64, how often each unit is in ``labels_``
    quantization_error_, topographic_error_ : float, over the same samples
    n_steps_seen_ : int, steps of the online schedule that the map has behind it
    n_features_in_ : int

    Samples are float32 or float64; the codebook and the distances keep the dtype.
    """

    def __init__(
        self,
        n_rows: int = 4,
        n_columns: int = 4,
        *,
        lattice: str = "hexagonal",
        rule: str = "batch",
        sigma: float = 0.3,
        learning_rate: float = 0.01,
        n_steps: int = 10_000,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_rows = n_rows
        self.n_columns = n_columns
        self.lattice = lattice
        self.rule = rule
        self.sigma = sigma
        self.learning_rate = learning_rate
        self.n_steps = n_steps
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: None = None) -> SelfOrganizingMap:
        """Train on ``X (n_samples, n_features)`` from scratch.

        Raises ValueError for settings out of range, fewer samples than units, and samples that are not finite.
        """
        training = self._training()
        samples = self._samples(X, training)
        hidden = torch.from_numpy(samples)[:, None]
        maps = train_maps(hidden, training, check_random_state(self.random_state), hidden.device)
        self.n_steps_seen_ = len(samples) if training.lattice.n_units == 1 else self.n_steps
        return self._store(maps)

    def partial_fit(self, X: ArrayLike, y: None = None) -> SelfOrganizingMap:
        """Take one online step per sample of ``X``, in the order given, whatever the rule.

        The first call draws the first units from its samples, so it needs as many samples as units. The schedule goes
        on from call to call, and stays at its end after ``n_steps``. A 1 x 1 map is the mean of all samples seen.
        """
        training = self._training()
        first = not hasattr(self, "codebook_")
        samples = self._samples(X, training) if first else self._checked(X)
        if first:
            self.n_steps_seen_ = 0
            start = check_random_state(self.random_state).permutation(len(samples))[: training.lattice.n_units]
            self.codebook_ = samples[start]
        steps = self.n_steps_seen_ + np.arange(len(samples))
        schedule = online_schedule(training, np.minimum(steps, training.n_steps))
        if training.lattice.n_units == 1:
            schedule[0] = torch.from_numpy(1.0 / (1.0 + steps))
        layer, codebook = torch.from_numpy(samples)[None], torch.from_numpy(self.codebook_.astype(samples.dtype))[None]
        codebook = online_in_features(layer, codebook, np.arange(len(samples)), schedule, training)
        self.n_steps_seen_ += len(samples)
        best, second = quality.best_two_units(layer, codebook)
        return self._store(
            LayerMaps(
                codebook,
                best,
                quality.hit_counts(best, training.lattice.n_units),
                quality.quantization_error(layer, codebook, best),
                quality.topographic_error(best, second, training.lattice),
                quality.u_matrix(codebook, training.lattice),
            )
        )

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Best unit of every sample of ``X (n_samples, n_features)``, ``(n_samples,)`` int64."""
        samples, codebook = self._both(X)
        return np.asarray(quality.best_units(samples, codebook)[0])

    def transform(self, X: ArrayLike) -> NDArray[np.floating[Any]]:
        """Euclidean distance of every sample to every unit, ``(n_samples, m)`` in the dtype of ``X``."""
        samples, codebook = self._both(X)
        return torch.cdist(samples, codebook, compute_mode="donot_use_mm_for_euclid_dist")[0].numpy()

    @property
    def _n_features_out(self) -> int:
        return len(self.codebook_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _training(self) -> Training:
        return Training(
            Lattice(self.n_rows, self.n_columns, self.lattice), self.rule, self.sigma, self.learning_rate, self.n_steps
        )

    def _checked(self, X: ArrayLike, reset: bool = False) -> NDArray[np.floating[Any]]:
        samples = validate_data(self, X, dtype=[np.float64, np.float32], reset=reset)
        return np.ascontiguousarray(samples) if samples.flags.writeable else samples.copy(order="C")

    def _samples(self, X: ArrayLike, training: Training) -> NDArray[np.floating[Any]]:
        samples = self._checked(X, reset=True)
        if len(samples) < training.lattice.n_units:
            raise ValueError(
                f"n_samples={len(samples)} is fewer than the {training.lattice.n_units} units of the map; "
                "give more samples or a smaller grid"
            )
        return samples

    def _both(self, X: ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
        check_is_fitted(self)
        samples = self._checked(X)
        return torch.from_numpy(samples)[None], torch.from_numpy(self.codebook_.astype(samples.dtype))[None]

    def _store(self, maps: LayerMaps) -> SelfOrganizingMap:
        self.codebook_ = maps.codebook[0].numpy()
        self.labels_ = maps.best_units[0].numpy()
        self.hit_counts_ = maps.hit_counts[0].numpy()
        self.quantization_error_ = float(maps.quantization_error[0])
        self.topographic_error_ = float(maps.topographic_error[0])
        return self
