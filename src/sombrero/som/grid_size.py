"""How many units a layer's samples support, with its uncertainty; "one" is among the answers.

The rule, for each layer:

1. *Halves.* The samples are split into halves ``n_repeats`` times. For each candidate number of units, units learned on
   one half are tested on the other, both ways (``held_out``).
2. *Reference.* The same is done once for each of ``n_references`` reference sets: a single Gaussian with the same mean
   and covariance. They are drawn by rotating the sample axis at random about the mean (Langsrud 2005): of Gaussian
   samples, whatever their covariance, this gives further sets with exactly the same sample mean and sample covariance,
   so that elongation alone can never look like lobes, also with fewer samples than features.
3. *Stable candidates.* More than one unit is allowed where the mean prediction strength is at least
   ``least_strength`` (0.8, Tibshirani & Walther 2005) and the held-out error, as a share of that of one unit, lies
   below that of the references by more than chance allows: ``t_{0.99, B-1} sqrt(1 + 1/B)`` of their standard deviations
   (B references).
4. *Choice.* Of one unit and the stable candidates, the smallest whose held-out error is within one standard error of
   the best. Without a stable candidate the choice is 1.

The spread over half samples estimates the sampling spread of a figure of all n (the delete-half jackknife: Shao & Wu
1989), so it serves as the standard error in 4, and steps 3 and 4 for every split alone give the interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import chain, islice

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from sombrero.errors import NumericalError, UsageError
from sombrero.som.held_out import HeldOut, held_out
from sombrero.som.layers import single_threaded

CANDIDATES = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16)
"""Tried by default, as far as a half has at least ``SAMPLES_PER_UNIT`` samples for each unit."""
SAMPLES_PER_UNIT = 4
LARGEST_SAMPLE = 512
"""Of more samples a random subset is compared: the cost grows with its square."""
CHUNK_BYTES = 16 * 2**20
"""Inner products of splits and references that are compared at once; one problem is always taken."""
LEVEL = 0.01
"""Chance for a candidate of a single Gaussian to lie as far below the references."""
_CONSTANT = 1e-6
"""Samples whose spread is this small a part of their mean are the same sample, with rounding."""


@dataclass(frozen=True)
class GridSizes:
    """How well each number of units holds on samples that it was not learned on, and the number chosen.

    candidates ``(S,)`` int64, ascending from 1. held_out_error, strength, rand ``(L, S)`` float32: means over splits of
    the quantization error, the prediction strength and the adjusted Rand index between halves. reference_error
    ``(L, S)`` float32: the mean held-out error of the references. excess ``(L, S)`` float32: by how many of their
    standard deviations the error, as a share of that of one unit, lies below theirs.

    chosen, chosen_low, chosen_high ``(L,)`` int64: the choice with its 95% interval; choices ``(L, n_repeats)`` int64:
    of every split alone. structured ``(L,)`` bool: whether some candidate's excess is more than chance allows. Where
    the choice is 1 all the same, the samples are no single Gaussian, but no number of units comes again on other
    halves: lobes too faint for so few samples, a ring, heavy tails.
    """

    candidates: torch.Tensor
    held_out_error: torch.Tensor
    strength: torch.Tensor
    rand: torch.Tensor
    reference_error: torch.Tensor
    excess: torch.Tensor
    chosen: torch.Tensor
    chosen_low: torch.Tensor
    chosen_high: torch.Tensor
    choices: torch.Tensor
    structured: torch.Tensor


def grid_shape(n_units: int) -> tuple[int, int]:
    """The most square grid (rows, columns) of so many units, rows at most columns; a prime gives a strip.

    Raises UsageError for less than one unit.
    """
    if n_units < 1:
        raise UsageError(f"a grid of {n_units} units cannot be laid out; give at least 1")
    n_rows = max(rows for rows in range(1, int(n_units**0.5) + 1) if n_units % rows == 0)
    return n_rows, n_units // n_rows


def choose_grid_size(
    hidden: torch.Tensor,
    *,
    candidates: Sequence[int] | None = None,
    n_repeats: int = 20,
    n_references: int = 40,
    least_strength: float = 0.8,
    seed: int = 0,
) -> GridSizes:
    """Choose the number of units of every layer of ``hidden (n, L, d)`` by the rule above.

    All that is measured follows from the inner products of samples, so the width d costs one product a layer. A
    layer's outcome depends on its own samples, the settings and the seed alone. ``grid_shape`` lays a number out.

    Raises UsageError for settings out of range: fewer than 4 samples, candidates that are not distinct whole numbers
    from 1 to n / 2; NumericalError for NaN or infinity.
    """
    tried = _checked(hidden, candidates, n_repeats, n_references, least_strength)
    with single_threaded(torch.device("cpu")) as n_threads, ThreadPoolExecutor(n_threads) as pool:
        draws = _draw(len(hidden), n_repeats, n_references, np.random.RandomState(seed))
        layers = list(pool.map(lambda layer: _layer(hidden[:, layer], draws, tried), range(hidden.shape[1])))
    rows = [_choice(tried, figures, n_repeats, least_strength) for figures in layers]
    return GridSizes(torch.tensor(tried), *(torch.stack(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class _Draws:
    """What is random, the same for all layers: sample subset, splits ``(R, 2 h)``, frames ``(B, n, n - 1)``."""

    subset: NDArray[np.int64]
    splits: NDArray[np.int64]
    frames: torch.Tensor


def _checked(
    hidden: torch.Tensor, candidates: Sequence[int] | None, n_repeats: int, n_references: int, least_strength: float
) -> list[int]:
    """The candidates, ascending and with 1."""
    if hidden.ndim != 3 or min(hidden.shape) < 1:
        raise UsageError(f"hidden has shape {tuple(hidden.shape)}; give samples, layers, features: (n, L, d)")
    n = len(hidden)
    if n < 4:
        raise UsageError(f"{n} samples are too few to compare halves of them; give at least 4")
    if n_repeats < 2 or n_references < 2:
        raise UsageError(f"n_repeats is {n_repeats} and n_references {n_references}; a spread needs at least 2 of each")
    if not 0.0 < least_strength <= 1.0:
        raise UsageError(f"least_strength is {least_strength}; it must be above 0 and at most 1")
    h = min(n, LARGEST_SAMPLE) // 2
    if candidates is None:
        return [k for k in CANDIDATES if k == 1 or k * SAMPLES_PER_UNIT <= h]
    tried = sorted(int(k) for k in candidates)
    if not tried or len(set(tried)) < len(tried) or tried[0] < 1 or tried[-1] > h:
        raise UsageError(
            f"candidates are {tried}; with {n} samples they must be distinct numbers of units from 1 to {h}, "
            "the size of a half"
        )
    return tried if tried[0] == 1 else [1, *tried]


def _draw(n_samples: int, n_repeats: int, n_references: int, generator: np.random.RandomState) -> _Draws:
    subset = np.sort(generator.permutation(n_samples)[:LARGEST_SAMPLE])
    n = len(subset)
    splits = np.stack([generator.permutation(n)[: n // 2 * 2] for _ in range(n_repeats)])
    noise = torch.from_numpy(generator.standard_normal((n_references, n, n - 1)))
    frames = torch.linalg.qr(noise - noise.mean(dim=1, keepdim=True)).Q  # orthogonal to the mean, else uniform
    return _Draws(subset, splits, frames)


def _layer(samples: torch.Tensor, draws: _Draws, candidates: list[int]) -> HeldOut:
    """Figures of the R splits and then of the B references of one layer ``(n, d)``."""
    gram, scale = _centred_gram(samples, draws.subset)
    spectrum = torch.linalg.eigvalsh(gram)[1:].clamp_(min=0.0)  # the first belongs to the mean
    size = draws.splits.shape[1]
    observed = (gram[order][:, order] for order in torch.from_numpy(draws.splits))
    rotated = (frame * spectrum @ frame.T for frame in draws.frames[:, :size])
    at_once = max(1, CHUNK_BYTES // (gram.element_size() * size**2))
    parts = [held_out(torch.stack(some), candidates) for some in _batched(chain(observed, rotated), at_once)]
    error, strength, rand = (torch.cat([getattr(part, field.name) for part in parts]) for field in fields(HeldOut))
    return HeldOut(error * scale, strength, rand)


def _batched(grams: Iterator[torch.Tensor], size: int) -> Iterator[list[torch.Tensor]]:
    while some := list(islice(grams, size)):
        yield some


def _centred_gram(samples: torch.Tensor, subset: NDArray[np.int64]) -> tuple[torch.Tensor, float]:
    """Inner products ``(n, n)`` float64 of centred samples in units of their mean squared length, and its root."""
    chosen = samples[torch.from_numpy(subset).to(samples.device)].detach().to("cpu", torch.float64)
    mean = chosen.mean(dim=0)
    if not bool(torch.isfinite(mean).all()):
        raise NumericalError("the samples hold NaN or infinity, or overflow; choosing a grid needs finite samples")
    chosen -= mean
    gram = chosen @ chosen.T
    squared = float(gram.diagonal().mean())
    if squared <= _CONSTANT**2 * float(mean.square().sum()) or squared == 0.0:
        return torch.zeros_like(gram), 1.0
    return gram / squared, squared**0.5


def _choice(candidates: list[int], figures: HeldOut, n_splits: int, least_strength: float) -> tuple[torch.Tensor, ...]:
    """Fields of GridSizes of one layer, after candidates."""
    error, reference = figures.error[:n_splits], figures.error[n_splits:]
    strength = figures.strength[:n_splits]
    shares = figures.error / figures.error[:, :1].clamp(min=torch.finfo(torch.float64).tiny)
    expected, deviation = shares[n_splits:].mean(dim=0), shares[n_splits:].std(dim=0)
    standard_error = (error[:, :, None] - error[:, None]).std(dim=0)
    n_references = len(reference)
    allowed = float(stats.t.ppf(1.0 - LEVEL, n_references - 1)) * (1.0 + 1.0 / n_references) ** 0.5
    bound, units = expected - allowed * deviation, torch.tensor(candidates)

    def smallest(errors: torch.Tensor, share: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
        """Steps 3 and 4 for figures ``(..., S)``."""
        stable = (strengths >= least_strength) & (share < bound)
        stable[..., 0] = True
        best = errors.masked_fill(~stable, float("inf")).argmin(dim=-1, keepdim=True)
        near = errors <= errors.gather(-1, best) + standard_error[best[..., 0]]
        return units[(stable & near).to(torch.uint8).argmax(dim=-1)]

    share = shares[:n_splits]
    chosen = smallest(error.mean(dim=0), share.mean(dim=0), strength.mean(dim=0))
    choices = smallest(error, share, strength)
    ordered, tail = choices.sort().values, int(0.025 * n_splits)
    return (
        *(part.mean(dim=0).float() for part in (error, strength, figures.rand[:n_splits], reference)),
        ((expected - share.mean(dim=0)) / deviation.clamp(min=torch.finfo(torch.float32).tiny)).float(),
        chosen,
        torch.minimum(ordered[tail], chosen),
        torch.maximum(ordered[n_splits - 1 - tail], chosen),
        choices,
        (share.mean(dim=0) < bound)[1:].any(),
    )
