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
MANY = 4096
"""Levels on a grid of fewer steps than this are found in a table."""
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
    left = wanted - values  # updated by rows, as the values are
    free = torch.ones_like(values, dtype=torch.bool)  # what moved for one direction does not move back for another
    for _ in range(SWEEPS):
        for v in V.to(values.dtype).T:
            rows = torch.topk(v.abs(), min(ROWS, len(v))).indices
            missing, at = v @ left, v[rows]
            # From here on the columns of the matrix are rows: what is sorted and summed lies side by side.
            part, target = values[rows].T.contiguous(), wanted[rows].T.contiguous()
            change = _changes(part, at, missing, factors[rows].T.contiguous(), levels)
            gain = (at * change).abs_().mul_(free[rows].T)
            cost = (change * 2).mul_(part - target).add_(change.square())
            chosen = _cheapest(cost, gain, missing.abs())
            part += torch.where(chosen, change, 0.0)
            values[rows], left[rows] = part.T, target.sub_(part).T
            free[rows] &= ~chosen.T
    return codec.encode(values, coded)


def _changes(
    values: torch.Tensor, v: torch.Tensor, missing: torch.Tensor, factors: torch.Tensor, levels: torch.Tensor
) -> torch.Tensor:
    """What a step of one level changes each number by, to the side that brings ``v · change`` nearer to ``missing``.

    values, factors ``(columns, rows)``; v ``(rows,)``; missing ``(columns,)``.
    """
    number = _number(values / factors, levels)
    number += (torch.sign(missing)[:, None] * torch.sign(v)).to(number.dtype)
    number.clamp_(0, len(levels) - 1)
    return levels.index_select(0, number.view(-1)).view(values.shape).mul_(factors).sub_(values)


def _number(scaled: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Which of the rising ``levels`` each number is, int32; between two of them the nearer one."""
    step = float((levels[1:] - levels[:-1]).min())
    between = (levels[1:] + levels[:-1]) / 2
    count = round(float(levels[-1] - levels[0]) / step)
    if count > MANY:
        return torch.bucketize(scaled, between, out_int32=True)
    table = torch.bucketize(levels[0] + step * torch.arange(count + 1), between, out_int32=True)
    nearest = scaled.sub_(levels[0]).mul_(1 / step).round_().to(torch.int32)
    return table.index_select(0, nearest.view(-1)).view(scaled.shape)


def _cheapest(cost: torch.Tensor, gain: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
    """In each row the numbers with the least cost for their gain, as many as come nearest to what is missing."""
    order = _order(torch.where(gain > 0, cost / gain, torch.inf))
    gains = gain.gather(1, order)
    enough = (torch.cumsum(gains, dim=1).sub_(gains / 2) <= missing[:, None]).logical_and_(gains > 0)
    return torch.zeros_like(enough).scatter_(1, order, enough)


def _order(keys: torch.Tensor) -> torch.Tensor:
    """``argsort`` of each row of float32 keys; of equal ones the first comes first, on any machine.

    Numbers whose high half is a key and whose low half its place are sorted by numpy, several times as fast.
    """
    bits = keys.view(torch.int32)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    places = (rising.to(torch.int64) << 32) | torch.arange(keys.shape[1])
    places.numpy().sort(axis=1)
    return places.bitwise_and_(0xFFFFFFFF)


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
