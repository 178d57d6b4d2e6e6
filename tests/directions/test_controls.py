"""Controls: each has the map's shape, is what it says it is, and does not depend on chance that is not the seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from sombrero.directions import (
    Codebook,
    derive_directions,
    direction_vectors,
    kmeans_codebook,
    pca_codebook,
    permute_labels,
    random_codebook,
)
from sombrero.records import HiddenStates
from tests.directions.samples import gaussian_states, named

UNITS = 5
Make = Callable[[HiddenStates, torch.Tensor, int, int], Codebook]
MADE: tuple[Make, ...] = (kmeans_codebook, pca_codebook, random_codebook)


def make(control: Make, harmful: HiddenStates, harmless: HiddenStates, seed: int = 0) -> Codebook:
    return control(harmful, harmless.hidden.mean(dim=0), UNITS, seed)


@pytest.mark.parametrize("d", [24, 200])
@pytest.mark.parametrize("control", MADE)
def test_every_control_has_the_shape_of_a_map(control: Make, d: int) -> None:
    """Narrow and wide; and a layer whose states do not vary, as the embeddings of the template's last token."""
    harmful, harmless = gaussian_states(40, 30, 3, d, shift=8.0)
    harmful.hidden[:, 0], harmless.hidden[:, 0] = 1.5, 1.5
    with np.errstate(all="raise"):
        codebook = make(control, harmful, harmless)
    assert codebook.points.shape == (3, UNITS, d) and codebook.points.dtype == torch.float32
    assert codebook.best_units.shape == (3, 40)
    assert (codebook.hit_counts.sum(dim=1) == 40).all()
    found = derive_directions(codebook, harmful, harmless)
    assert found.method == codebook.method
    assert torch.isfinite(found.vectors).all() and torch.isfinite(found.auroc).all()
    assert found.log_odds.isnan().all()
    assert (found.auroc[0] == 0.5).all()
    assert found.auroc[1:].amax() > 0.9


@pytest.mark.parametrize("control", MADE)
def test_a_control_follows_from_its_seed(control: Make) -> None:
    harmful, harmless = gaussian_states(shift=1.0)
    first = make(control, harmful, harmless, 3)
    with threadpool_limits(limits=2):
        second = make(control, harmful, harmless, 3)
    assert torch.equal(first.points, second.points) and torch.equal(first.best_units, second.best_units)


@pytest.mark.parametrize("d", [16, 300])
def test_kmeans_is_no_worse_than_scikit_learns_plain_fit(d: int) -> None:
    """Also where it clusters in the space of the rows. Means of clusters are exact."""
    harmful, harmless = gaussian_states(50, 20, 3, d, seed=d)
    codebook = make(kmeans_codebook, harmful, harmless, 7)
    for layer in range(3):
        samples = harmful.hidden[:, layer]
        centres = codebook.points[layer][codebook.best_units[layer]]
        inertia = float((samples - centres).square().sum())
        plain = KMeans(UNITS, random_state=7).fit(samples.double().numpy())
        assert inertia <= plain.inertia_ * (1 + 1e-5)
        for unit in range(UNITS):
            assert torch.allclose(
                codebook.points[layer, unit], samples[codebook.best_units[layer] == unit].mean(dim=0), atol=1e-5
            )


def test_kmeans_finds_planted_clusters_in_wide_states() -> None:
    generator = torch.Generator().manual_seed(1)
    centres = 30 * torch.randn(UNITS, 1, 400, generator=generator)
    members = torch.arange(60) % UNITS
    hidden = centres[members] + torch.randn(60, 1, 400, generator=generator)
    best = kmeans_codebook(named(hidden, "h"), torch.zeros(1, 400), UNITS, 0).best_units[0]
    assert len({(a, b) for a, b in zip(members.tolist(), best.tolist(), strict=True)}) == UNITS


def test_components_are_orthogonal_and_ordered_by_explained_variance() -> None:
    harmful, harmless = gaussian_states(80, 40, 2, 12, shift=1.0)
    harmful.hidden.mul_(torch.linspace(1, 4, 12))
    codebook = make(pca_codebook, harmful, harmless)
    found = derive_directions(codebook, harmful, harmless)
    vectors = found.vectors
    assert torch.allclose(vectors[:, 0], harmful.hidden.mean(0) - harmless.hidden.mean(0), atol=1e-5)
    components = vectors[:, 1:]
    gram = components @ components.mT
    assert (gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3
    variances = gram.diagonal(dim1=1, dim2=2)
    assert (variances.diff(dim=1) <= 0).all()
    for layer in range(2):
        expected = PCA(UNITS - 1).fit(harmful.hidden[:, layer].numpy()).explained_variance_
        assert np.allclose(variances[layer].numpy(), expected, rtol=1e-4)
    assert ((components * vectors[:, :1]).sum(dim=-1) >= -1e-4).all()  # on the side of the harmful mean


def test_random_directions_are_harmful_samples() -> None:
    harmful, harmless = gaussian_states()
    codebook = make(random_codebook, harmful, harmless)
    rows = [(harmful.hidden[:, 0] == point).all(dim=1).nonzero().item() for point in codebook.points[0]]
    assert len(set(rows)) == UNITS
    assert torch.equal(codebook.points, harmful.hidden[rows].transpose(0, 1))
    distances = torch.cdist(harmful.hidden[:, 1], codebook.points[1])
    assert torch.equal(codebook.best_units[1], distances.argmin(dim=1))
    vectors = direction_vectors(codebook)
    assert torch.allclose(vectors + harmless.hidden.mean(0)[:, None], codebook.points, atol=1e-6)


def test_permuted_labels_keep_prompts_and_sizes() -> None:
    harmful, harmless = gaussian_states(11, 17, 2, 4, shift=3.0)
    first, second = permute_labels(harmful, harmless, seed=1)
    assert (len(first.prompt_ids), len(second.prompt_ids)) == (11, 17)
    assert {*first.prompt_ids, *second.prompt_ids} == {*harmful.prompt_ids, *harmless.prompt_ids}
    by_id = dict(zip(harmful.prompt_ids + harmless.prompt_ids, [*harmful.hidden, *harmless.hidden], strict=True))
    for states in (first, second):
        assert all(torch.equal(by_id[i], row) for i, row in zip(states.prompt_ids, states.hidden, strict=True))
        assert any(i.startswith("h") for i in states.prompt_ids) and any(i.startswith("g") for i in states.prompt_ids)
    assert permute_labels(harmful, harmless, seed=1)[0].prompt_ids == first.prompt_ids
    assert permute_labels(harmful, harmless, seed=1, turn=1)[0].prompt_ids != first.prompt_ids
