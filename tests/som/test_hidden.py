"""Layers from wherever they are: the same maps, and little of a mapped file in memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sombrero.errors import NumericalError, UsageError
from sombrero.som import LayerMaps, fit_layers, layers
from sombrero.som.hidden import Hidden
from tests.som.samples import clustered


class Sliced:
    """The least that a source must have."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.shape = values, tuple(values.shape)

    def __getitem__(self, key: tuple[slice, slice]) -> torch.Tensor:
        assert all(isinstance(part, slice) for part in key)
        return self.values[key].clone()


def states(n: int = 700, n_layers: int = 3, d: int = 80) -> torch.Tensor:
    return torch.from_numpy(np.stack([clustered(n, d, seed=seed)[0] for seed in range(n_layers)], axis=1))


def assert_equal(one: LayerMaps, other: LayerMaps) -> None:
    for field in fields(LayerMaps):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("settings", [{"rule": "batch"}, {"rule": "online", "n_steps": 300}], ids=str)
@pytest.mark.parametrize("streamed", [False, True])
def test_every_source_gives_the_same_map(
    settings: dict[str, object], streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = states()
    expected = fit_layers(hidden, n_rows=3, n_columns=3, **settings)  # type: ignore[arg-type]
    if streamed:  # nothing is kept: layers are read anew at each pass, a few rows at a time
        monkeypatch.setattr(layers, "CHUNK_BYTES", 1)
        monkeypatch.setattr("sombrero.som.hidden.READ_BYTES", 7 * 3 * 80 * 4)
    np.save(tmp_path / "states.npy", hidden.numpy())
    save_file({"hidden": hidden}, tmp_path / "states.safetensors")
    big_endian = hidden.numpy().astype(">f4")
    with safe_open(tmp_path / "states.safetensors", framework="pt") as file:
        sources = {
            "tensor": hidden,
            "strided": torch.cat([hidden, hidden], dim=2)[..., :80],
            "array": hidden.numpy(),
            "big_endian": big_endian,
            "memmap": np.load(tmp_path / "states.npy", mmap_mode="r"),
            "copy_on_write": np.load(tmp_path / "states.npy", mmap_mode="c"),
            "slice": file.get_slice("hidden"),
            "mapped": file.get_tensor("hidden"),
            "sliced": Sliced(hidden),
        }
        for source in sources.values():
            assert_equal(expected, fit_layers(source, n_rows=3, n_columns=3, **settings))  # type: ignore[arg-type]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are dropped on Linux alone")
def test_a_file_larger_than_what_is_read_at_once_stays_out_of_memory(tmp_path: Path) -> None:
    """Of 256 MB on disk, mapped, a fit keeps a small part resident."""
    path = tmp_path / "states.npy"
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(1000, 16, 4096))
    for start in range(0, 1000, 100):
        written[start : start + 100] = np.random.RandomState(start).standard_normal((100, 16, 4096))
    written.flush()
    code = f"""
import re
from pathlib import Path
import numpy as np
from sombrero.som import fit_layers
fit_layers(np.zeros((600, 1, 80), dtype=np.float32))
def peak() -> int:  # of this process alone: getrusage counts what its parent had
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))
before = peak()
fit_layers(np.load({str(path)!r}, mmap_mode="r"), n_rows=2, n_columns=2)
print(peak() - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) * 1024 < 180 * 2**20


def test_changes_to_a_private_mapping_are_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "states.npy", states().numpy())
    changed = np.load(tmp_path / "states.npy", mmap_mode="c")
    changed += 1.0
    expected = changed.copy()
    fit_layers(changed)
    assert np.array_equal(changed, expected)
    changed[3] += 1.0  # one page of many
    fit_layers(np.load(tmp_path / "states.npy", mmap_mode="c"))
    fit_layers(changed)
    assert np.array_equal(changed[3], expected[3] + 1.0)


def test_what_has_no_samples_and_layers_is_refused() -> None:
    for wrong, message in [
        (torch.zeros(4, 5), r"shape \(4, 5\)"),
        (torch.zeros(4, 0, 5), r"shape \(4, 0, 5\)"),
        ([[1.0]], "hidden is list"),
        (torch.zeros(4, 5, 6).cfloat(), "complex"),
        (np.full((4, 5, 6), "x"), "of type"),
    ]:
        with pytest.raises(UsageError, match=message):
            Hidden(wrong)  # type: ignore[arg-type]


def test_the_layer_that_is_not_finite_is_named() -> None:
    hidden = states()
    hidden[690, 2, 5] = float("inf")
    with pytest.raises(NumericalError, match="layer 2 holds NaN or infinity"):
        fit_layers(hidden)
