"""Codebooks that the map must be compared with, in its own shape: each one could refute what the map says.

Those that need a map trained elsewhere (``shuffled``) are made where maps are trained; here is how labels are permuted.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from sombrero.directions.codebook import Codebook, nearest_units
from sombrero.directions.derive import derive_directions
from sombrero.records import DirectionSet, HiddenStates, RefusalMap

RESTARTS = 10
"""Starts of k-means, the best of which is kept; the first is the one that scikit-learn's default would make."""


def single_codebook(harmful_mean: torch.Tensor, harmless_mean: torch.Tensor, train_ids: tuple[str, ...]) -> Codebook:
    """The difference of means (Arditi et al. 2024, eq. 2): what a 1x1 map gives, all samples in its one unit."""
    all_in_one = torch.zeros((len(harmful_mean), len(train_ids)), dtype=torch.int64)
    return Codebook("single", harmful_mean[:, None, :], all_in_one, harmless_mean, train_ids)


def single_direction(
    refusal_map: RefusalMap, harmful: HiddenStates, harmless: HiddenStates, *, projected: bool = False
) -> DirectionSet:
    """The directions of :func:`single_codebook`, for the prompts that a map was trained on."""
    codebook = single_codebook(refusal_map.harmful_mean, refusal_map.harmless_mean, refusal_map.train_ids)
    return derive_directions(codebook, harmful, harmless, projected=projected)


def random_codebook(harmful: HiddenStates, harmless_mean: torch.Tensor, n_units: int, seed: int) -> Codebook:
    """Harmful training states at random, the same prompts at every layer: no procedure at all."""
    n = len(harmful.prompt_ids)
    chosen = np.sort(np.random.RandomState(seed).choice(n, min(n_units, n), replace=False))
    points = harmful.hidden[torch.from_numpy(chosen)].transpose(0, 1).contiguous()
    best = torch.stack([nearest_units(harmful.hidden[:, layer], points[layer]) for layer in range(len(points))])
    return Codebook("random", points, best, harmless_mean, harmful.prompt_ids)


def kmeans_codebook(harmful: HiddenStates, harmless_mean: torch.Tensor, n_units: int, seed: int) -> Codebook:
    """scikit-learn's k-means at every layer: clusters without a neighbourhood.

    Where the states take fewer distinct values than there are clusters, the empty ones stand at the harmful mean.
    """
    n_clusters = min(n_units, len(harmful.prompt_ids))
    points, best = [], []
    for layer in range(harmful.hidden.shape[1]):
        samples = harmful.hidden[:, layer]
        labels = _cluster(samples, n_clusters, seed)
        members = torch.nn.functional.one_hot(labels, n_clusters).to(samples.dtype)
        counts = members.sum(dim=0)[:, None]
        means = members.T @ samples / counts.clamp_min(1)
        points.append(torch.where(counts > 0, means, samples.mean(dim=0)))
        best.append(labels)
    return Codebook("k-means", torch.stack(points), torch.stack(best), harmless_mean, harmful.prompt_ids)


def pca_codebook(harmful: HiddenStates, harmless_mean: torch.Tensor, n_units: int, seed: int) -> Codebook:
    """The difference of means, then the principal components of the harmful states, by explained variance.

    A component becomes a unit one standard deviation from the harmless mean, on the side of the harmful mean, so that
    ``w_j - mu`` is the component. A component has no samples of its own: a sample is counted for the direction along
    which it lies furthest from the harmless mean.
    """
    n, n_states, d = harmful.hidden.shape
    n_components = min(n_units - 1, n - 1, d)
    points, best = [], []
    for layer in range(n_states):
        samples, mu = harmful.hidden[:, layer], harmless_mean[layer]
        shift = samples.mean(dim=0) - mu
        components = _components(samples, n_components, seed)
        sides = torch.where(components @ shift < 0, -1.0, 1.0)
        vectors = torch.cat([shift[None], components * sides[:, None]])
        along = (samples - mu) @ torch.nn.functional.normalize(vectors, dim=-1).T
        points.append(vectors + mu)
        best.append(along.abs().argmax(dim=1))
    return Codebook("pca", torch.stack(points), torch.stack(best), harmless_mean, harmful.prompt_ids, order="given")


def permute_labels(
    harmful: HiddenStates, harmless: HiddenStates, seed: int, turn: int = 0
) -> tuple[HiddenStates, HiddenStates]:
    """All states with the labels harmful and harmless dealt out anew, as many of each: nothing is left to find.

    ``turn`` counts the permutations of one seed. What the whole procedure makes of these is the null (Good 2005).
    """
    n = len(harmful.prompt_ids)
    ids = (*harmful.prompt_ids, *harmless.prompt_ids)
    hidden = torch.cat([harmful.hidden, harmless.hidden])
    order = np.random.RandomState([seed, turn]).permutation(len(ids))
    first, second = (
        HiddenStates(tuple(ids[i] for i in rows), hidden[torch.from_numpy(rows)], {}) for rows in (order[:n], order[n:])
    )
    return first, second


def _cluster(samples: torch.Tensor, n_clusters: int, seed: int) -> torch.Tensor:
    """Cluster of each sample, ``(n, d)`` to ``(n,)`` int64; the same on any number of threads."""
    means = KMeans(n_clusters, n_init=RESTARTS, random_state=seed)
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct states than clusters: some stay empty
        labels = means.fit(_in_row_space(samples).numpy()).labels_
    return torch.from_numpy(labels).to(torch.int64)


def _in_row_space(samples: torch.Tensor) -> torch.Tensor:
    """Samples ``(n, d)`` less their mean, float64; of few and wide ones, coordinates ``(n, n)`` of equal distances."""
    centred = samples.to(torch.float64) - samples.to(torch.float64).mean(dim=0)
    if 2 * len(samples) >= samples.shape[1]:  # then the rotation costs more than clustering in the features
        return centred
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    coordinates: torch.Tensor = vectors * values.clamp_min(0).sqrt()
    return coordinates


def _components(samples: torch.Tensor, n_components: int, seed: int) -> torch.Tensor:
    """Principal components ``(n_components, d)`` float32, each as long as the standard deviation along it."""
    if n_components < 1 or bool((samples == samples[0]).all()):  # PCA has no answer for states that do not vary
        return torch.zeros(max(n_components, 0), samples.shape[1])
    found = PCA(n_components, random_state=seed).fit(samples.numpy())
    return torch.from_numpy(found.components_ * np.sqrt(found.explained_variance_)[:, None]).to(torch.float32)
