"""Samples of known make for benchmarks/som.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = ("structured", "isotropic")


def layers_of_samples(kind: str, n: int, n_layers: int, d: int, seed: int) -> NDArray[np.float32]:
    """``(n, n_layers, d)`` float32; every layer has its own structure.

    ``isotropic``: normal noise. ``structured``: 6 cluster centres (deviation 1 a feature), 16 wide directions that all
    samples share (deviation 1 in all), noise (0.5), and a common offset (3), which hidden states have too.
    """
    random = np.random.default_rng(seed)
    hidden = np.empty((n, n_layers, d), dtype=np.float32)
    for layer in range(n_layers):
        samples = random.standard_normal((n, d), dtype=np.float32)
        if kind == "structured":
            centres = random.standard_normal((6, d), dtype=np.float32)
            wide = random.standard_normal((16, d), dtype=np.float32) / 4.0
            samples *= 0.5
            samples += centres[random.integers(6, size=n)]
            samples += random.standard_normal((n, 16), dtype=np.float32) @ wide
            samples += 3.0 * random.standard_normal(d, dtype=np.float32)
        hidden[:, layer] = samples
    return hidden
