"""The map against its peers on the same samples in one run: `python benchmarks/som.py`, about ten minutes on two cores.

(a) and (b) `fit_layers` over all layers, MiniSom over one (10,000 online steps, sigma 0.3, a 0.01) and fastersom over
all, with the quantization errors beside the times, for 5 seeds of samples and training; (c) how the cost grows; (d) the
peak memory of mapping a file. Samples are `structured` (clusters + 16 wide directions + noise + a common offset, as
hidden states have them) or `isotropic` (noise alone). Peers run as they come: fastersom with its default 10 epochs,
begun from random vectors (its default) and from samples; it has rectangular maps only.

Seconds are wall seconds; ratios of processor seconds stand beside, which other programs on the machine disturb less. On
a busy machine give `--threads 1`: torch's threads, with which fastersom works, wait for each other.

Options: `--json FILE` writes the figures, `--figure FILE` where the plot of (c) goes, `--quick` a smoke run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sombrero.som import fit_layers

try:
    import fastersom
    import minisom
except ImportError as error:
    sys.exit(
        f"benchmarks/som.py compares with {error.name}, which is missing: pip install -c constraints.txt '.[bench]'"
    )

from som_costs import growth, peak_memory, plot_growth, print_growth  # in this folder
from som_samples import KINDS, layers_of_samples

FIGURE = Path(__file__).parent.parent / "docs/images/som_cost.png"
FULL = {
    "comparisons": [{"n": 256, "n_layers": 32, "d": 4096}, {"n": 4000, "n_layers": 4, "d": 4096}],
    "seeds": 5,
    "n_steps": 10_000,
    "growth": {
        "n": (64, 128, 256, 512, 1024, 2048, 4096),
        "n_layers": (1, 2, 4, 8, 16, 32),
        "d": (128, 256, 512, 1024, 2048, 4096, 8192),
        "units": (4, 16, 64, 144, 256),
    },
    "memory": (4000, 33, 4096),
}
QUICK = {
    "comparisons": [{"n": 40, "n_layers": 2, "d": 32}, {"n": 600, "n_layers": 2, "d": 64}],
    "seeds": 1,
    "n_steps": 200,
    "growth": {"n": (32, 64), "n_layers": (1, 2), "d": (16, 32), "units": (4, 16)},
    "memory": (64, 3, 64),
}


def main() -> None:
    """Run, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description="The map against MiniSom and fastersom.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="where the plot goes (PNG)")
    parser.add_argument("--threads", type=int, metavar="N", help="torch's threads (default: torch's choice)")
    parser.add_argument("--quick", action="store_true", help="tiny samples, one seed: a smoke run")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    size: dict[str, Any] = QUICK if arguments.quick else FULL
    figures: dict[str, Any] = {"setting": setting(size)}
    print(json.dumps(figures["setting"]))
    warm_up()
    figures["comparisons"] = []
    for shape in size["comparisons"]:
        for kind in KINDS:
            runs = [compare(kind, seed, size["n_steps"], **shape) for seed in range(size["seeds"])]
            figures["comparisons"].append({"kind": kind, **shape, "runs": runs, **summary(runs, shape["n_layers"])})
            print_comparison(figures["comparisons"][-1])
    figures["growth"] = growth(size["growth"])
    print_growth(figures["growth"])
    figure = arguments.figure or (None if arguments.quick else FIGURE)
    if figure:
        plot_growth(figures["growth"], figure)
    figures["memory"] = [peak_memory(size["memory"], form) for form in ("npy", "safetensors")]
    for row in figures["memory"]:
        print(f"peak memory, {row['shape']} float32 from {row['form']} ({row['file_gib']:.2f} GiB): ", end="")
        print(f"{row['peak_gib']:.2f} GiB, of which {row['import_gib']:.2f} are imports; {row['seconds']:.1f} s")
    if arguments.json:
        write_json(figures, arguments.json)


def setting(size: dict[str, Any]) -> dict[str, Any]:
    """What the figures depend on."""
    packages = {name: version(name) for name in ("sombrero", "minisom", "fastersom", "torch", "numpy")}
    return {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "minisom_steps": size["n_steps"], **packages}


def warm_up() -> None:
    """What a library does once, on first use, is no part of the comparison."""
    samples = torch.randn(600, 2, 64)
    fit_layers(samples)
    fit_layers(samples[:60])
    fastersom.SOM(4, 4, device="cpu").fit(samples[:, 0])


