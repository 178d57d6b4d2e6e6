"""What a baked checkpoint says of itself: the facts in its files, and its card."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tomli_w

from sombrero import __version__
from sombrero.checkpoints import (
    INTENDED_USE,
    MEASURED_LIVE,
    NOT_MEASURED,
    CardData,
    CardEffect,
    base_license,
    measured_effects,
    paired_sentence,
    shell_name,
)
from sombrero.config import RunConfig
from sombrero.evaluation import paired_refusals, wilson
from sombrero.records import EMBEDDED, Baseline, EditParameters, Effect, ModelEdit, TrialScore, Verification
from sombrero.run_folder import fingerprint
from sombrero.session import Session
from sombrero.stages.summary import edit_rank, figures

PROMPT_SETS = {
    "refusals": "Harmful prompts",
    "false_refusals": "Borderline-safe prompts",
    "harmless_refusals": "Plain harmless prompts",
    "contrast_refusals": "Short harmful contrasts",
}
"""What the card calls the prompts of each count."""


def provenance(session: Session, effect: Effect, run: Path) -> dict[str, Any]:
    """What was edited, from which base, with which measured effect (of the live edit; the card has the baked one).

    run: the run's folder, whose directions the edit was made from.
    """
    chosen = effect.finalists[0]
    measured = {"base": figures(effect.base), "live": figures(chosen.measurement)}
    return _origin(session) | _method(chosen.parameters, run) | {"measured": measured}


def trial_provenance(session: Session, score: TrialScore, run: Path) -> dict[str, Any]:
    """The same for any trial: its effect is what the search measured, on the search prompts."""
    found: dict[str, Any] = {"refusals": score.refusals, "n": score.n, "first_token_kl": score.kl}
    if score.refusals is not None:
        counted = wilson(score.refusals, score.n)
        found |= {"refusals_low": counted.low, "refusals_high": counted.high}
    if score.n_true:
        found |= {"lost": score.lost, "n_true": score.n_true}
    measured = {"search_prompts": found}
    return _origin(session) | _method(score.parameters, run) | {"measured": measured}


def _method(parameters: EditParameters, run: Path) -> dict[str, Any]:
    """The edit's parameters, and the hash of the file with the directions that they name."""
    file = run / "map" / f"directions-{parameters.directions}.safetensors"
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"parameters": asdict(parameters), "directions_hash": digest}


def _origin(session: Session) -> dict[str, Any]:
    return {
        "sombrero": __version__,
        "base": session.config.model.source,
        "revision": session.config.model.revision,
        "base_hash": session.identity["checkpoint"],
        "prompts_hash": session.identity["prompts"],
        "config_hash": fingerprint(session.config.model_dump(mode="json")),
        "seed": session.config.seed,
        "goal": session.config.search.goal,
        "license": dict(base_license(_base_card_text(session))),
        "intended_use": INTENDED_USE,
        "not_measured": list(NOT_MEASURED),
    }


def _base_card_text(session: Session) -> str:
    path = session.folder / "README.md"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def card_data(session: Session, effect: Effect, edit: ModelEdit, verification: Verification) -> CardData:
    """What the model card says; its figures are those of the reloaded checkpoint."""
    effects = measured_effects(effect.base, verification.measurement)
    card = _card(session, effect.finalists[0].parameters, edit, verification.edited_tensors, effects)
    pairs = paired_refusals(effect.base, verification.measurement)
    return replace(card, pairs=tuple(paired_sentence(PROMPT_SETS[name], pair) for name, pair in pairs.items()))


def trial_card_data(
    session: Session, score: TrialScore, edit: ModelEdit, n_edited: int, baseline: Baseline
) -> CardData:
    """The same for any trial: what the search measured on its prompts, live; the checkpoint was not measured again."""
    lost = wilson(score.lost, score.n_true) if score.n_true and score.lost is not None else None
    counted = None if score.refusals is None else wilson(score.refusals, score.n)
    refusals = CardEffect("Refusals on harmful prompts", baseline.refusals, counted)
    if score.n_true:
        refusals = CardEffect("False refusals on borderline-safe prompts", None, counted)
    effects = (
        refusals,
        *((CardEffect("True refusals lost", None, lost),) if lost else ()),
        CardEffect("KL(base, edited), first token", None, score.kl, "nats"),
    )
    missing = ("this checkpoint after it was written", *NOT_MEASURED)
    card = _card(session, score.parameters, edit, n_edited, effects)
    return replace(card, measured_how=MEASURED_LIVE, not_measured=missing)


def settings_toml(config: RunConfig) -> str:
    """The settings that differ from the defaults, as the TOML that ``--config`` reads; without the model's name."""
    settings = config.model_dump(mode="json", exclude_defaults=True, exclude_none=True, exclude={"model": {"source"}})
    return tomli_w.dumps({section: values for section, values in settings.items() if values != {}})


def _card(
    session: Session, parameters: EditParameters, edit: ModelEdit, n_edited: int, effects: tuple[CardEffect, ...]
) -> CardData:
    source = session.config.model.source
    base = EMBEDDED.get(source, source)
    counts = {
        f"{role} ({split})": f"{getattr(session.config.prompts, role)}, {len(prompts)} prompts"
        for (role, split), prompts in session.prompts.items()
    }
    return CardData(
        name=f"{base.rstrip('/').rsplit('/', 1)[-1]}, edited with Sombrero",
        base=source,
        base_revision=session.config.model.revision,
        parameters=parameters,
        rank=edit_rank(edit),
        n_edited=n_edited,
        effects=effects,
        command=f"sombrero run {shell_name(source)} --config settings.toml",
        seed=session.config.seed,
        config=settings_toml(session.config),
        prompts=counts,
        versions={"sombrero": __version__},
    )
