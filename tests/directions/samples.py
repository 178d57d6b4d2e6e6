"""Synthetic hidden states: a harmful and a harmless cloud in a few layers."""

from __future__ import annotations

import torch

from sombrero.records import HiddenStates


def gaussian_states(
    n_harmful: int = 60, n_harmless: int = 80, n_states: int = 3, d: int = 24, *, shift: float = 0.0, seed: int = 0
) -> tuple[HiddenStates, HiddenStates]:
    """Standard normal states; harmful ones are moved by ``shift`` along one random direction for each layer."""
    generator = torch.Generator().manual_seed(seed)
    harmful = torch.randn(n_harmful, n_states, d, generator=generator)
    harmless = torch.randn(n_harmless, n_states, d, generator=generator)
    axis = torch.nn.functional.normalize(torch.randn(n_states, d, generator=generator), dim=-1)
    return named(harmful + shift * axis, "h"), named(harmless, "g")


def named(hidden: torch.Tensor, prefix: str) -> HiddenStates:
    """States with ids ``PREFIX-0`` and so on."""
    return HiddenStates(tuple(f"{prefix}-{i}" for i in range(len(hidden))), hidden, {})
