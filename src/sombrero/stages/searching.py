"""From the map to a measured edit: search, then the finalists on prompts that the search never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from sombrero.edits import EditPlanner, bakeable_kinds, bakeable_rules, edited
from sombrero.errors import RunError, UsageError
from sombrero.evaluation import EvaluationSets, measure, refusal_share, samples
from sombrero.progress import Progress
from sombrero.records import (
    Baseline,
    Calibration,
    DirectionSet,
    Effect,
    Finalist,
    Goal,
    Measurement,
    ModelHandle,
    Response,
    RuleName,
    Subject,
    TrialScore,
)
from sombrero.run_folder import read_manifest
from sombrero.search import (
    Limits,
    Scorer,
    SearchSpace,
    earlier_points,
    make_space,
    open_study,
    rank_finalists,
    run_study,
)
from sombrero.session import Role, Session
from sombrero.stages.reaching import constraints, missed_sentence
from sombrero.stages.trials import TRIALS, read_trials

PICKING = {"trials", "patience", "finalists", "max_refusals", "max_kl", "keep_true_refusals", "max_leak", "workers"}
"""Settings that a study goes on with at other values: when it ends, what is picked of it, how many score at a time."""
USELESS_RATE = 0.5
"""An edit that leaves more than this share of the refusals is none that anybody would pick."""
USELESS_LOSS = 0.3
"""Nor one that loses more than this share of the true refusals."""
USELESS_KL = 3.0
"""Nor is one that diverges by this many times ``max_kl``."""


def search(
    session: Session,
    scorer: Scorer,
    directions: Mapping[str, DirectionSet],
    best_state: int,
    baseline: Baseline,
    calibration: Calibration | None,
    storage: str,
    identity: str,
    progress: Progress,
    *,
    space: SearchSpace | None = None,
    seed: int | None = None,
) -> tuple[TrialScore, ...]:
    """Search for edits, scored by ``scorer``; every finished trial of the study is kept and counted.

    ``space`` and ``seed`` stand in for those of the run, where a comparison has its own.
    """
    settings = session.config
    rules = usable_rules(session)
    for reason in left_out_rules(session).values():
        progress.say(f"{reason}; the search leaves it out")
    rate = baseline.refusals.rate
    if calibration is not None:
        rate = refusal_share(calibration.borderline).rate
    goal = settings.search.goal
    if space is None:
        n_layers = max(writer.layer for writer in session.writers) + 1
        kinds = {rule: bakeable_kinds(rule, session.writers) for rule in rules}
        space = make_space(n_layers, rules, directions, settings.search.max_units, best_state, kinds, goal)
        if settings.search.warm_from is not None:
            earlier = earlier_trials(session, settings.search.warm_from)
            space = replace(space, first=earlier_points(earlier, space))
    study = open_study(storage, identity, goal)
    with progress.stage("search", settings.search.trials) as advance:

        def on_trial(score: TrialScore, scores: tuple[TrialScore, ...]) -> None:
            advance(1)
            progress.trial(score, scores)

        return run_study(
            study,
            space,
            scorer,
            trials=settings.search.trials,
            seed=settings.seed if seed is None else seed,
            limits=Limits(USELESS_RATE * rate, USELESS_KL * settings.search.max_kl, USELESS_LOSS),
            patience=settings.search.patience,
            on_trial=on_trial,
        )


def asked_role(goal: Goal) -> Role:
    """The prompts whose refusals a trial counts."""
    return "harmful" if goal == "suppress" else "borderline"


def earlier_trials(session: Session, path: Path) -> tuple[TrialScore, ...]:
    """The trials of the earlier run in ``path``. Raises RunError when it is none, or of another model or goal."""
    facts = read_manifest(path)
    known = facts.get("identity", {}).get("checkpoint")
    if known != session.identity["checkpoint"]:
        raise RunError(
            f"the run in {path} edits another model (its checkpoint is {str(known)[:12]}, this one's "
            f"{session.identity['checkpoint'][:12]}): its layers and units mean nothing here; leave --warm-from out"
        )
    goal = facts["config"].get("search", {}).get("goal", "suppress")
    if goal != session.config.search.goal:
        raise RunError(
            f"the run in {path} has the goal {goal}, this one {session.config.search.goal}; its edits differ"
        )
    if not (path / TRIALS).is_file():
        raise RunError(f"the run in {path} has no trials yet; finish its search first: sombrero search {path}")
    return read_trials(path / TRIALS)


def usable_rules(session: Session) -> tuple[RuleName, ...]:
    """The configured rules that can be baked into this model. Raises UsageError when it is none of them."""
    left_out = left_out_rules(session)
    rules = tuple(rule for rule in session.config.search.rules if rule not in left_out)
    if not rules:
        known = dict.fromkeys(left_out.values())
        raise UsageError(f"{'; '.join(known)}; give search.rules another one, for example guarded")
    return rules


def left_out_rules(session: Session) -> dict[str, str]:
    """The configured rules that the search does not use, each with the reason."""
    settings = session.config.search
    refused: dict[str, str] = {
        str(rule): why for rule, why in bakeable_rules(settings.rules, session.writers)[1].items()
    }
    if settings.goal == "calibrate":
        for rule in settings.rules:
            if rule != "guarded":
                refused[rule] = f"the rule {rule} treats true and false refusals alike, so it cannot calibrate"
    return refused


def measure_effect(
    session: Session, planner: EditPlanner, scores: tuple[TrialScore, ...], progress: Progress
) -> tuple[Effect, Mapping[str, Mapping[str, Response]]]:
    """Measure the base model and the finalists on the reporting prompts. The search already picked the best of them.

    The second value holds the responses of the base and of the picked edit, by name, for ``--keep-responses``.
    """
    settings = session.config
    finalists = rank_finalists(scores, constraints(settings.search))[: settings.search.finalists]
    if not finalists:
        errors = sorted({score.error for score in scores if score.error})
        raise RunError(f"none of the {len(scores)} trials could be scored: {'; '.join(errors[:3])}")
    missed = missed_sentence(finalists[0], settings.search)
    if missed is not None:
        progress.say(missed)
    sets = report_sets(session)
    base = subject(session.handle)
    with progress.stage("measure base", sets.count) as advance:
        base_measurement, base_responses = measure_subject(session, base, base, sets, advance)
    # the base model's own answers, not generated twice
    length = settings.evaluation.sequence_tokens
    begun = tuple(base_responses[p.prompt.id].token_ids[:length] for p in sets.harmless)
    sets = replace(sets, continuations=begun)
    found: list[Finalist] = []
    responses: dict[str, Mapping[str, Response]] = {"base": base_responses}
    for score in finalists:
        edit = planner.build(score.parameters)
        with progress.stage(f"measure trial {score.number}", sets.count) as advance:
            live = edited(session.handle, session.writers, edit, rounded=True)
            measurement, edited_responses = measure_subject(session, live, base, sets, advance)
        found.append(Finalist(score.number, score.parameters, measurement))
        responses.setdefault("edited", edited_responses)
    shown = samples(base_responses, responses["edited"], sets, settings.evaluation.samples)
    return Effect(base_measurement, finalists[0].number, tuple(found), shown, begun), responses


def report_sets(session: Session, continuations: tuple[tuple[int, ...], ...] = ()) -> EvaluationSets:
    """The reporting prompts; with the base model's own continuations, where they are known, for the sequence KL."""
    return EvaluationSets(
        harmful=session.rendered("harmful", "report"),
        harmless=session.rendered("harmless", "report"),
        borderline=session.rendered("borderline", "report"),
        contrast=session.rendered("contrast", "report") if "contrast" in session.roles else (),
        continuations=continuations,
    )


def measure_subject(
    session: Session, target: Subject, base: Subject, sets: EvaluationSets, advance: Callable[[int], None]
) -> tuple[Measurement, Mapping[str, Response]]:
    """:func:`sombrero.evaluation.measure` with the run's settings."""
    settings = session.config.evaluation
    return measure(
        target,
        base,
        sets,
        detector=session.detector,
        others=session.other_detectors,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        sequence_tokens=settings.sequence_tokens,
        batch_tokens=session.config.states.batch_tokens,
        n_whole=settings.samples,
        keep_harmful=settings.keep_responses,
        on_progress=advance,
    )


def subject(handle: ModelHandle) -> Subject:
    """A loaded model as it is, as a subject to measure."""
    return lambda: nullcontext(handle)
