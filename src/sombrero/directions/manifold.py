"""The states and the map in a plane, for pictures: by principal components, or by distances alone."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import MDS

from sombrero.errors import UsageError
from sombrero.records import HiddenStates, Manifold


def principal_plane(
    harmful: HiddenStates, harmless: HiddenStates, codebook: torch.Tensor, *, seed: int = 0
) -> Manifold:
    """Every layer's states in the plane of their two main components, codebook ``(L + 1, m, d)`` projected into it.

    The basis is that of harmful and harmless states together, the codebook has no part in it. Along the first axis the
    harmful mean lies to the right of the harmless one. A layer whose states do not vary is a point at the origin.
    """
    planes = [
        _plane(harmful.hidden[:, layer], harmless.hidden[:, layer], codebook[layer], seed)
        for layer in range(len(codebook))
    ]
    return Manifold(*(torch.stack(parts) for parts in zip(*planes, strict=True)))


def scaled_plane(
    harmful: HiddenStates, harmless: HiddenStates, codebook: torch.Tensor, state: int, *, seed: int = 0
) -> Manifold:
    """One layer by metric multidimensional scaling (SMACOF): distances in the plane are close to those in full width.

    Harmful and harmless states and codebook ``(L + 1, m, d)`` are placed together, which takes time and memory with the
    square of their number. The record has one layer; ``explained`` is NaN, as its axes stand for no variance.

    Raises UsageError for a state index that the codebook does not have.
    """
    if state not in range(len(codebook)):
        raise UsageError(f"there is no state index {state}; give one of 0..{len(codebook) - 1}")
    parts = [harmful.hidden[:, state], harmless.hidden[:, state], codebook[state]]
    scaling = MDS(n_components=2, init="classical_mds", n_init=1, normalized_stress=False, random_state=seed)
    together = torch.cat(parts).to(torch.float64)
    placed = torch.from_numpy(scaling.fit_transform((together - together.mean(dim=0)).numpy())).to(torch.float32)
    placed = _harmful_to_the_right(placed, len(parts[0]), len(parts[1]))
    h, g, w = placed.split([len(part) for part in parts])
    return Manifold(h[None], g[None], w[None], torch.full((1, 2), float("nan")))


def _plane(
    harmful: torch.Tensor, harmless: torch.Tensor, codebook: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The four fields of Manifold for one layer."""
    states = torch.cat([harmful, harmless])
    counts = [len(harmful), len(harmless), len(codebook)]
    if bool((states == states[0]).all()):  # PCA has no answer for states that do not vary
        return *(torch.zeros(n, 2) for n in counts), torch.zeros(2)  # type: ignore[return-value]
    n_components = min(2, *states.shape)
    plane = PCA(n_components, random_state=seed).fit(states.numpy())
    placed = np.zeros((sum(counts), 2), dtype=np.float32)
    placed[:, :n_components] = plane.transform(torch.cat([states, codebook]).numpy())
    explained = torch.zeros(2)
    explained[:n_components] = torch.from_numpy(plane.explained_variance_ratio_)
    h, g, w = _harmful_to_the_right(torch.from_numpy(placed), *counts[:2]).split(counts)
    return h, g, w, explained


def _harmful_to_the_right(placed: torch.Tensor, n_harmful: int, n_harmless: int) -> torch.Tensor:
    """The plane mirrored, where needed, so that a reader always finds the harmful states on the same side."""
    h, g = placed[:n_harmful, 0].mean(), placed[n_harmful : n_harmful + n_harmless, 0].mean()
    return placed * torch.tensor([-1.0 if h < g else 1.0, 1.0])
