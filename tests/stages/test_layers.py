"""Layer choice: the rules as stated, and ablation measured on a real (tiny) model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sombrero.directions import ablation_candidates, choose_by_auroc, choose_by_log_odds
from sombrero.errors import NumericalError
from sombrero.evaluation import first_token_log_probs, kl, refusal_log_odds
from sombrero.records import DirectionSet
from sombrero.stages.layers import ablate_each
from tests.planned import Planned, plan
from tests.tiny_models import WIDTH

STATES = (1, 2, 3)
PLANTED = 2
UNWRITTEN = 5
"""An axis of the residual stream that no writer of the prepared model writes to."""


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """A tiny model whose writers leave one axis alone, so that ablating that axis changes nothing."""
    found = plan("llama", tmp_path_factory.mktemp("llama"))
    with torch.no_grad():
        for writer in found.writers:
            found.handle.model.get_parameter(writer.weight_name)[UNWRITTEN] = 0.0
    return found


def single_of(vectors: torch.Tensor, auroc: list[float] | None = None) -> DirectionSet:
    """A single direction for each state index ``(L + 1, d)``."""
    n = len(vectors)
    values = torch.tensor(auroc or [0.5] * n)[:, None]
    whole = torch.zeros(n, 1, dtype=torch.int64)
    return DirectionSet("single", vectors[:, None], whole, whole, values, values, values, values, vectors)


def strongest(planned: Planned, tokens: torch.Tensor) -> torch.Tensor:
    """The axis whose ablation lowers the refusal log-odds most: the one to plant."""
    axes = torch.eye(WIDTH)
    measured = [ablate(planned, torch.cat([axes[None, row]] * 5), tokens, (1,))[0][0] for row in range(WIDTH)]
    return axes[int(torch.tensor(measured).argmin())]


def ablate(
    planned: Planned, vectors: torch.Tensor, tokens: torch.Tensor, states: tuple[int, ...] = STATES
) -> list[tuple[float, float]]:
    return ablate_each(
        planned.handle,
        planned.writers,
        single_of(vectors),
        states,
        harmful=planned.harmful_prompts,
        harmless=planned.harmless_prompts,
        tokens=tokens,
    )


@pytest.fixture(scope="module")
def tokens(planned: Planned) -> torch.Tensor:
    return first_token_log_probs(planned.handle, planned.harmful_prompts).argmax(dim=-1).unique()


def test_ablation_is_that_of_edited_weights(planned: Planned, tokens: torch.Tensor) -> None:
    """The hooks' figures are those of a model whose weights have lost the direction."""
    vectors = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    found = ablate(planned, vectors, tokens, (PLANTED,))[0]
    base = first_token_log_probs(planned.handle, planned.harmless_prompts)
    unit = torch.nn.functional.normalize(vectors[PLANTED], dim=0)
    weights = [planned.handle.model.get_parameter(writer.weight_name) for writer in planned.writers]
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight -= torch.outer(unit, unit @ weight)
        odds = refusal_log_odds(first_token_log_probs(planned.handle, planned.harmful_prompts), tokens).mean()
        changed = kl(base, first_token_log_probs(planned.handle, planned.harmless_prompts)).mean()
        for weight, before in zip(weights, kept, strict=True):
            weight.copy_(before)
    assert found == (pytest.approx(float(odds), abs=1e-3), pytest.approx(float(changed), abs=1e-3))


def test_the_planted_layer_is_chosen(planned: Planned, tokens: torch.Tensor) -> None:
    """Directions that no writer writes do nothing; the planted one lowers the refusal log-odds, and is chosen."""
    vectors = torch.eye(WIDTH)[UNWRITTEN].repeat(5, 1)
    vectors[PLANTED] = strongest(planned, tokens)
    measured = ablate(planned, vectors, tokens)
    base = refusal_log_odds(first_token_log_probs(planned.handle, planned.harmful_prompts), tokens).mean()
    log_odds, divergence = zip(*measured, strict=True)
    assert log_odds[0] == pytest.approx(float(base), abs=1e-3) and divergence[0] < 1e-5
    assert log_odds[1] < log_odds[0] - 0.1
    choice = choose_by_log_odds(single_of(vectors), STATES, log_odds, divergence, max_kl=divergence[1] * 1.01)
    assert (choice.state, choice.within_bound) == (PLANTED, True)
    bounded = choose_by_log_odds(single_of(vectors), STATES, log_odds, divergence, max_kl=divergence[1] / 2)
    assert bounded.state != PLANTED and bounded.within_bound


def test_the_lowest_log_odds_within_the_bound_win() -> None:
    single = single_of(torch.zeros(6, 2), [0.5, 0.6, 0.9, 0.7, 0.8, 0.6])
    choice = choose_by_log_odds(single, (1, 2, 3), (-1.0, -9.0, -4.0), (0.01, 0.5, 0.1), max_kl=0.1)
    assert (choice.state, choice.within_bound, choice.max_kl) == (3, True, 0.1)
    assert choice.auroc == pytest.approx((0.6, 0.9, 0.7))


def test_where_no_layer_keeps_to_the_bound_the_closest_is_taken_and_it_is_said() -> None:
    single = single_of(torch.zeros(4, 2))
    choice = choose_by_log_odds(single, (1, 2), (-9.0, -1.0), (0.9, 0.3), max_kl=0.1)
    assert (choice.state, choice.within_bound) == (2, False)


def test_figures_that_are_not_finite_never_win() -> None:
    single, nan = single_of(torch.zeros(4, 2)), float("nan")
    kept = choose_by_log_odds(single, (1, 2), (nan, -1.0), (0.0, 0.05), max_kl=0.1)
    assert kept.state == 2 and kept.log_odds == (None, -1.0)
    with pytest.raises(NumericalError, match="not finite for any"):
        choose_by_log_odds(single, (1, 2), (nan, -1.0), (0.0, float("inf")), max_kl=0.1)


def test_auroc_chooses_among_the_layers_and_not_the_embeddings() -> None:
    single = single_of(torch.zeros(5, 2), [1.0, 0.6, 0.9, 0.9, 0.8])
    choice = choose_by_auroc(single)
    assert (choice.rule, choice.state, choice.states) == ("auroc", 2, (1, 2, 3, 4))
    assert choose_by_auroc(replace(single, auroc=single.auroc[:2])).state == 1


@pytest.mark.parametrize(("n_layers", "last"), [(1, 1), (2, 1), (4, 2), (10, 7), (30, 23), (32, 24)])
def test_candidates_end_before_four_fifths_of_the_depth(n_layers: int, last: int) -> None:
    assert ablation_candidates(n_layers) == tuple(range(1, last + 1))
