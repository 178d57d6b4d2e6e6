"""Geometry: spans, planes and curves against other libraries and against what was planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from sombrero.directions import (
    Codebook,
    derive_directions,
    layer_curves,
    principal_angles,
    principal_plane,
    scaled_plane,
    single_codebook,
    span_angles,
)
from sombrero.errors import UsageError
from tests.directions.samples import gaussian_states, named


def test_principal_angles_are_scipys() -> None:
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(4, 3, 12, generator=g), torch.randn(4, 5, 12, generator=g)
    second[1, :2] = first[1, :2] + 1e-4 * torch.randn(2, 12, generator=g)  # nearly shared: cosines alone would round
    second[2, 0] = first[2].sum(dim=0)  # one shared direction
    found = principal_angles(first, second)
    assert found.shape == (4, 3)
    for layer in range(4):
        expected = np.sort(subspace_angles(first[layer].double().T.numpy(), second[layer].double().T.numpy()))
        assert np.allclose(found[layer].numpy(), expected, atol=1e-6)
    assert torch.equal(found, principal_angles(second, first))


def test_spans_of_fewer_dimensions_have_fewer_angles() -> None:
    axes = torch.eye(6)
    twice = torch.stack([axes[0], 2 * axes[0], axes[1]])
    found = principal_angles(torch.stack([twice, torch.zeros(3, 6)]), axes[1:4].expand(2, 3, 6))
    assert found[0, 0] == 0 and float(found[0, 1]) == pytest.approx(math.pi / 2)
    assert found.isnan().tolist() == [[False, False, True], [True, True, True]]


def test_span_angles_are_in_degrees_and_never_nan() -> None:
    axes = torch.eye(6)
    twice = torch.stack([axes[0], 2 * axes[0], axes[1] + axes[5]])
    assert span_angles(twice, axes[:2]) == pytest.approx((0.0, 45.0), abs=1e-4)
    assert span_angles(axes[:1], axes[:4]) == (0.0,)
    assert span_angles(torch.zeros(2, 6), axes[:4]) == (90.0,)


def test_curves_say_what_was_planted() -> None:
    """A direction that grows, turns once, and is not there in the embeddings."""
    harmful, harmless = gaussian_states(200, 200, 4, 16, seed=3)
    axes = torch.eye(16)[[0, 0, 0, 1]]
    harmful.hidden[:] = harmful.hidden + torch.tensor([0.0, 4.0, 8.0, 16.0])[:, None] * axes
    harmful.hidden[:, 0] = harmless.hidden[:, 0] = 2.0
    mean = harmless.hidden.mean(0)
    single = derive_directions(single_codebook(harmful.hidden.mean(0), mean, harmful.prompt_ids), harmful, harmless)
    points = harmful.hidden[:2].transpose(0, 1).contiguous()
    points[3, 1] = points[3, 0]
    som = derive_directions(
        Codebook("som", points, torch.arange(200).expand(4, 200) % 2, mean, harmful.prompt_ids), harmful, harmless
    )
    rows = layer_curves(som, single, harmless)
    assert [row.state for row in rows] == [0, 1, 2, 3]
    assert rows[0].neighbour_cosine is rows[1].neighbour_cosine is rows[0].effective_rank is rows[0].unit_cosine is None
    assert rows[2].neighbour_cosine == pytest.approx(1.0, abs=0.05)
    assert rows[3].neighbour_cosine == pytest.approx(0.0, abs=0.15)
    norms = [row.relative_norm for row in rows]
    assert norms[0] == 0 and norms == sorted(norms)
    assert norms[2] == pytest.approx(8 / math.sqrt(16), rel=0.1)
    assert rows[3].effective_rank == pytest.approx(1.0, abs=1e-3)
    assert rows[0].auroc_single == 0.5 and rows[3].auroc_single > 0.99
    assert all(row.auroc_single_low <= row.auroc_single <= row.auroc_single_high for row in rows)


@pytest.mark.parametrize("d", [12, 600])
def test_the_plane_is_that_of_the_states_and_harmful_ones_lie_to_the_right(d: int) -> None:
    harmful, harmless = gaussian_states(50, 40, 3, d, shift=20.0)
    harmful.hidden[:, 0] = harmless.hidden[:, 0] = 1.0
    codebook = torch.stack([harmful.hidden.mean(0), harmless.hidden.mean(0), harmful.hidden[7]], dim=1)
    found = principal_plane(harmful, harmless, codebook)
    assert (found.harmful.shape, found.harmless.shape) == ((3, 50, 2), (3, 40, 2))
    assert found.codebook.shape == (3, 3, 2) and found.explained.shape == (3, 2)
    assert not found.harmful[0].any() and not found.codebook[0].any() and not found.explained[0].any()
    for layer in (1, 2):
        assert torch.allclose(found.codebook[layer, 0], found.harmful[layer].mean(0), atol=1e-3)
        assert torch.allclose(found.codebook[layer, 2], found.harmful[layer, 7], atol=1e-3)
        assert found.harmful[layer, :, 0].min() > found.harmless[layer, :, 0].max()
        states = torch.cat([harmful.hidden[:, layer], harmless.hidden[:, layer]])
        values = torch.linalg.svdvals(states - states.mean(0)).square()
        assert torch.allclose(found.explained[layer], (values / values.sum())[:2], rtol=2e-2)
    again = principal_plane(harmful, harmless, codebook)
    assert torch.equal(again.harmful, found.harmful)


def test_scaling_keeps_distances_that_fit_in_a_plane() -> None:
    generator = torch.Generator().manual_seed(2)
    flat = torch.randn(40, 2, generator=generator) * torch.tensor([3.0, 1.0])
    turned = flat @ torch.linalg.qr(torch.randn(30, 30, generator=generator))[0][:2] + 5.0
    harmful, harmless = (
        named(turned[:20, None].expand(20, 2, 30), "h"),
        named(turned[20:35, None].expand(15, 2, 30), "g"),
    )
    found = scaled_plane(harmful, harmless, turned[35:].expand(2, 5, 30), 1)
    placed = torch.cat([found.harmful[0], found.harmless[0], found.codebook[0]])
    assert found.harmful.shape == (1, 20, 2) and found.explained.isnan().all()
    assert torch.allclose(torch.cdist(placed, placed), torch.cdist(flat, flat), atol=0.05)
    assert found.harmful[0, :, 0].mean() >= found.harmless[0, :, 0].mean()
    with pytest.raises(UsageError, match=r"state index 2; give one of 0\.\.1"):
        scaled_plane(harmful, harmless, turned[35:].expand(2, 5, 30), 2)
