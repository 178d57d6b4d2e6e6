"""The map against its peers on the same samples in one run: `python benchmarks/som.py`, about ten minutes on two cores.

(a) and (b) `fit_layers` over all layers, MiniSom over one (10,000 online steps, sigma 0.3, a 0.01) and fastersom over
all, with the quantization errors beside the times, for 5 seeds of samples and training; (c) how the cost grows; (d) the
peak memory of mapping a file. Samples are `structured` (clusters + 16 wide directions + noise + a common offset, as
hidden states have them) or `isotropic` (noise alone). Peers run as they come: fastersom with its default 10 epochs,
begun from random vectors (its default) and from samples; it has rectangular maps only.

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
    parser.add_argument("--quick", action="store_true", help="tiny samples, one seed: a smoke run")
    arguments = parser.parse_args()
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
    seconds, maps = timed(lambda: fit_layers(hidden, seed=seed))
    one_seconds, one = timed(lambda: train_minisom(first, n_steps, seed))
    run: dict[str, Any] = {
        "seed": seed,
        "sombrero": {
            "seconds_all": seconds,
            "error_first": float(maps.quantization_error[0]),
            "error_all": float(maps.quantization_error.mean()),
        },
        "minisom": {"seconds_first": one_seconds, "error_first": float(one.quantization_error(first))},
    }
    for init in ("random", "sample"):
        some_seconds, some = timed(lambda init=init: [
            fastersom.SOM(4, 4, init=init, random_state=seed, device="cpu").fit(hidden[:, layer])
            for layer in range(n_layers)
        ])  # fmt: skip
        errors = [float(som.quantization_error(hidden[:, layer])) for layer, som in enumerate(some)]
        run[f"fastersom_{init}"] = {"seconds_all": some_seconds, "error_all": statistics.mean(errors)}
    return run


def train_minisom(samples: np.ndarray, n_steps: int, seed: int) -> minisom.MiniSom:
    """As the paper trains it."""
    som = minisom.MiniSom(4, 4, samples.shape[1], sigma=0.3, learning_rate=0.01, topology="hexagonal", random_seed=seed)
    som.random_weights_init(samples)
    som.train_random(samples, n_steps)
    return som


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds, and what came of it."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def summary(runs: list[dict[str, Any]], n_layers: int) -> dict[str, Any]:
    """Ratios above 1 are in our favour: medians over seeds, and on how many seeds the error is no worse."""
    ours = [run["sombrero"] for run in runs]
    figures: dict[str, Any] = {
        "all_layers_vs_one_of_minisom": statistics.median(
            run["minisom"]["seconds_first"] / run["sombrero"]["seconds_all"] for run in runs
        ),
        "no_worse_than_minisom": sum(run["sombrero"]["error_first"] <= run["minisom"]["error_first"] for run in runs),
    }
    figures["per_layer_vs_minisom"] = n_layers * figures["all_layers_vs_one_of_minisom"]
    for init in ("random", "sample"):
        theirs = [run[f"fastersom_{init}"] for run in runs]
        pairs = list(zip(ours, theirs, strict=True))
        figures[f"vs_fastersom_{init}"] = statistics.median(b["seconds_all"] / a["seconds_all"] for a, b in pairs)
        figures[f"no_worse_than_fastersom_{init}"] = sum(a["error_all"] <= b["error_all"] for a, b in pairs)
    return figures


def print_comparison(row: dict[str, Any]) -> None:
    """One table: a line a seed, and the ratios."""
    print(f"\n{row['kind']}, n={row['n']}, d={row['d']}, L={row['n_layers']}, 4x4: seconds | mean quantization error")
    print("seed  ours, all layers      MiniSom, one layer    fastersom, all layers (random; sample)")
    for run in row["runs"]:
        ours, one = run["sombrero"], run["minisom"]
        a, b = run["fastersom_random"], run["fastersom_sample"]
        print(f"{run['seed']:4d}  {ours['seconds_all']:6.2f} | {ours['error_first']:8.3f}     "
              f"{one['seconds_first']:6.2f} | {one['error_first']:8.3f}     "
              f"{a['seconds_all']:6.2f} | {a['error_all']:8.3f};  {b['seconds_all']:6.2f} | {b['error_all']:8.3f}"
              f"   (ours, mean over layers: {ours['error_all']:.3f})")  # fmt: skip
    seeds = len(row["runs"])
    print(f"all our layers against one of MiniSom's: {row['all_layers_vs_one_of_minisom']:.2f} times as fast, ", end="")
    print(f"{row['per_layer_vs_minisom']:.1f} a layer; error no worse on {row['no_worse_than_minisom']}/{seeds} seeds")
    for init in ("random", "sample"):
        print(f"against fastersom ({init}): {row[f'vs_fastersom_{init}']:.1f} times as fast; "
              f"error no worse on {row[f'no_worse_than_fastersom_{init}']}/{seeds} seeds")  # fmt: skip


def write_json(figures: dict[str, Any], path: Path) -> None:
    """Written to a temporary name and renamed."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
