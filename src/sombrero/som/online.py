"""The online rule: one sample at a time (Kohonen; Piras et al., arXiv 2511.08379), for all layers at once.

Pure functions of tensors. Each step: ``b = argmin |x - w_j|``, then ``w_j += a(t) g(j, b; sigma(t)) (x - w_j)``, with
``g`` from ``neighbourhoods``. Layers never mix.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sombrero.som.training import Training


def asymptotic_decay(value: float, step: NDArray[np.int64], n_steps: int) -> NDArray[np.float64]:
    """``value / (1 + 2 t / T)``: from ``value`` to a third of it (DESIGN; MiniSom's ``asymptotic_decay``)."""
    return np.asarray(value / (1.0 + 2.0 * step / n_steps), dtype=np.float64)


def online_schedule(training: Training, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Learning rate a(t) and width sigma(t) of the steps t, ``(2, len(steps))`` float64."""
    rate = asymptotic_decay(training.learning_rate, steps, training.n_steps)
    return np.stack([rate, asymptotic_decay(training.sigma, steps, training.n_steps)])


def online_in_features(
    samples: torch.Tensor,
    codebook: torch.Tensor,
    order: NDArray[np.int64],
    schedule: NDArray[np.float64],
    training: Training,
) -> torch.Tensor:
    """Online steps in the space of features; returns the new codebook ``(L, m, d)`` in the dtype of codebook.

    samples ``(L, n, d)``; order ``(T,)`` the sample of each step; schedule ``(2, T)`` from ``online_schedule``. Give
    the codebook in float64 where the device has it: float32 drifts by 3e-5 in 10,000 steps.
    """
    codebook = codebook.clone()
    distances = training.distances(codebook)
    for sample, rate, sigma in zip(order.tolist(), *schedule.tolist(), strict=True):
        difference = samples[:, sample, None].to(codebook.dtype) - codebook
        best = difference.square().sum(dim=2).argmin(dim=1)
        step = training.influence(distances[best], sigma).mul_(rate)
        codebook.addcmul_(difference, step[..., None])
    return codebook


def online_in_rows(
    gram: torch.Tensor,
    weights: torch.Tensor,
    order: NDArray[np.int64],
    schedule: NDArray[np.float64],
    training: Training,
) -> torch.Tensor:
    """The same steps without features: returns weights P ``(L, m, n)`` with codebook ``W = P X``.

    gram ``(L, n, n)``; weights ``(L, m, n)`` of the first units. ``C = P G`` and ``q_j = |w_j|^2`` obey recursions:
    with step e, ``C_j <- (1-e) C_j + e G_i`` and ``q_j <- (1-e)^2 q_j + 2 e (1-e) C_ji + e^2 G_ii``.
    """
    distances = training.distances(gram)
    weights = weights.clone()
    products = weights @ gram
    lengths = (products * weights).sum(dim=2)
    for sample, rate, sigma in zip(order.tolist(), *schedule.tolist(), strict=True):
        along = products[:, :, sample]
        best = torch.addcmul(lengths, along, along.new_tensor(-2.0)).argmin(dim=1)
        step = training.influence(distances[best], sigma).mul_(rate)
        kept = 1.0 - step
        lengths = kept * (kept * lengths + 2.0 * step * along) + step.square() * gram[:, sample, sample, None]
        products.lerp_(gram[:, sample, None], step[..., None])
        weights.mul_(kept[..., None])
        weights[:, :, sample] += step
    return weights
