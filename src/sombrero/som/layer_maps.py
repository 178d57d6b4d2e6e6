"""What is known of the maps of some layers, and how it is found: from inner products, or in a pass over all samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch

from sombrero.errors import NumericalError
from sombrero.som import quality
from sombrero.som.hidden import BLOCK_ROWS
from sombrero.som.lattice import Lattice
from sombrero.som.layer_rows import LayerRows
from sombrero.som.spaces import GramSpace

_CANCELLED = 0.01
"""Squared distances below this share of a squared length are taken from differences: a product loses their digits."""


@dataclass(frozen=True)
class LayerMaps:
    """One map per layer, and how well each represents its samples.

    codebook ``(L, m, d)`` float32; best_units ``(L, n)`` int64; hit_counts ``(L, m)`` int64 over the training samples;
    quantization_error, topographic_error ``(L,)`` and u_matrix ``(L, m)`` float32 (see ``quality``).
    """

    codebook: torch.Tensor
    best_units: torch.Tensor
    hit_counts: torch.Tensor
    quantization_error: torch.Tensor
    topographic_error: torch.Tensor
    u_matrix: torch.Tensor


def joined(parts: list[LayerMaps], codebook: torch.Tensor) -> LayerMaps:
    """The maps of all layers of the parts, in order; codebook ``(L, m, d)`` is that of all, which the parts share."""
    names = [field.name for field in fields(LayerMaps) if field.name != "codebook"]
    return LayerMaps(codebook, *(torch.cat([getattr(part, name) for part in parts]) for name in names))


def maps_in_rows(
    layers: list[LayerRows],
    codebooks: Iterable[torch.Tensor],
    space: GramSpace,
    members: torch.Tensor,
    best: torch.Tensor,
    lattice: Lattice,
    out: torch.Tensor,
) -> LayerMaps:
    """Maps of all samples of space, by the weights and clusters of ``batch``: all from inner products.

    codebooks: ``(m, d)`` of each layer, centred; they are put into ``out (L, m, d)`` as they are.
    """
    distances = space.to_means(members, best)
    squares, own = distances.min(dim=1)
    second = distances.scatter_(1, own[:, None], float("inf")).min(dim=1).indices if lattice.n_units > 1 else own
    between = space.between_means(members, best)
    square, axes = torch.linalg.eigh(between)
    units = axes * square.clamp_(min=0.0).sqrt_()[:, None]  # the same distances between units, in fewer features
    dtype = layers[0].dtype
    for rows, codebook, place in zip(layers, codebooks, out, strict=True):
        torch.add(codebook, rows.centre, out=place)
    return LayerMaps(
        out,
        own,
        quality.hit_counts(own, lattice.n_units),
        squares.sqrt_().mean(dim=1).to(dtype),
        quality.topographic_error(own, second, lattice),
        quality.u_matrix(units, lattice).to(dtype),
    )


def maps_in_features(
    layers: list[LayerRows], codebooks: Iterable[torch.Tensor], lattice: Lattice, out: torch.Tensor
) -> LayerMaps:
    """Maps by their centred codebooks ``(m, d)``, in a pass over all samples, put into ``out (L, m, d)`` as they are.

    Raises NumericalError if one overflows.
    """
    trained = zip(layers, codebooks, out, strict=True)
    return joined([_map_in_features(rows, codebook, lattice, place) for rows, codebook, place in trained], out)


def _map_in_features(rows: LayerRows, codebook: torch.Tensor, lattice: Lattice, out: torch.Tensor) -> LayerMaps:
    best, second, lengths = [], [], []
    for block, norms in zip(rows.blocks(), rows.norms.split(BLOCK_ROWS), strict=True):
        scores = quality.relative_scores(block[None], codebook[None])[0]
        nearest, own = scores.min(dim=1)
        best.append(own)
        second.append(scores.scatter_(1, own[:, None], float("inf")).argmin(dim=1) if len(codebook) > 1 else own)
        squares = nearest + norms
        close = squares < _CANCELLED * norms
        squares[close] = (block[close] - codebook[own[close]]).square().sum(dim=1)
        lengths.append(squares.clamp_(min=0.0).sqrt_())
    best_units = torch.cat(best)[None]
    error = torch.cat(lengths)[None].mean(dim=1)
    if not bool(torch.isfinite(error).all()) or not bool(torch.isfinite(codebook).all()):
        raise NumericalError(
            f"the map of layer {rows.layer} overflows: scale the samples down, or, with the mexican_hat neighbourhood, "
            "which pushes units away step by step, lower sigma, learning_rate or n_steps"
        )
    return LayerMaps(
        torch.add(codebook, rows.centre, out=out)[None],
        best_units,
        quality.hit_counts(best_units, lattice.n_units),
        error,
        quality.topographic_error(best_units, torch.cat(second)[None], lattice),
        quality.u_matrix(codebook[None], lattice),
    )
