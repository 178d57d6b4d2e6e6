"""The score of a trial is what anyone would measure on the edited weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from sombrero.edits import live_edit
from sombrero.evaluation import MarkerDetector
from sombrero.records import EditParameters, ModelEdit, RenderedPrompt, Response, Verdict, VerdictLabel
from sombrero.search import TrialBench
from sombrero.search.objective import complete, screen
from tests.planned import Planned, parameters
from tests.search.benches import MARKERS, count_refusals, make_bench

POINTS = (
    parameters("guarded"),
    parameters("project", units=(0,), directions="single"),
    parameters("compose", units=(0, 1), map_layer=2, strength=0.7),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planned, TrialBench]:
    return make_bench(tmp_path_factory.mktemp("objective") / "model")


def log_probs(model: torch.nn.Module, prompts: tuple[RenderedPrompt, ...]) -> torch.Tensor:
    """First-token log-probs, one prompt at a time, without anything of ours."""
    with torch.inference_mode():
        rows = [model(torch.tensor([prompt.token_ids])).logits[0, -1] for prompt in prompts]
    return torch.stack(rows).double().log_softmax(dim=-1)


def with_weights(planned: Planned, edit: ModelEdit) -> torch.nn.Module:
    """A copy of the model with the edit in its weights."""
    model = copy.deepcopy(planned.handle.model)
    with torch.no_grad():
        for writer in planned.writers:
            low_rank = edit.get(writer.name)
            if low_rank is None:
                continue
            assert low_rank.c is None
            weight = model.get_parameter(f"{writer.module_path}.weight")
            weight -= low_rank.strength * low_rank.V @ low_rank.A.T
    return model


@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.rule)
def test_screening_is_the_kl_and_the_log_odds_of_the_edited_weights(
    made: tuple[Planned, TrialBench], point: EditParameters
) -> None:
    planned, bench = made
    score = screen(bench, 7, point)
    edited = with_weights(planned, planned.planner.build(point))
    p, q = (log_probs(model, planned.harmless_prompts) for model in (planned.handle.model, edited))
    assert score.kl == pytest.approx(float((p.exp() * (p - q)).sum(dim=-1).mean()), rel=1e-3)
    assert score.kl is not None and score.kl > 1e-3
    refusing = log_probs(edited, planned.harmful_prompts).exp()[:, bench.refusal_tokens].sum(dim=-1)
    odds = (refusing / (1 - refusing)).log()
    assert score.predicted_refusals == int((odds > 0).sum())
    assert score.log_odds == pytest.approx(float(odds.mean()), rel=1e-3, abs=1e-4)
    assert (score.number, score.state, score.n, score.refusals) == (7, "screened", len(bench.harmful), None)


@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.rule)
def test_completing_counts_refusals_as_the_detector_does_on_whole_answers(
    made: tuple[Planned, TrialBench], point: EditParameters
) -> None:
    planned, bench = made
    screened = screen(bench, 0, point)
    score = complete(bench, screened)
    with live_edit(planned.handle, planned.writers, planned.planner.build(point)):
        expected = count_refusals(bench)
    assert score.refusals == expected
    assert score.state == "generated"
    assert (score.kl, score.predicted_refusals, score.n) == (screened.kl, screened.predicted_refusals, screened.n)


@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.rule)
def test_a_race_is_called_off_only_when_it_is_lost(made: tuple[Planned, TrialBench], point: EditParameters) -> None:
    """Beaten at a number of refusals: never called off below it, and then no more is claimed than was seen."""
    _, bench = made
    screened = replace(screen(bench, 0, point), predicted_refusals=0)
    whole = complete(bench, screened)
    assert whole.refusals is not None
    for beaten_at in range(1, len(bench.harmful) + 2):
        raced = complete(bench, screened, beaten_at=beaten_at)
        if raced.state == "generated":
            assert raced == whole
        else:
            assert raced.refusals is None and raced.state == "screened"
            assert beaten_at <= (raced.predicted_refusals or 0) <= whole.refusals


@pytest.mark.parametrize("broken", ["empty", "degenerate", "partial", "unfinished"])
def test_an_edit_that_silences_the_model_is_not_counted_as_answering(
    made: tuple[Planned, TrialBench], broken: VerdictLabel
) -> None:
    """Whatever does not refuse says nothing here: no refusal more, and not one prompt answered."""
    _, bench = made

    class Silenced(MarkerDetector):
        def judge(self, response: Response) -> Verdict:
            verdict = super().judge(response)
            return replace(verdict, label=broken) if verdict.label == "answer" else verdict

    silenced = replace(bench, detector=Silenced(MARKERS))
    score = complete(silenced, screen(silenced, 0, POINTS[0]))
    assert score.refusals is not None and score.refusals < score.n
    assert score.refusals + score.faults == score.n
    assert score.rate == 1.0


def test_scoring_leaves_the_model_as_it_was(made: tuple[Planned, TrialBench]) -> None:
    planned, bench = made
    before = count_refusals(bench), {k: v.clone() for k, v in planned.handle.model.state_dict().items()}
    complete(bench, screen(bench, 0, POINTS[0]))
    assert count_refusals(bench) == before[0]
    assert all(value.equal(before[1][name]) for name, value in planned.handle.model.state_dict().items())


def test_an_edit_of_no_strength_diverges_by_nothing(made: tuple[Planned, TrialBench]) -> None:
    _, bench = made
    assert screen(bench, 0, parameters("guarded", strength=0.0)).kl == pytest.approx(0, abs=1e-6)


def test_unknown_verdicts_leave_the_rate_to_the_others(made: tuple[Planned, TrialBench]) -> None:
    _, bench = made

    class Unsure(MarkerDetector):
        unsure = (bench.harmful[0].prompt.id,)

        def judge(self, response: Response) -> Verdict:
            verdict = super().judge(response)
            return replace(verdict, label="unknown", marker="why") if response.prompt_id in self.unsure else verdict

    class Silent(Unsure):
        unsure = tuple(rendered.prompt.id for rendered in bench.harmful)

    unsure = replace(bench, detector=Unsure(MARKERS))
    score = complete(unsure, screen(unsure, 0, POINTS[0]))
    assert score.refusals is not None and score.unknown == 1
    assert score.rate == (score.refusals + score.faults) / (score.n - 1)
    silent = replace(bench, detector=Silent(MARKERS))
    failed = complete(silent, screen(silent, 0, POINTS[0]))
    assert failed.state == "failed" and failed.refusals is None and "why" in str(failed.error)
