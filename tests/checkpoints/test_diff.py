"""What differs between two checkpoints, told for edits of known kinds that the test makes itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sombrero.checkpoints import bake, diff_checkpoints
from sombrero.errors import CheckpointError
from tests.checkpoints.bakes import random_edit, tiny_writers
from tests.checkpoints.stored import mxfp4, scaled
from tests.tiny_models import save_tiny

WIDTH, LAYERS = 96, 6
Weights = dict[str, torch.Tensor]


def base_weights() -> Weights:
    generator = torch.Generator().manual_seed(0)
    weights: Weights = {"model.norm.weight": torch.ones(WIDTH), "ids": torch.arange(4)}
    for layer in range(LAYERS):
        for name, columns in (("self_attn.o_proj", WIDTH), ("mlp.down_proj", 2 * WIDTH)):
            weights[f"model.layers.{layer}.{name}.weight"] = 0.05 * torch.randn(WIDTH, columns, generator=generator)
    return weights


def save(weights: Weights, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    folder.mkdir()
    content = {n: (w.to(dtype) if w.is_floating_point() else w).contiguous() for n, w in weights.items()}
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def matrices(weights: Weights, change: Callable[[int, torch.Tensor], torch.Tensor]) -> Weights:
    """The weights with every matrix changed; the change gets the layer."""
    return {n: change(int(n.split(".")[2]), w) if w.dim() == 2 else w for n, w in weights.items()}


def directions(rank: int, seed: int = 1) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(WIDTH, rank, generator=torch.Generator().manual_seed(seed))).Q


def orthogonalized(weights: Weights) -> Weights:
    """One direction removed from everything that is written, as in Arditi et al. 2024."""
    v = directions(1)
    return matrices(weights, lambda layer, W: W - v @ (v.T @ W))


def layer_by_layer(weights: Weights) -> Weights:
    """Another direction in each layer, with strengths of a kernel over the layers."""
    return matrices(
        weights, lambda layer, W: W - (0.4 + 0.2 * layer) * directions(1, layer) @ (directions(1, layer).T @ W)
    )


def renormalized(weights: Weights) -> Weights:
    """A direction removed, then every row brought back to its length."""

    def change(layer: int, W: torch.Tensor) -> torch.Tensor:
        v = directions(1, 7)
        edited = W - v @ (v.T @ W)
        return edited * (W.norm(dim=1, keepdim=True) / edited.norm(dim=1, keepdim=True))

    return matrices(weights, change)


def merged_lora(weights: Weights) -> Weights:
    generator = torch.Generator().manual_seed(3)

    def change(layer: int, W: torch.Tensor) -> torch.Tensor:
        B, A = torch.randn(W.shape[0], 4, generator=generator), torch.randn(4, W.shape[1], generator=generator)
        return W + 2e-3 * B @ A

    return matrices(weights, change)


def fine_tuned(weights: Weights) -> Weights:
    generator = torch.Generator().manual_seed(4)
    return matrices(weights, lambda layer, W: W + 3e-3 * torch.randn(W.shape, generator=generator))


def faintly_tuned(weights: Weights) -> Weights:
    generator = torch.Generator().manual_seed(4)
    return matrices(weights, lambda layer, W: W * (1 + 2**-9 * torch.randn(W.shape, generator=generator)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("made", "verdict", "kind", "rank"),
    [
        (orthogonalized, "directional", "low-rank", 1),
        (layer_by_layer, "directional", "low-rank", 1),
        (renormalized, "directional", "low-rank, rows rescaled", 1),
        (merged_lora, "low-rank", "low-rank", 4),
        (fine_tuned, "full-rank", "full-rank", None),
    ],
)
def test_each_kind_of_edit_is_told_from_the_others(
    made: Callable[[Weights], Weights], verdict: str, kind: str, rank: int | None, dtype: torch.dtype, tmp_path: Path
) -> None:
    # the tool edits what is stored, as a tool does that loads the checkpoint
    weights = {n: w.to(dtype).float() if w.is_floating_point() else w for n, w in base_weights().items()}
    base, edited = save(weights, tmp_path / "base", dtype), save(made(weights), tmp_path / "edited", dtype)
    found = diff_checkpoints(base, edited)
    assert found.looks.verdict == verdict
    assert {change.kind for change in found.changes} == {kind} and len(found.changes) == 2 * LAYERS
    assert {change.rank for change in found.changes} == {rank}
    assert set(found.same) == {"model.norm.weight", "ids"}
    for change in found.changes:
        before, after = weights[change.name], made(weights)[change.name].to(dtype).float()
        assert change.energy == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
        assert change.rounding < 0.35


def test_shared_directions_are_counted(tmp_path: Path) -> None:
    weights = base_weights()
    base = save(weights, tmp_path / "base")
    one = diff_checkpoints(base, save(orthogonalized(weights), tmp_path / "one")).looks
    assert (one.directions, one.ranks) == (1, 2 * LAYERS) and one.removes is not None and one.removes > 0.95
    many = diff_checkpoints(base, save(layer_by_layer(weights), tmp_path / "many")).looks
    assert (many.directions, many.ranks) == (LAYERS, 2 * LAYERS)
    merged = diff_checkpoints(base, save(merged_lora(weights), tmp_path / "merged")).looks
    assert merged.removes is not None and merged.removes < 0.3


def test_rounding_alone_is_not_an_edit(tmp_path: Path) -> None:
    weights = base_weights()
    base = save(weights, tmp_path / "base", torch.float32)
    found = diff_checkpoints(base, save(weights, tmp_path / "rounded", torch.bfloat16))
    assert found.looks.verdict == "rounding" and {change.kind for change in found.changes} == {"rounding"}
    bf16 = save(weights, tmp_path / "bf16")
    assert diff_checkpoints(bf16, save(weights, tmp_path / "again")).looks.verdict == "identical"
    faint = diff_checkpoints(bf16, save(faintly_tuned(weights), tmp_path / "faint"))
    assert faint.looks.verdict in ("rounding", "full-rank")


def test_quantized_weights_are_compared_by_their_numbers(tmp_path: Path) -> None:
    W = base_weights()["model.layers.0.self_attn.o_proj.weight"]
    v = directions(1)
    strong = W - 4 * v @ (v.T @ W)
    for name, store in (("mxfp4", mxfp4), ("fp8", lambda w: scaled(w, (32, 32)))):
        base = save({}, tmp_path / f"{name}-base")
        save_file(store(W), base / "model.safetensors")
        edited = save({}, tmp_path / f"{name}-edited")
        save_file(store(strong), edited / "model.safetensors")
        found = diff_checkpoints(base, edited)
        assert [(change.name, change.kind, change.rank) for change in found.changes] == [("w", "low-rank", 1)]
        plain = save({"w": strong}, tmp_path / f"{name}-plain", torch.float32)
        assert diff_checkpoints(edited, plain).changes[0].name == "w"


def test_our_own_bake_and_what_does_not_fit(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", dtype=torch.bfloat16, attention_bias=True)
    writers = tiny_writers(source, (1, 2))
    out = bake(source, random_edit(writers, rank=2), writers, tmp_path / "out", provenance={}).out
    found = diff_checkpoints(source, out)
    by_kind = {kind: {c.name for c in found.changes if c.kind == kind} for kind in ("vector", "low-rank")}
    assert by_kind["low-rank"] == {writer.weight_name for writer in writers}
    assert by_kind["vector"] == {writer.bias_name for writer in writers if writer.bias_name}
    assert {c.rank for c in found.changes if c.kind == "low-rank"} == {2}

    first = save({"a": torch.ones(2, 3), "b": torch.ones(3), "c": torch.arange(3)}, tmp_path / "first")
    second = save({"a": torch.ones(3, 2), "d": torch.ones(3), "c": torch.arange(3) + 1}, tmp_path / "second")
    found = diff_checkpoints(first, second)
    assert (found.other_shape, found.only_base, found.only_edited) == (("a",), ("b",), ("d",))
    assert found.bytes_differ == ("c",) and not found.changes
    with pytest.raises(CheckpointError, match="not a folder"):
        diff_checkpoints(first, tmp_path / "none")
