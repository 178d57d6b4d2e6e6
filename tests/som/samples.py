"""Sample sets with known structure."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def isotropic(n: int, d: int, seed: int) -> NDArray[np.float32]:
    """Normal noise without structure, ``(n, d)``."""
    return np.random.RandomState(seed).standard_normal((n, d)).astype(np.float32)


def clustered(
    n: int, d: int, seed: int, k: int = 16, noise: float = 0.3
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``k`` clusters, each of at least ``n // (2 k)`` samples, and the cluster of every sample."""
    random = np.random.RandomState(seed)
    label = np.concatenate([np.repeat(np.arange(k), n // (2 * k)), random.randint(k, size=n - k * (n // (2 * k)))])
    label = random.permutation(label)
    centres = random.standard_normal((k, d))
    return (centres[label] + noise * random.standard_normal((n, d))).astype(np.float32), label


def one_hot(index: NDArray[np.int64], n: int) -> torch.Tensor:
    """Weights of units that are samples, for one layer: ``(1, m, n)`` float64."""
    return torch.eye(n, dtype=torch.float64)[index][None]
