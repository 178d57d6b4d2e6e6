from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score

from sombrero.directions import cosine_matrix, derive_directions, effective_rank, projection_auroc
from sombrero.errors import NumericalError
from sombrero.records import HiddenStates
from tests.planned import Planned, plan


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    return plan("llama", tmp_path_factory.mktemp("llama"))


def test_auroc_is_scikit_learns() -> None:
    g = torch.Generator().manual_seed(0)
    harmful, harmless = torch.randn(13, 3, 8, generator=g) + 0.3, torch.randn(21, 3, 8, generator=g)
    vectors = torch.randn(3, 5, 8, generator=g)
    harmful[:, 0], harmless[:, 0] = harmful[:, 0].round(), harmless[:, 0].round()
    vectors[0] = torch.eye(8)[:5]  # whole numbers along axes: many ties
    found = projection_auroc(harmful, harmless, vectors)
    labels = [1] * 13 + [0] * 21
    for layer in range(3):
        for unit in range(5):
            scores = torch.cat([harmful[:, layer], harmless[:, layer]]) @ vectors[layer, unit]
            assert float(found[layer, unit]) == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)


def test_a_direction_of_length_zero_separates_nothing() -> None:
    assert projection_auroc(torch.randn(4, 1, 3), torch.randn(5, 1, 3), torch.zeros(1, 1, 3)).item() == 0.5


def test_the_single_direction_is_the_difference_of_means(planned: Planned) -> None:
    expected = planned.harmful.hidden.mean(0) - planned.harmless.hidden.mean(0)
    single = planned.directions["single"]
    assert torch.allclose(single.vectors[:, 0], expected, atol=1e-6)
    assert single.vectors.shape[1] == 1


def test_units_are_ordered_by_training_hits(planned: Planned) -> None:
    som = planned.directions["som"]
    assert (som.hit_counts.diff(dim=1) <= 0).all()
    assert (som.hit_counts.sum(dim=1) == len(planned.refusal_map.train_ids)).all()
    for layer in range(5):
        for rank, unit in enumerate(som.units[layer].tolist()):
            expected = planned.refusal_map.codebook[layer, unit] - planned.refusal_map.harmless_mean[layer]
            assert torch.equal(som.vectors[layer, rank], expected)
            assert som.hit_counts[layer, rank] == planned.refusal_map.hit_counts[layer, unit]


def test_projected_directions_are_orthogonal_to_the_harmless_mean(planned: Planned) -> None:
    found = derive_directions(planned.refusal_map, planned.harmful, planned.harmless, projected=True)
    unit = torch.nn.functional.normalize(planned.refusal_map.harmless_mean, dim=-1)
    assert torch.einsum("lmd,ld->lm", found.vectors, unit).abs().max() < 1e-4


def test_states_of_another_width_are_refused(planned: Planned) -> None:
    other = replace(planned.harmful, hidden=torch.zeros(3, 5, 7))
    with pytest.raises(NumericalError, match="another model"):
        derive_directions(planned.refusal_map, HiddenStates(("a",), other.hidden, {}), planned.harmless)


def test_effective_rank_counts_dimensions() -> None:
    axes = torch.eye(6)[:3]
    assert effective_rank(axes).item() == pytest.approx(3.0, abs=1e-4)
    assert effective_rank(axes[:1].expand(4, 6) * torch.tensor([[1.0], [2.0], [-3.0], [9.0]])).item() == pytest.approx(
        1.0
    )
    assert torch.allclose(cosine_matrix(axes * 5), torch.eye(3), atol=1e-6)
