"""Hidden states with a planted refusal: ground truth for whatever claims to find its directions.

A harmful prompt differs from a harmless one in nothing but what is planted: topic and length shift both kinds alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from sombrero.errors import UsageError
from sombrero.records import HiddenStates

ManifoldName = Literal["lobes", "ring", "line"]
MANIFOLDS: tuple[str, ...] = get_args(ManifoldName)


@dataclass(frozen=True)
class PlantedStates:
    """Synthetic states, and what was planted in them; L states a prompt, ``n_h`` harmful prompts, k lobes.

    lobes ``(n_h,)`` int64: the lobe of every harmful prompt; of a ring or a line, which of its k equal parts. positions
    ``(n_h,)`` float32 in [0, 1): where on the ring or line; of lobes, ``lobe / k``. directions ``(L, k, d)`` float32:
    the centre of each lobe or part less the mean of all harmless states, with its length; 0 where the strength is 0.
    harmful_topics ``(n_h,)`` and harmless_topics int64.
    """

    harmful: HiddenStates
    harmless: HiddenStates
    lobes: torch.Tensor
    positions: torch.Tensor
    directions: torch.Tensor
    harmful_topics: torch.Tensor
    harmless_topics: torch.Tensor


def plant_states(
    manifold: ManifoldName = "lobes",
    *,
    n_harmful: int = 160,
    n_harmless: int = 160,
    d: int = 64,
    n_lobes: int = 3,
    strengths: Sequence[float] = (0.0, 6.0, 12.0),
    spread: float = 1.0,
    noise: float = 1.0,
    n_topics: int = 4,
    topic: float = 0.0,
    length: float = 0.0,
    seed: int = 0,
) -> PlantedStates:
    """Draw harmless and harmful states ``(n, L, d)`` float32, one state per entry of ``strengths``.

    With an orthonormal basis of its own in each state, harmful states are moved by ``strength (a + spread * p)``: a is
    shared by all of refusal, and p says where on the manifold a prompt is: lobe j is the unit vector b_j; a ring is
    the unit circle of b_1, b_2; a line is ``t b_1`` with t uniform in [-1, 1]. Prompts spread evenly over lobes. So two
    lobes are ``strength * spread * sqrt(2)`` apart, and the cosine of their directions is ``1 / (1 + spread^2)``.

    Both kinds of states have normal noise of standard deviation ``noise`` in every feature, the vector of their topic
    (``n_topics`` orthogonal ones of length ``topic``) and a normal component of deviation ``length`` along one
    direction. Everything follows from the seed.

    Raises UsageError for an unknown manifold, counts below 1, negative sizes or too few features for the basis.
    """
    n_axes = 2 + max(n_lobes, 2) + n_topics
    _check(manifold, n_harmful, n_harmless, n_lobes, n_topics, strengths, d, n_axes)
    for name, size in {"spread": spread, "noise": noise, "topic": topic, "length": length}.items():
        if not 0.0 <= size < float("inf"):
            raise UsageError(f"{name} is {size}; it must be finite and not negative")
    generator = torch.Generator().manual_seed(seed)
    n = n_harmful + n_harmless
    lobes, positions = _places(manifold, n_harmful, n_lobes, generator)
    topics = torch.randint(n_topics, (n,), generator=generator)
    lengths = torch.randn(n, generator=generator)
    centres = (torch.arange(n_lobes) + (0.0 if manifold == "lobes" else 0.5)) / n_lobes
    hidden, directions = [], []
    for strength in strengths:
        basis = torch.linalg.qr(torch.randn(d, n_axes, generator=generator)).Q.T
        shared, long, topical, planes = basis[0], basis[1], basis[2 : 2 + n_topics], basis[2 + n_topics :]
        states = (
            noise * torch.randn(n, d, generator=generator) + topic * topical[topics] + length * lengths[:, None] * long
        )
        states[:n_harmful] += strength * (shared + spread * _coordinates(manifold, positions, n_lobes) @ planes)
        hidden.append(states)
        directions.append(strength * (shared + spread * _coordinates(manifold, centres, n_lobes) @ planes))
    stacked = torch.stack(hidden, dim=1)
    return PlantedStates(
        HiddenStates(tuple(f"harmful-{i}" for i in range(n_harmful)), stacked[:n_harmful].contiguous(), {}),
        HiddenStates(tuple(f"harmless-{i}" for i in range(n_harmless)), stacked[n_harmful:].contiguous(), {}),
        lobes,
        positions,
        torch.stack(directions),
        topics[:n_harmful],
        topics[n_harmful:],
    )


def _check(
    manifold: str,
    n_harmful: int,
    n_harmless: int,
    n_lobes: int,
    n_topics: int,
    strengths: Sequence[float],
    d: int,
    n_axes: int,
) -> None:
    if manifold not in MANIFOLDS:
        raise UsageError(f"manifold is {manifold!r}; choose one of {', '.join(MANIFOLDS)}")
    counts = {"n_harmful": n_harmful, "n_harmless": n_harmless, "n_lobes": n_lobes, "n_topics": n_topics}
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"{name} is {count}; at least 1 is needed")
    if not strengths:
        raise UsageError("strengths is empty; give one for every state, 0 where nothing is planted")
    if d < n_axes:
        raise UsageError(
            f"{d} features do not hold {n_axes} orthogonal axes; give more of them, or fewer lobes or topics"
        )


def _places(
    manifold: str, n_harmful: int, n_lobes: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lobe and position of every harmful prompt."""
    if manifold == "lobes":
        lobes = torch.randperm(n_harmful, generator=generator) % n_lobes
        return lobes, lobes / n_lobes
    positions = torch.rand(n_harmful, generator=generator)
    return (positions * n_lobes).long().clamp(max=n_lobes - 1), positions


def _coordinates(manifold: str, positions: torch.Tensor, n_lobes: int) -> torch.Tensor:
    """Where positions ``(n,)`` in [0, 1) lie on the planted axes, ``(n, max(k, 2))``."""
    coordinates = torch.zeros(len(positions), max(n_lobes, 2))
    if manifold == "lobes":
        lobe = (positions * n_lobes).round().long()
        coordinates[torch.arange(len(positions)), lobe] = 1.0
    elif manifold == "ring":
        angle = 2.0 * torch.pi * positions
        coordinates[:, 0], coordinates[:, 1] = angle.cos(), angle.sin()
    else:
        coordinates[:, 0] = 2.0 * positions - 1.0
    return coordinates
