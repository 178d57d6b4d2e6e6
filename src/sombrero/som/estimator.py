"""The self-organizing map as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from sombrero.errors import NumericalError
from sombrero.som import quality
from sombrero.som.codebooks import initial_codebook
from sombrero.som.drawing import MapPicture, draw_units
from sombrero.som.hidden import Hidden
from sombrero.som.lattice import Lattice
from sombrero.som.layer_maps import LayerMaps, maps_in_features
from sombrero.som.layer_rows import LayerRows, load_layers
from sombrero.som.layers import train_maps
from sombrero.som.online import online_in_features, online_schedule
from sombrero.som.sample_checks import checked_samples, like_input
from sombrero.som.spaces import precise_dtype
from sombrero.som.training import Training, draw

Output = NDArray[Any] | torch.Tensor


class SelfOrganizingMap(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Self-organizing map (Kohonen) with an online and a batch training rule.

    Samples are array-likes or torch tensors, float32 or float64 (other real types become one of them); the codebook and
    the distances keep the dtype, save that a device without float64 computes in float32. ``predict``,
    ``transform``, ``fit_predict`` and ``fit_transform`` of a tensor give a tensor on its device, of an array an array.
    Attributes are always arrays, so that a fitted map can be pickled and used on another machine.

    Parameters
    ----------
    n_rows, n_columns : int
        The grid. ``m = n_rows * n_columns`` units, numbered row by row. A 1 x 1 map is the mean of the samples,
        whatever the rule.
    lattice : {"hexagonal", "rectangular"}
        How the units are laid out; see ``lattice.Lattice``.
    toroidal : bool
        Whether opposite sides of the grid are joined. A hexagonal torus needs an even number of rows.
    rule : {"batch", "online"}
        ``batch``: epochs of weighted means, ordered, annealed, then refined (``batch.batch``). ``online``: one random
        sample per step, ``w_j += a(t) g(j, b; sigma(t)) (x - w_j)``, as in MiniSom.
    neighbourhood : {"gaussian", "bubble", "mexican_hat"}
        g; see ``neighbourhoods``. The Mexican hat pushes units beyond sigma away and needs ``rule="online"``: with
        negative weights a weighted mean has no bound.
    initialization : {"random", "pca", "k-means++"}
        The first units; see ``initialization``. Of more samples than 512, or 16 a unit, a random subset decides.
    sigma : float
        Width of the neighbourhood, in units of the grid: where the online rule begins and batch ordering ends. Both
        rules end with a third of it.
    learning_rate : float
        a(0) of the online rule, in (0, 1]. ``partial_fit`` uses it too.
    n_steps : int
        T, the steps of the online rule, after which rate and width have fallen to a third.
    device : str, torch.device or None
        Where to compute. None: where the samples are; arrays are on the CPU.
    random_state : int, RandomState instance or None
        Seeds the first units and the order of the samples. An int makes every outcome reproducible, whatever the
        number of threads.

    Attributes
    ----------
    codebook_ : ndarray (m, n_features)
        The units.
    labels_ : ndarray (n_samples,) int64
        Best unit of each sample of the last fit or partial_fit.
    hit_counts_ : ndarray (m,) int64
        How often each unit is in ``labels_``.
    quantization_error_, topographic_error_ : float
        Over the same samples.
    n_steps_seen_ : int
        Steps of the online schedule that the map has behind it.
    n_features_in_ : int
        Features of the samples.
    """

    def __init__(
        self,
        n_rows: int = 4,
        n_columns: int = 4,
        *,
        lattice: str = "hexagonal",
        toroidal: bool = False,
        rule: str = "batch",
        neighbourhood: str = "gaussian",
        initialization: str = "random",
        sigma: float = 0.3,
        learning_rate: float = 0.01,
        n_steps: int = 10_000,
        device: str | torch.device | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_rows = n_rows
        self.n_columns = n_columns
        self.lattice = lattice
        self.toroidal = toroidal
        self.rule = rule
        self.neighbourhood = neighbourhood
        self.initialization = initialization
        self.sigma = sigma
        self.learning_rate = learning_rate
        self.n_steps = n_steps
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike | torch.Tensor, y: None = None) -> SelfOrganizingMap:
        """Train on ``X (n_samples, n_features)`` from scratch.

        Raises ValueError for settings out of range, fewer samples than units, and samples that are not finite or whose
        map overflows.
        """
        training = self._training()
        samples = self._enough_samples(X, training)
        random = check_random_state(self.random_state)
        try:
            maps = train_maps(Hidden(samples[:, None]), training, random, samples.device)
        except NumericalError as error:
            raise ValueError(str(error)) from error
        self.n_steps_seen_ = len(samples) if training.lattice.n_units == 1 else self.n_steps
        return self._store(maps)

    def partial_fit(self, X: ArrayLike | torch.Tensor, y: None = None) -> SelfOrganizingMap:
        """Take one online step per sample of ``X``, in the order given, whatever the rule.

        The first call makes the first units from its samples, so it needs as many samples as units. The schedule goes
        on from call to call, and stays at its end after ``n_steps``. A 1 x 1 map is the mean of all samples seen.
        Raises ValueError as ``fit`` does; a call that fails leaves the map as it was.
        """
        training = self._training()
        first = not hasattr(self, "codebook_")
        samples = self._enough_samples(X, training) if first else checked_samples(self, X)
        seen = 0 if first else self.n_steps_seen_
        steps = seen + np.arange(len(samples))
        schedule = online_schedule(training, np.minimum(steps, training.n_steps))
        if training.lattice.n_units == 1:
            schedule[0] = 1.0 / (1.0 + steps)
        try:
            order = np.arange(len(samples))
            rows = load_layers(Hidden(samples[:, None]), slice(0, 1), samples.device, None)[0]
            centre = rows.centre.to(precise_dtype(samples.device))
            units = self._first_units(rows, training) if first else self._codebook(centre) - centre
            codebook = online_in_features(rows.take(order)[None], units[None], order, schedule, training)
            trained = codebook.to(rows.dtype)
            maps = maps_in_features([rows], [trained[0]], training.lattice, torch.empty_like(trained))
        except NumericalError as error:
            raise ValueError(str(error)) from error
        self.n_steps_seen_ = seen + len(samples)
        return self._store(maps)

    def fit_predict(self, X: ArrayLike | torch.Tensor, y: None = None) -> Output:
        """``fit``, then the best unit of every sample of ``X``, ``(n_samples,)`` int64."""
        self.fit(X)
        return like_input(torch.from_numpy(self.labels_), X)

    def predict(self, X: ArrayLike | torch.Tensor) -> Output:
        """Best unit of every sample of ``X (n_samples, n_features)``, ``(n_samples,)`` int64."""
        check_is_fitted(self)
        samples = checked_samples(self, X)
        return like_input(quality.best_units(samples[None], self._codebook(samples)[None])[0], X)

    def transform(self, X: ArrayLike | torch.Tensor) -> Output:
        """Euclidean distance of every sample to every unit, ``(n_samples, m)`` in the dtype of ``X``."""
        check_is_fitted(self)
        samples = checked_samples(self, X)
        exact = "donot_use_mm_for_euclid_dist"
        return like_input(torch.cdist(samples, self._codebook(samples), compute_mode=exact), X)

    def score(self, X: ArrayLike | torch.Tensor, y: None = None) -> float:
        """Negative mean quantization error of ``X``: the higher, the better the map represents the samples."""
        check_is_fitted(self)
        samples = checked_samples(self, X)[None]
        codebook = self._codebook(samples)[None]
        return -float(quality.quantization_error(samples, codebook, quality.best_units(samples, codebook))[0])

    def picture(self) -> MapPicture:
        """The fitted map for a notebook, as SVG: samples of each unit, and how far it lies from those beside it."""
        check_is_fitted(self)
        lattice = self._training().lattice
        distances = quality.u_matrix(torch.from_numpy(self.codebook_)[None], lattice)[0]
        return draw_units(lattice, distances.numpy(), self.hit_counts_)

    @property
    def _n_features_out(self) -> int:
        return len(self.codebook_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _training(self) -> Training:
        lattice = Lattice(self.n_rows, self.n_columns, self.lattice, bool(self.toroidal))
        return Training(
            lattice, self.rule, self.sigma, self.learning_rate, self.n_steps, self.neighbourhood, self.initialization
        )

    def _first_units(self, rows: LayerRows, training: Training) -> torch.Tensor:
        draws = draw(rows.shape[0], training, check_random_state(self.random_state))
        return initial_codebook(rows, training, draws)

    def _enough_samples(self, X: ArrayLike | torch.Tensor, training: Training) -> torch.Tensor:
        samples = checked_samples(self, X, reset=True)
        if len(samples) < training.lattice.n_units:
            raise ValueError(
                f"n_samples={len(samples)} is fewer than the {training.lattice.n_units} units of the map; "
                "give more samples or a smaller grid"
            )
        return samples

    def _codebook(self, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.codebook_).to(like)

    def _store(self, maps: LayerMaps) -> SelfOrganizingMap:
        self.codebook_ = maps.codebook[0].numpy(force=True)
        self.labels_ = maps.best_units[0].numpy(force=True)
        self.hit_counts_ = maps.hit_counts[0].numpy(force=True)
        self.quantization_error_ = float(maps.quantization_error[0])
        self.topographic_error_ = float(maps.topographic_error[0])
        return self
