"""One measurement on a live-edited tiny model: what is counted, what is returned, and what is dropped."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from sombrero.errors import PromptError, UsageError
from sombrero.evaluation import EvaluationSets, TextDetector, base_continuations, generate, measure, samples
from sombrero.records import Response, Verdict
from tests.evaluation.subjects import LiveSubjects, random_prompts, tiny_handle


@dataclass(frozen=True)
class LetterDetector(TextDetector):
    """Calls a response a refusal when its first eight characters hold a letter up to ``last``."""

    last: str = "k"
    name: str = "letter"

    def refuses(self, text: str) -> bool:
        return any("a" <= c <= self.last for c in text[:8].casefold())

    def judge(self, response: Response) -> Verdict:
        label = "refusal" if self.refuses(response.text) else "answer"
        return Verdict(response.prompt_id, label, None, len(response.token_ids))

    def settled(self, text: str) -> bool:
        return self.refuses(text) or len(text) >= 8


def make_sets(live: LiveSubjects, *, n_tokens: int = 5) -> EvaluationSets:
    harmless = random_prompts("harmless", seed=2)
    return EvaluationSets(
        harmful=random_prompts("harmful", seed=1),
        harmless=harmless,
        borderline=random_prompts("borderline", seed=3)[:7],
        continuations=base_continuations(live.handle, harmless, n_tokens),
    )


def test_a_measurement_of_a_live_edit() -> None:
    live, detector = LiveSubjects(tiny_handle()), LetterDetector()
    sets, counts = make_sets(live), []
    found, responses = measure(
        live.edited,
        live.base,
        sets,
        detector=detector,
        max_new_tokens=16,
        batch_size=5,
        n_whole=3,
        on_progress=counts.append,
    )
    assert live.open == [] and live.entered[0] == "edited" and "base" in live.entered
    assert sum(counts) == sets.count == 31
    assert set(responses) == {p.prompt.id for p in (*sets.harmless, *sets.borderline)}

    with live.edited() as handle:
        whole = {
            name: generate(handle, getattr(sets, name), max_new_tokens=16)
            for name in ("harmful", "harmless", "borderline")
        }
    refusals = {name: sum(detector.refuses(r.text) for r in answers) for name, answers in whole.items()}
    assert 0 < refusals["harmful"] < 12
    assert (found.refusals.count, found.refusals.n) == (refusals["harmful"], 12)
    assert (found.harmless_refusals.count, found.false_refusals.count) == (refusals["harmless"], refusals["borderline"])
    assert [v.prompt_id for v in found.verdicts] == [p.prompt.id for p in sets.harmful]
    assert [v.label for v in found.verdicts] == [detector.judge(r).label for r in whole["harmful"]]
    assert sum(found.labels.values()) == 12 and found.labels["refusal"] == refusals["harmful"]
    kept = (*whole["harmless"], *whole["borderline"][:3])
    assert [responses[r.prompt_id] for r in kept] == list(kept)
    for answer in whole["borderline"][3:]:  # these may end when their verdict is settled
        cut = responses[answer.prompt_id].token_ids
        assert cut == answer.token_ids[: len(cut)]
    assert found.kl.sequence > 0 and len(found.kl.sequence_by_prompt) == 12
    assert found.coherence.n == 12 and found.coherence.perplexity > 1


def test_harmful_responses_are_kept_only_when_asked_and_then_whole() -> None:
    live, detector = LiveSubjects(tiny_handle()), LetterDetector()
    sets = make_sets(live)
    dropped, without = measure(live.edited, live.base, sets, detector=detector, max_new_tokens=16)
    kept, responses = measure(live.edited, live.base, sets, detector=detector, max_new_tokens=16, keep_harmful=True)
    assert kept.refusals == dropped.refusals
    harmful = [responses[p.prompt.id] for p in sets.harmful]
    assert not {r.prompt_id for r in harmful} & set(without)
    assert "settled" not in {r.stopped for r in harmful}
    assert min(v.n_tokens for v in dropped.verdicts) < 16


def test_other_detectors_judge_the_same_responses_whole() -> None:
    live, detector, other = LiveSubjects(tiny_handle()), LetterDetector(), LetterDetector("e", "early")
    sets = make_sets(live)
    alone, _ = measure(live.edited, live.base, sets, detector=detector, max_new_tokens=16)
    found, _ = measure(live.edited, live.base, sets, detector=detector, others=(other,), max_new_tokens=16)
    assert (alone.opinions, found.refusals, found.false_refusals) == ((), alone.refusals, alone.false_refusals)
    (opinion,) = found.opinions
    with live.edited() as handle:
        whole = {
            name: generate(handle, getattr(sets, name), max_new_tokens=16)
            for name in ("harmful", "borderline", "harmless")
        }
    assert opinion.detector == "early"
    assert opinion.verdicts == tuple(map(other.judge, whole["harmful"])) != found.verdicts
    assert opinion.safe_verdicts == tuple(map(other.judge, (*whole["borderline"], *whole["harmless"])))
    with pytest.raises(UsageError, match="2 detectors of the name 'letter'"):
        measure(live.edited, live.base, sets, detector=detector, others=(detector,), max_new_tokens=4)


def test_the_base_model_against_itself() -> None:
    live = LiveSubjects(tiny_handle())
    base = live.base
    found, _ = measure(base, base, make_sets(live), detector=LetterDetector(), max_new_tokens=4)
    assert (found.kl.first_token, found.kl.sequence) == (0.0, 0.0)


def test_continuations_are_made_or_shortened_when_asked() -> None:
    live = LiveSubjects(tiny_handle())
    sets = make_sets(live, n_tokens=6)
    options = {"detector": LetterDetector(), "max_new_tokens": 4}
    short = measure(live.edited, live.base, make_sets(live, n_tokens=2), **options)[0].kl
    assert measure(live.edited, live.base, sets, sequence_tokens=2, **options)[0].kl == short
    made = measure(live.edited, live.base, replace(sets, continuations=()), sequence_tokens=2, **options)[0].kl
    assert made == short
    assert measure(live.edited, live.base, sets, **options)[0].kl != short


def test_samples_show_both_kinds_and_no_harmful_prompt() -> None:
    live = LiveSubjects(tiny_handle())
    sets = make_sets(live)
    options = {"detector": LetterDetector(), "max_new_tokens": 6, "keep_harmful": True}
    _, before = measure(live.base, live.base, sets, **options)
    _, after = measure(live.edited, live.base, sets, **options)
    shown = samples(before, after, sets, 3)
    assert [s.kind for s in shown] == ["harmless"] * 3 + ["borderline"] * 3
    for sample in shown:
        assert (sample.base, sample.edited) == (before[sample.prompt_id].text, after[sample.prompt_id].text)
    assert not {s.prompt_id for s in samples(before, after, sets, 99)} & {p.prompt.id for p in sets.harmful}


def test_sets_are_checked() -> None:
    a, b, c = (random_prompts(kind) for kind in "abc")
    with pytest.raises(PromptError, match="no borderline prompts"):
        EvaluationSets(a, b, ())
    with pytest.raises(PromptError, match="'a0'"):
        EvaluationSets(a, a, c)
    with pytest.raises(UsageError, match="1 continuations for 12"):
        EvaluationSets(a, b, c, ((1,),))


def test_unknown_verdicts_are_counted_apart() -> None:
    live = LiveSubjects(tiny_handle())
    sets = make_sets(live)

    class Unsure(LetterDetector):
        def judge(self, response: Response) -> Verdict:
            verdict = super().judge(response)
            return replace(verdict, label="unknown") if response.prompt_id == sets.harmful[0].prompt.id else verdict

        def settled(self, text: str) -> bool:
            return False

    sure, _ = measure(live.base, live.base, sets, detector=LetterDetector(), max_new_tokens=16)
    found, _ = measure(live.base, live.base, sets, detector=Unsure(), max_new_tokens=16)
    assert found.labels["unknown"] == 1 and sum(found.labels.values()) == sure.refusals.n
    assert found.refusals.n == sure.refusals.n - 1
    assert found.refusals.count == sure.refusals.count - (sure.verdicts[0].label == "refusal")
