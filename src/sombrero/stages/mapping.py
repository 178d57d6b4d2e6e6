"""From the untouched model to its map: baseline, states, map, directions, residual accounting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from sombrero.config import MapConfig
from sombrero.edits import account_residuals
from sombrero.errors import RunError
from sombrero.evaluation import first_token_log_probs, generate, refusal_share
from sombrero.progress import Progress
from sombrero.records import Baseline, HiddenStates, LayerAccounting, RefusalMap, RenderedPrompt, Response
from sombrero.session import Session
from sombrero.som import LayerMaps, fit_layers
from sombrero.states import collect_states

PROBE_PROMPTS = 4
TRAINING = (
    "n_rows", "n_columns", "lattice", "toroidal", "rule", "neighbourhood", "initialization", "sigma", "learning_rate",
    "n_steps",
)  # fmt: skip


def measure_baseline(session: Session, progress: Progress) -> Baseline:
    """Answer the search prompts with the untouched model. The harmful ones' text is scored and dropped."""
    settings = session.config.evaluation
    harmful, harmless = session.rendered("harmful", "search"), session.rendered("harmless", "search")
    with progress.stage("baseline", len(harmful)) as advance:
        responses = generate(
            session.handle,
            harmful,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            settled=session.detector.settled,
            on_progress=advance,
        )
        starts = first_token_log_probs(session.handle, harmless, batch_tokens=session.config.states.batch_tokens)
    verdicts = session.detector.judge_all([rendered.prompt for rendered in harmful], responses)
    refusing = [r.token_ids[0] for r, v in zip(responses, verdicts, strict=True) if v.label == "refusal"]
    return Baseline(refusal_share(verdicts), verdicts, tuple(refusing), tuple(starts.argmax(dim=-1).tolist()))


def require_refusals(baseline: Baseline, minimum: float) -> None:
    """Raise RunError when the model hardly refuses: there is nothing to map."""
    found = baseline.refusals
    if found.rate < minimum:
        raise RunError(
            f"the base model refuses {found.count}/{found.n} harmful search prompts: nothing to map. Use prompts that "
            f"it refuses, check its chat template and system prompt, or lower min_base_refusals (now {minimum:g})"
        )


def begin_answers(session: Session, progress: Progress) -> list[tuple[int, ...]]:
    """How the base model begins its own answers to harmless map prompts: tokens, all of one length."""
    settings = session.config.states
    length = settings.key_answer_tokens
    if length == 0:
        return []
    prompts = session.rendered("harmless", "map")[: settings.guards]
    with progress.stage("openings of harmless answers", len(prompts)) as advance:
        found = generate(session.handle, prompts, max_new_tokens=length, on_progress=advance)
    return pad_openings(found, length)


def pad_openings(responses: Sequence[Response], length: int) -> list[tuple[int, ...]]:
    """The tokens of each response, its last one repeated up to ``length``."""
    return [(*r.token_ids, *[r.token_ids[-1]] * (length - len(r.token_ids))) for r in responses]


def collect(
    session: Session, role: Literal["harmful", "harmless"], openings: list[tuple[int, ...]], progress: Progress
) -> HiddenStates:
    """Hidden states and writer inputs of the map prompts of one role.

    Each prompt is continued with an opening of a harmless answer, a harmless one with its own: there the guarded rule
    learns where a refusal may still break off an answer, and what it must leave alone.
    """
    settings = session.config.states
    prompts = session.rendered(role, "map")
    n_keyed = len(prompts) if role == "harmful" else min(settings.guards, len(prompts))
    with progress.stage(f"states of {role} prompts", len(prompts)) as advance:

        def states_of(chosen: Sequence[RenderedPrompt], *, keyed: bool) -> HiddenStates:
            return collect_states(
                session.handle,
                session.architecture,
                session.writers if keyed else (),
                chosen,
                batch_tokens=settings.batch_tokens,
                key_positions=settings.key_positions,
                openings=[openings[i % len(openings)] for i in range(len(chosen))] if openings and keyed else (),
                winsorize=settings.winsorize,
                on_progress=advance,
            )

        states = states_of(prompts[:n_keyed], keyed=True)
        if n_keyed == len(prompts):
            return states
        rest = states_of(prompts[n_keyed:], keyed=False)
    ids, hidden = (*states.prompt_ids, *rest.prompt_ids), torch.cat([states.hidden, rest.hidden])
    return HiddenStates(ids, hidden, states.writer_inputs)


@dataclass(frozen=True)
class Folds:
    """States of both roles to train on, and those held out. Without writer inputs, which a map has no use for."""

    harmful: HiddenStates
    harmless: HiddenStates
    harmful_held: HiddenStates
    harmless_held: HiddenStates

    @classmethod
    def cut(cls, harmful: HiddenStates, harmless: HiddenStates, holdout: float, seed: int) -> Folds:
        """Each role by a permutation that the seed decides."""
        (h, h_held), (g, g_held) = (split_states(states, holdout, seed) for states in (harmful, harmless))
        return cls(h, g, h_held, g_held)


def split_states(states: HiddenStates, holdout: float, seed: int) -> tuple[HiddenStates, HiddenStates]:
    """States to train on and states held out, by a permutation that the seed decides; at least one row each."""
    n = len(states.prompt_ids)
    held = min(max(1, round(n * holdout)), n - 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return _rows(states, order[held:]), _rows(states, order[:held])


def fit_map(hidden: torch.Tensor, settings: MapConfig, seed: int) -> LayerMaps:
    """A self-organizing map of ``(n, L, d)`` for every second index, with the run's settings."""
    return fit_layers(hidden, seed=seed, **training_settings(settings))


def training_settings(settings: MapConfig) -> dict[str, Any]:
    """The settings that a map is trained with, as ``fit_layers`` takes them."""
    return {name: getattr(settings, name) for name in TRAINING}


def train_map(session: Session, folds: Folds) -> RefusalMap:
    """A self-organizing map of the harmful states, for every state index."""
    harmful, harmless = folds.harmful, folds.harmless
    settings = session.config.map
    maps = fit_map(harmful.hidden, settings, session.config.seed)
    return RefusalMap(
        n_rows=settings.n_rows,
        n_columns=settings.n_columns,
        lattice=settings.lattice,
        toroidal=settings.toroidal,
        rule=settings.rule,
        codebook=maps.codebook,
        hit_counts=maps.hit_counts,
        best_units=maps.best_units,
        quantization_error=maps.quantization_error,
        topographic_error=maps.topographic_error,
        u_matrix=maps.u_matrix,
        harmless_mean=harmless.hidden.mean(dim=0),
        harmful_mean=harmful.hidden.mean(dim=0),
        train_ids=harmful.prompt_ids,
    )


def account(session: Session, progress: Progress) -> list[LayerAccounting]:
    """Residual accounting on a few map prompts of both roles.

    Raises NumericalError, naming layer and prompt, when the model is not finite there: no figure of it would mean much.
    """
    probe = [*session.rendered("harmful", "map")[:PROBE_PROMPTS], *session.rendered("harmless", "map")[:PROBE_PROMPTS]]
    with progress.stage("residual accounting"):
        collect_states(session.handle, session.architecture, session.writers, probe)
        return list(account_residuals(session.handle, session.architecture, session.writers, probe))


def _rows(states: HiddenStates, rows: torch.Tensor) -> HiddenStates:
    """Hidden states of these prompts; a map has no use for writer inputs."""
    return HiddenStates(tuple(states.prompt_ids[i] for i in rows.tolist()), states.hidden[rows], {})
