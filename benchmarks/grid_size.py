"""How often `choose_grid_size` finds the number of lobes that was planted, and how often it finds lobes in none.

    python benchmarks/grid_size.py [--quick] [--json FILE]

Prints the table of docs/grid_size.md. Every case is drawn many times, one draw a layer. Separations are distances of
lobe centres in standard deviations of the noise along one feature.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from sombrero.som import choose_grid_size
from sombrero.states import plant_states

Draw = Callable[[int, int], torch.Tensor]
"""(draws, seed) -> samples (n, draws, d)."""


@dataclass(frozen=True)
class Outcome:
    """Shares of draws: exact answer, answer one, interval holds the truth; and the median answer and interval."""

    case: str
    truth: int | None
    exact: float | None
    one: float
    covered: float | None
    median: float
    low: float
    high: float


def lobes(k: int, separation: float, n: int = 160, d: int = 576, **nuisance: float) -> Draw:
    """Equal lobes, separated by so many standard deviations."""

    def draw(draws: int, seed: int) -> torch.Tensor:
        strengths = (separation / 2**0.5,) * draws
        planted = plant_states(n_harmful=n, d=d, n_lobes=k, strengths=strengths, seed=seed, **nuisance)  # type: ignore[arg-type]
        return planted.harmful.hidden

    return draw


def curve(manifold: str, strength: float) -> Draw:
    """A ring of that radius or a line of that half length."""

    def draw(draws: int, seed: int) -> torch.Tensor:
        return plant_states(manifold, d=576, strengths=(strength,) * draws, seed=seed).harmful.hidden  # type: ignore[arg-type]

    return draw


def along(spread: Callable[[np.random.RandomState, int], np.ndarray], n: int = 160, d: int = 576) -> Draw:
    """Isotropic noise, and whatever `spread` gives along the first features."""

    def draw(draws: int, seed: int) -> torch.Tensor:
        random = np.random.RandomState(seed)
        samples = random.standard_normal((n, draws, d))
        for layer in range(draws):
            extra = spread(random, n)
            samples[:, layer, : extra.shape[1]] += extra
        return torch.from_numpy(samples).float()

    return draw


def unequal(k: int, separation: float) -> Draw:
    """Lobes that each have half as many samples as the one before."""
    chances = 2.0 ** -np.arange(k)

    def spread(random: np.random.RandomState, n: int) -> np.ndarray:
        return np.eye(k)[random.choice(k, n, p=chances / chances.sum())] * separation / 2**0.5

    return along(spread)


def decaying(k: int, separation: float, n: int = 160, d: int = 576) -> Draw:
    """Lobes in noise whose standard deviation falls as one over the root of the component, 1 in the mean square."""
    deviation = np.arange(1, d + 1) ** -0.5

    def draw(draws: int, seed: int) -> torch.Tensor:
        random = np.random.RandomState(seed)
        samples = random.standard_normal((n, draws, d)) * deviation / np.sqrt((deviation**2).mean())
        for layer in range(draws):
            centres = np.linalg.qr(random.standard_normal((d, k)))[0].T * separation / 2**0.5
            samples[:, layer] += centres[random.permutation(n) % k] if k > 1 else 0.0
        return torch.from_numpy(samples).float()

    return draw


def heavy(degrees: int, n: int = 160, d: int = 576) -> Draw:
    """Multivariate t: every sample has a length of its own."""

    def draw(draws: int, seed: int) -> torch.Tensor:
        random = np.random.RandomState(seed)
        lengths = np.sqrt(degrees / random.chisquare(degrees, (n, draws, 1)))
        return torch.from_numpy(random.standard_normal((n, draws, d)) * lengths).float()

    return draw


def cases(quick: bool) -> dict[str, tuple[int | None, Draw]]:
    """Name -> (number of lobes planted, draw). None: no number of lobes is right."""
    separations = (8, 14) if quick else (6, 8, 10, 14)
    found: dict[str, tuple[int | None, Draw]] = {
        "isotropic noise": (1, lobes(1, 6)),
        "isotropic noise, d = 8": (1, along(lambda random, n: np.zeros((n, 1)), d=8)),
        "Gaussian, one direction 10 times longer": (1, along(lambda random, n: 10 * random.standard_normal((n, 1)))),
        "Gaussian, one direction 40 times longer": (1, along(lambda random, n: 40 * random.standard_normal((n, 1)))),
        "Gaussian, decaying spectrum": (1, decaying(1, 0)),
        "Gaussian, d = 1": (1, along(lambda random, n: np.zeros((n, 1)), d=1)),
        "Gaussian, d = 2, 4 to 1": (1, along(lambda random, n: 4 * random.standard_normal((n, 1)), d=2)),
        "length, exponential, 10": (1, along(lambda random, n: 10 * random.exponential(size=(n, 1)))),
        "length, exponential, 30": (1, along(lambda random, n: 30 * random.exponential(size=(n, 1)))),
        "heavy tails, t with 5 degrees": (1, heavy(5)),
        "line, half length 30": (None, curve("line", 30.0)),
        "line, half length 10": (None, curve("line", 10.0)),
        "ring, radius 30": (None, curve("ring", 30.0)),
        "ring, radius 10": (None, curve("ring", 10.0)),
    }
    for k in range(2, 7):
        found |= {f"{k} lobes, {apart} apart": (k, lobes(k, apart)) for apart in separations}
    if quick:
        return found
    for k in (2, 3, 5):
        found |= {f"{k} lobes, {apart} apart, n = 80": (k, lobes(k, apart, n=80)) for apart in (10, 14)}
        found |= {f"{k} lobes, {apart} apart, n = 320": (k, lobes(k, apart, n=320)) for apart in (6, 8)}
        found |= {f"{k} lobes, {apart} apart, d = 64": (k, lobes(k, apart, d=64)) for apart in (4, 6)}
        found |= {f"{k} lobes, {apart} apart, d = 4096": (k, lobes(k, apart, d=4096)) for apart in (10, 14)}
        found |= {f"{k} lobes, {apart} apart, decaying spectrum": (k, decaying(k, apart)) for apart in (14, 20)}
        found |= {f"{k} lobes, {apart} apart, length 6": (k, lobes(k, apart, length=6.0)) for apart in (10, 14)}
        found |= {
            f"{k} lobes, {apart} apart, 4 topics, 6 apart": (k, lobes(k, apart, topic=4.24)) for apart in (10, 14)
        }
        found |= {f"{k} lobes halving in size, {apart} apart": (k, unequal(k, apart)) for apart in (10, 20)}
    return found


def measure(case: str, truth: int | None, draw: Draw, draws: int, seed: int) -> Outcome:
    """Run the rule on every draw of one case."""
    sizes = choose_grid_size(draw(draws, seed), seed=seed)
    chosen, low, high = (part.double() for part in (sizes.chosen, sizes.chosen_low, sizes.chosen_high))
    exact = None if truth is None else float((chosen == truth).double().mean())
    covered = None if truth is None else float(((low <= truth) & (truth <= high)).double().mean())
    middle = (float(part.quantile(0.5)) for part in (chosen, low, high))
    return Outcome(case, truth, exact, float((chosen == 1).double().mean()), covered, *middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases and draws: a smoke run")
    parser.add_argument("--draws", type=int, help="draws of every case")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    draws = options.draws or (4 if options.quick else 40)
    began, outcomes = time.monotonic(), []
    print("| case | exact | answers one | median (interval) | interval holds truth |\n| --- | --- | --- | --- | --- |")
    for seed, (case, (truth, draw)) in enumerate(cases(options.quick).items()):
        outcome = measure(case, truth, draw, draws, seed)
        outcomes.append(outcome)
        exact, covered = ("–" if share is None else f"{share:.0%}" for share in (outcome.exact, outcome.covered))
        middle = f"{outcome.median:g} ({outcome.low:g}–{outcome.high:g})"
        print(f"| {case} | {exact} | {outcome.one:.0%} | {middle} | {covered} |", flush=True)
    print(f"\n{draws} draws of each case, {time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
