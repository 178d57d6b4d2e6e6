"""Cost for benchmarks/som.py: how time grows with each size, and how much memory a file takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from safetensors.torch import save_file

from som_samples import layers_of_samples
from sombrero.som import fit_layers

USUAL = {"n": 256, "n_layers": 4, "d": 1024, "units": 16}
NAMES = {"n": "samples n", "n_layers": "layers L", "d": "features d", "units": "units m"}
REPEATS = 5

MEASURE = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
from safetensors import safe_open
from sombrero.som import fit_layers

def peak_kib():
    status = Path("/proc/self/status")
    if status.exists():  # of this process alone
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)

path, imports, begin = sys.argv[1], peak_kib(), time.perf_counter()
if path.endswith(".npy"):
    maps = fit_layers(np.load(path, mmap_mode="r"))
else:
    with safe_open(path, framework="pt") as file:
        maps = fit_layers(file.get_slice("hidden"))
seconds = time.perf_counter() - begin
print(json.dumps({"peak_gib": peak_kib() / 2**20, "import_gib": imports / 2**20, "seconds": seconds}))
"""


def growth(sizes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Seconds of ``fit_layers`` (least of a few) as one size grows and the others stay, with log-log slopes."""
    figures: dict[str, Any] = {"usual": USUAL}
    for name, values in sizes.items():
        seconds = []
        for value in values:
            size = USUAL | ({"n": 1024, "d": 512, "n_layers": 1} if name == "units" else {}) | {name: value}
            side = int(size["units"] ** 0.5)
            hidden = torch.from_numpy(layers_of_samples("structured", size["n"], size["n_layers"], size["d"], seed=0))
            least = float("inf")
            for _ in range(REPEATS):
                begin = time.perf_counter()
                fit_layers(hidden, n_rows=side, n_columns=side)
                least = min(least, time.perf_counter() - begin)
            seconds.append(least)
        half = np.log(values[len(values) // 2 :]), np.log(seconds[len(values) // 2 :])
        figures[name] = {
            "values": list(values),
            "seconds": seconds,
            "slope": float(np.polyfit(np.log(values), np.log(seconds), 1)[0]),
            "slope_of_larger_half": float(np.polyfit(*half, 1)[0]) if len(half[0]) > 1 else None,
        }
    return figures


def print_growth(figures: dict[str, Any]) -> None:
    """A table."""
    print("\nhow the cost grows (seconds of all layers, structured samples; else n=256, L=4, d=1024, 4x4; for units "
          "n=1024, L=1, d=512)")  # fmt: skip
    for name, label in NAMES.items():
        row = figures[name]
        cells = "  ".join(
            f"{value}: {seconds:.3f}" for value, seconds in zip(row["values"], row["seconds"], strict=True)
        )
        last = row["slope_of_larger_half"]
        print(
            f"  {label:<11} slope {row['slope']:.2f}" + (f" (larger half {last:.2f})" if last else "") + f"   {cells}"
        )


def plot_growth(figures: dict[str, Any], path: Path) -> None:
    """Log-log, one panel a size, with the fitted line."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 4, figsize=(12, 3.4), sharey=True, layout="constrained")
    for panel, (name, label) in zip(panels, NAMES.items(), strict=True):
        values, seconds = (np.array(figures[name][what], dtype=float) for what in ("values", "seconds"))
        slope = figures[name]["slope"]
        line = np.exp(np.log(seconds).mean() + slope * (np.log(values) - np.log(values).mean()))
        panel.loglog(values, line, "-", color="0.6", label=f"slope {slope:.2f}")
        panel.loglog(values, seconds, "o", color="#0072b2", label="fit_layers")
        panel.set_xlabel(label)
        panel.set_xticks(values, [f"{int(value)}" for value in values])
        panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        panel.tick_params(axis="x", labelrotation=60)
        panel.grid(True, which="major", color="0.9")
        panel.legend(frameon=False, loc="upper left")
    panels[0].set_ylabel("seconds, all layers")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def peak_memory(shape: tuple[int, int, int], form: str) -> dict[str, Any]:
    """Peak resident memory of a new process, imports included, that maps all layers of a file; and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"states.{form}"
        write_states(path, shape)
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)], check=True, stdout=subprocess.PIPE, text=True
        )
        return {
            "shape": list(shape),
            "form": form,
            "file_gib": path.stat().st_size / 2**30,
            **json.loads(result.stdout),
        }


def write_states(path: Path, shape: tuple[int, int, int]) -> None:
    """Clusters and noise, float32, a block at a time."""
    random = np.random.default_rng(0)
    n, n_layers, d = shape
    centres = random.standard_normal((6, n_layers, d), dtype=np.float32)
    noise = 0.5 * random.standard_normal(
        (50, n_layers, d + 64), dtype=np.float32
    )  # shifted along features, again and again
    array = path.with_suffix(".npy")
    states = np.lib.format.open_memmap(array, mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, n, len(noise)):
        some = states[start : start + len(noise)]
        shift = int(random.integers(64))
        some[:] = centres[random.integers(6, size=len(some))] + noise[: len(some), :, shift : shift + d]
    states.flush()
    if path.suffix == ".safetensors":
        save_file({"hidden": torch.from_numpy(states)}, path)