def compare(kind: str, seed: int, n_steps: int, n: int, n_layers: int, d: int) -> dict[str, Any]:
    """One seed: seconds and mean quantization errors of each, in turn on the same samples."""
    hidden = torch.from_numpy(layers_of_samples(kind, n, n_layers, d, seed))
    first = hidden[:, 0].contiguous().numpy()
    time.sleep(0.5)  # threads of NumPy's matrix product, with which samples are made, spin on for a while
    clock, maps = timed(lambda: fit_layers(hidden, seed=seed))
    one_clock, one = timed(lambda: train_minisom(first, n_steps, seed))
    run: dict[str, Any] = {
        "seed": seed,
        "sombrero": {
            **clock,
            "error_first": float(maps.quantization_error[0]),
            "error_all": float(maps.quantization_error.mean()),
        },
        "minisom": {**one_clock, "error_first": float(one.quantization_error(first))},
    }
    for init in ("random", "sample"):
        some_clock, some = timed(lambda init=init: [
            fastersom.SOM(4, 4, init=init, random_state=seed, device="cpu").fit(hidden[:, layer])
            for layer in range(n_layers)
        ])  # fmt: skip
        errors = [float(som.quantization_error(hidden[:, layer])) for layer, som in enumerate(some)]
        run[f"fastersom_{init}"] = {**some_clock, "error_all": statistics.mean(errors)}
    return run


def train_minisom(samples: np.ndarray, n_steps: int, seed: int) -> minisom.MiniSom:
    """As the paper trains it."""
    som = minisom.MiniSom(4, 4, samples.shape[1], sigma=0.3, learning_rate=0.01, topology="hexagonal", random_seed=seed)
    som.random_weights_init(samples)
    som.train_random(samples, n_steps)
    return som


def timed(run: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Wall and processor seconds, and what came of it."""
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}, result


def summary(runs: list[dict[str, Any]], n_layers: int) -> dict[str, Any]:
    """Ratios, above 1 in our favour: medians over seeds; and on how many seeds the error is no worse."""
    figures: dict[str, Any] = {}
    for peer, which in (("minisom", "first"), ("fastersom_random", "all"), ("fastersom_sample", "all")):
        pairs = [(run["sombrero"], run[peer]) for run in runs]
        figures[f"vs_{peer}"] = {
            "wall": statistics.median(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs),
            "cpu": statistics.median(theirs["cpu_seconds"] / ours["cpu_seconds"] for ours, theirs in pairs),
            "no_worse": sum(ours[f"error_{which}"] <= theirs[f"error_{which}"] for ours, theirs in pairs),
        }
    figures["vs_minisom"]["wall_per_layer"] = n_layers * figures["vs_minisom"]["wall"]
    return figures


def print_comparison(row: dict[str, Any]) -> None:
    """One table: a line a seed, and the ratios."""
    print(f"\n{row['kind']}, n={row['n']}, d={row['d']}, L={row['n_layers']}, 4x4: seconds | mean quantization error")
    print("seed  ours, all layers       MiniSom, one layer  fastersom, all layers: random begin; from samples")
    for run in row["runs"]:
        ours, one, a, b = (run[name] for name in ("sombrero", "minisom", "fastersom_random", "fastersom_sample"))
        print(f"{run['seed']:4d}  {ours['seconds']:6.2f} | {ours['error_first']:8.3f}     ", end="")
        print(
            f"{one['seconds']:6.2f} | {one['error_first']:8.3f}   {a['seconds']:6.2f} | {a['error_all']:8.3f}; ", end=""
        )
        print(f"{b['seconds']:6.2f} | {b['error_all']:8.3f}   (ours, mean over layers: {ours['error_all']:.3f})")
    seeds, one = len(row["runs"]), row["vs_minisom"]
    print(
        f"all our layers against one of MiniSom's: {one['wall']:.2f} times as fast (processor {one['cpu']:.2f}), ",
        end="",
    )
    print(f"{one['wall_per_layer']:.0f} a layer; error no worse on {one['no_worse']}/{seeds} seeds")
    for init in ("random", "sample"):
        peer = row[f"vs_fastersom_{init}"]
        print(f"against fastersom ({init}): {peer['wall']:.1f} times as fast (processor {peer['cpu']:.1f}); ", end="")
        print(f"error no worse on {peer['no_worse']}/{seeds} seeds")


def write_json(figures: dict[str, Any], path: Path) -> None:
    """Written to a temporary name and renamed."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
