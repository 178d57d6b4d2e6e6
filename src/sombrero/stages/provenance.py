"""What a baked checkpoint says of itself: the facts in its files, and its card."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sombrero import __version__
from sombrero.checkpoints import CardData, measured_effects
from sombrero.records import Effect, ModelEdit, Verification
from sombrero.run_folder import fingerprint
from sombrero.search import TrialScore
from sombrero.session import Session
from sombrero.stages.summary import edit_rank, figures


def provenance(session: Session, effect: Effect) -> dict[str, Any]:
    """What was edited, from which base, with which measured effect (of the live edit; the card has the baked one)."""
    chosen = effect.finalists[0]
    measured = {"base": figures(effect.base), "live": figures(chosen.measurement)}
    return _origin(session) | {"parameters": asdict(chosen.parameters), "measured": measured}


def trial_provenance(session: Session, score: TrialScore) -> dict[str, Any]:
    """The same for any trial: its effect is what the search measured, on the search prompts."""
    measured = {"search_prompts": {"refusals": score.refusals, "n": score.n, "first_token_kl": score.kl}}
    return _origin(session) | {"parameters": asdict(score.parameters), "measured": measured}


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
    }


def card_data(session: Session, effect: Effect, edit: ModelEdit, verification: Verification) -> CardData:
    """What the model card says; its figures are those of the reloaded checkpoint."""
    source = session.config.model.source
    base = "SmolLM2-135M-Instruct with Sombrero's refusal adapter" if source == "embedded" else source
    counts = {
        f"{role} ({split})": f"{getattr(session.config.prompts, role)}, {len(prompts)} prompts"
        for (role, split), prompts in session.prompts.items()
    }
    return CardData(
        name=f"{base.rstrip('/').rsplit('/', 1)[-1]}, edited with Sombrero",
        base=source,
        base_revision=session.config.model.revision,
        parameters=effect.finalists[0].parameters,
        rank=edit_rank(edit),
        n_edited=verification.edited_tensors,
        effects=measured_effects(effect.base, verification.measurement),
        command=f"sombrero run {source} --seed {session.config.seed}",
        seed=session.config.seed,
        prompts=counts,
        versions={"sombrero": __version__},
    )
