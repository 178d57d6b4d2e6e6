"""How much a direction matters: how well it separates, and how its unit's prompts are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

N_RESAMPLES = 1000
INTERVAL = (0.025, 0.975)
ELEMENTS_AT_ONCE = 2**23
"""Elements of one working tensor of the bootstrap (32 MiB in float32); one direction is always taken."""


class Separation(NamedTuple):
    """AUROC of each direction with its bootstrap 95% interval; all ``(L + 1, m)`` float32."""

    auroc: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


class _Ranks(NamedTuple):
    """For every direction and harmful state ``(L + 1, m, n_h)``: harmless states below it, and not above it."""

    below: torch.Tensor
    not_above: torch.Tensor
    order: torch.Tensor


def projection_auroc(harmful: torch.Tensor, harmless: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Area under the ROC curve of the projection onto each direction, harmful against harmless.

    harmful ``(n_h, L + 1, d)``, harmless ``(n_g, L + 1, d)``, vectors ``(L + 1, m, d)``; returns ``(L + 1, m)``
    float32. It is the probability that a harmful state projects further than a harmless one, ties counted half
    (Mann-Whitney); a direction of length zero gives 0.5.
    """
    return _auroc(_rank(harmful, harmless, vectors))


def separation(
    harmful: torch.Tensor,
    harmless: torch.Tensor,
    vectors: torch.Tensor,
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Separation:
    """:func:`projection_auroc` with its bootstrap 95% interval; shapes as there.

    The percentile bootstrap (Efron & Tibshirani 1993, ch. 13): prompts of both classes are drawn again with
    replacement, each class to its own size, the same draws for every direction. Directions are fixed, so the interval
    speaks of the held-out prompts alone. Where no harmless state reaches a harmful one, it is the point [1, 1].
    """
    ranks = _rank(harmful, harmless, vectors)
    n_h, n_g = len(harmful), len(harmless)
    random = np.random.RandomState(seed)
    weights_h, weights_g = (
        torch.from_numpy(random.multinomial(n, np.full(n, 1 / n), size=n_resamples)).to(torch.float32)
        for n in (n_h, n_g)
    )
    flat = _Ranks(*(part.flatten(0, 1) for part in ranks))
    at_once = max(1, ELEMENTS_AT_ONCE // (n_resamples * (n_h + n_g)))
    limits = [
        torch.quantile(_resampled(_Ranks(*parts), weights_h, weights_g), torch.tensor(INTERVAL), dim=1)
        for parts in zip(*(part.split(at_once) for part in flat), strict=True)
    ]
    low, high = torch.cat(limits, dim=1).unflatten(1, vectors.shape[:2])
    return Separation(_auroc(ranks), low, high)


def mean_log_odds(
    best_units: torch.Tensor, n_units: int, prompt_ids: Sequence[str], log_odds: Mapping[str, float]
) -> torch.Tensor:
    """Mean refusal log-odds of each unit's prompts, ``(L + 1, m)`` float32.

    best_units ``(L + 1, n)``, the unit of each of ``prompt_ids``. NaN for a unit without prompts, and for one that
    holds a prompt without log-odds: a mean over the others would speak of another set of prompts.
    """
    values = torch.tensor([log_odds.get(name, float("nan")) for name in prompt_ids], dtype=torch.float32)
    sums = torch.zeros(len(best_units), n_units).scatter_add_(1, best_units, values.expand(best_units.shape))
    counts = torch.zeros_like(sums).scatter_add_(1, best_units, torch.ones(best_units.shape))
    return sums / counts


def _rank(harmful: torch.Tensor, harmless: torch.Tensor, vectors: torch.Tensor) -> _Ranks:
    """One layer at a time: a product over all of them would hold a copy of all states."""
    layers = range(len(vectors))
    positive = torch.stack([vectors[layer] @ harmful[:, layer].T for layer in layers])
    negative = torch.stack([vectors[layer] @ harmless[:, layer].T for layer in layers])
    ordered, order = negative.sort(dim=-1)
    below = torch.searchsorted(ordered.contiguous(), positive.contiguous(), side="left")
    not_above = torch.searchsorted(ordered.contiguous(), positive.contiguous(), side="right")
    return _Ranks(below, not_above, order)


def _auroc(ranks: _Ranks) -> torch.Tensor:
    return ((ranks.below + ranks.not_above).to(torch.float32) / 2).mean(dim=-1) / ranks.order.shape[-1]


def _resampled(ranks: _Ranks, weights_h: torch.Tensor, weights_g: torch.Tensor) -> torch.Tensor:
    """AUROC of resamples: ``(u, n)`` ranks and weights ``(B, n_h)``, ``(B, n_g)`` to ``(u, B)``.

    A weight says how often a prompt was drawn; the harmless ones below a harmful state are then a running sum of
    weights in the order of the projections, so no resample is sorted again.
    """
    n_resamples, n_g = weights_g.shape
    in_order = weights_g.T[ranks.order]  # (u, n_g, B)
    reached = torch.cat([torch.zeros(len(ranks.order), 1, n_resamples), in_order.cumsum(dim=1)], dim=1)
    rows = torch.arange(len(ranks.order))[:, None]
    wins = (reached[rows, ranks.below] + reached[rows, ranks.not_above]) / 2  # (u, n_h, B)
    return torch.einsum("uhb,bh->ub", wins, weights_h) / (weights_h.shape[1] * n_g)
