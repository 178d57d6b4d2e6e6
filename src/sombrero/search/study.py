"""Run a study: ask, have it scored, tell. Resumable; with one trial at a time equal to an uninterrupted run.

Optuna numbers its trials by the time they were asked for; ours count finished trials. Before each ask the sampler is
seeded anew from the trial's place in the order of asking. A trial that a killed process left open is marked failed and
its place is asked for again; with one trial at a time, place and number are the same, so the sampler sees the same
history and gives the same point. With several, which ones it knows of by then depends on timing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import optuna
from optuna.samplers import BaseSampler, PartialFixedSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter
from sqlalchemy.exc import SQLAlchemyError

from sombrero.errors import RunError
from sombrero.records import Goal, TrialScore
from sombrero.search.front import has_stalled
from sombrero.search.interrupts import interrupts_wait
from sombrero.search.scoring import Scorer
from sombrero.search.space import SearchSpace

OBJECTIVES: Mapping[Goal, tuple[str, ...]] = {
    "suppress": ("refusal_rate", "first_token_kl"),
    "calibrate": ("false_refusal_rate", "first_token_kl", "true_refusals_lost"),
}
SCORE = "score"
IDENTITY = "identity"
PLACE = "place"
STARTUP_TRIALS = 10

_scores = TypeAdapter(TrialScore)


@dataclass(frozen=True)
class Limits:
    """A trial that refuses more, diverges more (first-token KL, nats) or loses more true refusals is of no use."""

    rate: float
    kl: float
    lost: float = 1.0

    def excess(self, trial: FrozenTrial) -> tuple[float, ...]:
        """Optuna's constraints: above 0 where a limit is exceeded."""
        score = _scores.validate_python(trial.user_attrs[SCORE])
        found = (score.rate - self.rate, (float("inf") if score.kl is None else score.kl) - self.kl)
        return found if score.n_true == 0 else (*found, score.lost_rate - self.lost)


def open_study(storage: str, identity: str, goal: Goal = "suppress") -> optuna.Study:
    """Open or create the study.

    Raises RunError when it belongs to another model, prompts or configuration, or its storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _storage_errors(storage):
        study = optuna.create_study(
            study_name="sombrero", storage=storage, directions=["minimize"] * len(OBJECTIVES[goal]), load_if_exists=True
        )
        known = study.user_attrs.get(IDENTITY)
        if known is None:
            study.set_user_attr(IDENTITY, identity)
            with _quiet():
                study.set_metric_names(list(OBJECTIVES[goal]))
            return study
    if known != identity:
        raise RunError(
            f"the study in {storage} belongs to another model, prompts or configuration ({known[:12]}, this run is "
            f"{identity[:12]}); use another storage or output folder, or start over with --fresh"
        )
    return study


def finished_scores(study: optuna.Study) -> tuple[TrialScore, ...]:
    """The scores of all finished trials, in order. Raises RunError when the storage fails."""
    with _storage_errors("its storage"):
        trials = study.trials
    found = [_scores.validate_python(trial.user_attrs[SCORE]) for trial in trials if _is_finished(trial)]
    return tuple(sorted(found, key=lambda score: score.number))


def run_study(
    study: optuna.Study,
    space: SearchSpace,
    scorer: Scorer,
    *,
    trials: int,
    seed: int,
    limits: Limits | None = None,
    patience: int | None = None,
    on_trial: Callable[[TrialScore, tuple[TrialScore, ...]], None] | None = None,
) -> tuple[TrialScore, ...]:
    """Bring the study to ``trials`` finished trials and return all scores. ``on_trial`` sees each new one with all.

    With ``patience`` it ends before, when so many generated trials in a row have not moved the front.

    ``limits`` say what is of no interest: the sampler turns away from there, but nothing is thrown away.
    Raises RunError when the storage fails; finished trials are in it.
    """
    study.sampler = _sampler(space, 0, seed, limits)  # a sampler notes the limits when it is told of a trial
    with _storage_errors("its storage"):
        for open_trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            _close(study, open_trial)
        scores, taken = finished_scores(study), _places(study)
    asked: dict[int, optuna.Trial] = {}
    with scorer:
        while True:
            stalled = patience is not None and has_stalled(scores, patience)
            wanted = 0 if stalled else trials - len(scores) - len(asked)
            if wanted > 0 and scorer.has_room():
                place = next(place for place in count() if place not in taken)
                taken.add(place)
                study.sampler = _sampler(space, place, seed, limits)
                with _storage_errors("its storage"):
                    asked[place] = study.ask()
                    parameters = space.suggest(asked[place])
                scorer.submit(place, parameters, scores)
                continue
            if wanted <= 0 and not asked:
                return scores
            found = scorer.wait(wanted)
            if found is None:
                continue
            score = replace(found, number=len(scores))
            with _storage_errors("its storage"):
                _record(study, asked.pop(found.number), found.number, score)
            scores = (*scores, score)
            if on_trial is not None:
                on_trial(score, scores)


def _places(study: optuna.Study) -> set[int]:
    """Places in the order of asking that finished trials have: their numbers, unless they were overtaken."""
    finished = [trial.user_attrs for trial in study.trials if _is_finished(trial)]
    return {attributes.get(PLACE, attributes[SCORE]["number"]) for attributes in finished}


def _record(study: optuna.Study, trial: optuna.Trial, place: int, score: TrialScore) -> None:
    if place != score.number:
        trial.set_user_attr(PLACE, place)
    trial.set_user_attr(SCORE, _scores.dump_python(score, mode="json"))  # from here on the trial is not lost
    _tell(study, trial.number, score)


def _tell(study: optuna.Study, number: int, score: TrialScore) -> None:
    if score.state == "failed" or score.kl is None:
        study.tell(number, state=TrialState.FAIL)
    else:
        study.tell(number, list(score.objectives))


def _close(study: optuna.Study, trial: FrozenTrial) -> None:
    """Finish a trial that a killed process left open: with its score where that was recorded, else as failed."""
    if SCORE in trial.user_attrs:
        _tell(study, trial.number, _scores.validate_python(trial.user_attrs[SCORE]))
    else:
        study.tell(trial.number, state=TrialState.FAIL)


def _sampler(space: SearchSpace, place: int, seed: int, limits: Limits | None) -> BaseSampler:
    # TPE sees screened trials with their predicted refusals: a poor prediction still says "not here".
    with _quiet():
        sampler = TPESampler(
            seed=(seed * 1_000_003 + place) % 2**32,
            multivariate=True,
            group=True,  # a parameter that only one rule has does not make the others be drawn one by one
            n_startup_trials=STARTUP_TRIALS,
            constant_liar=True,  # away from the trials that others score right now; alone there are none
            constraints_func=None if limits is None else limits.excess,
        )
        starts = space.warm_starts()
        if place < len(starts):
            return PartialFixedSampler(starts[place], sampler)
    return sampler


@contextmanager
def _storage_errors(storage: str) -> Iterator[None]:
    """Turn what a database says of itself into a RunError: a full disk, a server that is gone, a wrong URL.

    An interrupt waits until the database has answered.
    """
    try:
        with interrupts_wait():
            yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error
        reason = getattr(cause, "orig", None) or cause
        raise RunError(
            f"the study cannot use {storage}: {reason}. Finished trials are kept: make room, or see that the database "
            "answers, then run the same command again"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings of what is experimental, or deprecated in its newest version alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _is_finished(trial: FrozenTrial) -> bool:
    attributes: dict[str, Any] = trial.user_attrs
    return SCORE in attributes and trial.state in (TrialState.COMPLETE, TrialState.FAIL)
