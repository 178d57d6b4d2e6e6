"""Rounding that carries an edit over: codes are moved to a neighbour until the component along V is what was meant.

Rounding to nearest loses an edit that is smaller than the steps of a format: nearly every number rounds back to what
it was. But what an edit is about are a few sums, ``Vᵀ W'``, K for each column of the weight. Moving a small share of
the numbers one step further makes these sums right; which ones is chosen greedily, by the squared error that a move
adds for the amount that it moves the sum. Elsewhere this adds noise, which is counted in the relative error.
"""

from __future__ import annotations

import torch

from sombrero.checkpoints.formats.codec import Codec, Stored
from sombrero.checkpoints.formats.mxfp4 import BLOCK, Mxfp4Codec
from sombrero.checkpoints.formats.scaled import ScaledCodec, decode_scales, spread

ROWS = 512
"""Rows with the largest entries of a direction are moved alone: they move the sum most for the error that they add."""
SWEEPS = 2
"""What is moved for one direction shifts the others a little."""


def carry_over(codec: Codec, wanted: torch.Tensor, coded: Stored, V: torch.Tensor) -> Stored:
    """Return codes near ``coded`` with ``Vᵀ`` of their numbers close to ``Vᵀ wanted``; scales stay.

    wanted: the edited matrix ``(rows, columns)``, all of its rows; coded: its nearest form; V ``(rows, K)``
    orthonormal. A dense format needs none of this and comes back as it is.
    """
    if not isinstance(codec, Mxfp4Codec | ScaledCodec):
        return coded
    values = codec.decode(coded)
    levels, factors = _levels(codec), _factors(codec, coded, values)
    between = (levels[1:] + levels[:-1]) / 2
    free = torch.ones_like(values, dtype=torch.bool)  # what moved for one direction does not move back for another
    for _ in range(SWEEPS):
        for v in V.to(values.dtype).T:
            rows = torch.topk(v.abs(), min(ROWS, len(v))).indices
            missing = v @ (wanted - values)
            change = _changes(values[rows], v[rows, None], missing, factors[rows], levels, between)
            gain = (v[rows, None] * change).abs() * free[rows]
            cost = change.square() + 2 * change * (values[rows] - wanted[rows])
            chosen = _cheapest(cost, gain, missing.abs())
            values[rows] += torch.where(chosen, change, torch.zeros_like(change))
            free[rows] &= ~chosen
    return codec.encode(values, coded)


def _changes(
    values: torch.Tensor,
    v: torch.Tensor,
    missing: torch.Tensor,
    factors: torch.Tensor,
    levels: torch.Tensor,
    between: torch.Tensor,
) -> torch.Tensor:
    """What a step of one level changes each number by, to the side that brings ``v · change`` nearer to ``missing``."""
    number = torch.bucketize(values / factors, between)
    step = (torch.sign(missing) * torch.sign(v)).to(number.dtype)
    return levels[(number + step).clamp(0, len(levels) - 1)] * factors - values


def _cheapest(cost: torch.Tensor, gain: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
    """In each column the numbers with the least cost for their gain, as many as come nearest to what is missing."""
    order = torch.argsort(torch.where(gain > 0, cost / gain, torch.inf), dim=0)
    gains = gain.gather(0, order)
    enough = (torch.cumsum(gains, dim=0) - gains / 2 <= missing) & (gains > 0)
    return torch.zeros_like(enough).scatter_(0, order, enough)


def _levels(codec: Mxfp4Codec | ScaledCodec) -> torch.Tensor:
    """All numbers that a code can be, rising."""
    if isinstance(codec, Mxfp4Codec):
        positive = torch.tensor([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        return torch.cat([-positive.flip(0), torch.zeros(1), positive])
    if codec.weight.dtype == "I8":
        return torch.arange(-128, 128, dtype=torch.float32)
    codes: torch.Tensor = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).to(torch.float32)
    finite: torch.Tensor = torch.unique(codes[torch.isfinite(codes)])
    return finite


def _factors(codec: Mxfp4Codec | ScaledCodec, coded: Stored, values: torch.Tensor) -> torch.Tensor:
    """The scale of every number."""
    if isinstance(codec, Mxfp4Codec):
        return decode_scales(coded[1]).repeat_interleave(BLOCK, dim=-1)
    return spread(decode_scales(coded[1]), codec.block, (values.shape[0], values.shape[1]))
