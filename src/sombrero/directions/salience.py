"""How well a direction separates harmful from harmless states."""

from __future__ import annotations

import torch


def projection_auroc(harmful: torch.Tensor, harmless: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Area under the ROC curve of the projection onto each direction, harmful against harmless.

    harmful ``(n_h, L + 1, d)``, harmless ``(n_g, L + 1, d)``, vectors ``(L + 1, m, d)``; returns ``(L + 1, m)``
    float32. It is the probability that a harmful state projects further than a harmless one, ties counted half
    (Mann-Whitney); a direction of length zero gives 0.5.
    """
    positive = torch.einsum("nld,lmd->lmn", harmful, vectors).contiguous()
    negative = torch.einsum("nld,lmd->lmn", harmless, vectors).sort(dim=-1).values.contiguous()
    below = torch.searchsorted(negative, positive, side="left")
    not_above = torch.searchsorted(negative, positive, side="right")
    return ((below + not_above).to(torch.float32) / 2).mean(dim=-1) / negative.shape[-1]
