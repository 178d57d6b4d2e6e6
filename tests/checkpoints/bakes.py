"""Hand-made edits of the tiny models, and bakes of them, for the tests of this room."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sombrero.checkpoints import BakeReport, CheckpointIndex, bake
from sombrero.records import LowRankEdit, Writer, WriterKind

PROVENANCE: dict[str, object] = {"base": "tiny", "rule": "project", "measured": {"refusals": [3, 100]}}
MODULES: tuple[tuple[WriterKind, str], ...] = (("attention", "self_attn.o_proj"), ("mlp", "mlp.down_proj"))


def tiny_writers(folder: Path, layers: tuple[int, ...] = (0, 1, 2, 3)) -> list[Writer]:
    """Writers of a tiny model, read off the checkpoint in ``folder``."""
    tensors = CheckpointIndex.read(folder).tensors
    writers = []
    for layer in layers:
        for kind, module in MODULES:
            path = f"model.layers.{layer}.{module}"
            bias = f"{path}.bias" if f"{path}.bias" in tensors else None
            d_out, d_in = tensors[f"{path}.weight"].shape
            writers.append(Writer(f"{layer}.{kind}", layer, kind, path, f"{path}.weight", bias, "linear", d_in, d_out))
    return writers


def random_edit(
    writers: list[Writer], *, rank: int = 2, strength: float = 0.8, seed: int = 0
) -> dict[str, LowRankEdit]:
    """A random edit of each writer: V orthonormal, A random, c only where there is a bias."""
    generator = torch.Generator().manual_seed(seed)
    edit = {}
    for writer in writers:
        V = torch.linalg.qr(torch.randn(writer.d_out, rank, generator=generator)).Q
        A = torch.randn(writer.d_in, rank, generator=generator)
        c = torch.randn(rank, generator=generator) if writer.bias_name else None
        edit[writer.name] = LowRankEdit(V, A, c, strength)
    return edit


def bake_tiny(source: Path, out: Path, **options: Any) -> BakeReport:
    """Bake a random edit of the middle layers."""
    writers = tiny_writers(source, (1, 2))
    return bake(source, random_edit(writers), writers, out, provenance=PROVENANCE, **options)


def tree(folder: Path) -> dict[str, str]:
    """Path -> sha256 of every file under ``folder``."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def progress_that(act: Callable[[], None], at: int) -> Callable[[int, int], None]:
    """An on_progress that acts on its call number ``at``."""
    calls = 0

    def on_progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            act()

    return on_progress
