"""From a measured edit to a proved checkpoint: bake, reload, measure again, describe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sombrero.checkpoints import (
    RECORD_NAME,
    AdapterReport,
    BakeReport,
    CheckpointIndex,
    Packing,
    TensorVerification,
    bake,
    export_adapter,
    hub_id,
    verify_tensors,
    verify_untouched,
)
from sombrero.checkpoints.gguf import GgufReport, bake_gguf
from sombrero.edits import live_edit
from sombrero.errors import CheckpointError
from sombrero.evaluation import first_token_log_probs
from sombrero.models import load_model
from sombrero.progress import Progress
from sombrero.records import Effect, Measurement, ModelEdit, Verdict, Verification
from sombrero.session import Session
from sombrero.stages.searching import measure_subject, report_sets, subject

FLIP_SHARE = 0.02
KL_SHARE, KL_FLOOR = 0.15, 0.01
LOG_PROB_FLOOR = math.log(1e-3)
"""Log-probs are compared where the live edit gives a token at least this much: less likely ones decide nothing."""


def bake_edit(
    session: Session,
    edit: ModelEdit,
    out: Path,
    provenance: Mapping[str, Any],
    progress: Progress,
    *,
    packing: Packing | None = None,
    accept_error: bool = False,
) -> BakeReport:
    """Write the edited checkpoint to ``out``, replacing an earlier bake there, but no checkpoint of somebody else's."""
    total = sum(entry.n_bytes for entry in CheckpointIndex.read(session.folder).tensors.values())
    with progress.stage("bake", total) as advance:
        done = 0

        def on_progress(now: int, _: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        return bake(
            session.folder,
            edit,
            session.writers,
            out,
            provenance=provenance,
            on_progress=on_progress,
            overwrite=(out / RECORD_NAME).is_file(),
            packing=packing,
            accept_error=accept_error,
        )


def export_edit(
    session: Session, edit: ModelEdit, out: Path, provenance: Mapping[str, Any], progress: Progress
) -> AdapterReport:
    """Write the edit as a LoRA adapter to ``out``, replacing an earlier one there."""
    source = session.config.model.source
    with progress.stage("export"):
        return export_adapter(
            edit,
            session.writers,
            out,
            base=hub_id(source) or Path(source).name,  # a folder of this machine tells others nothing
            revision=session.config.model.revision,
            provenance=provenance,
            overwrite=True,
        )


def bake_into_gguf(
    session: Session,
    edit: ModelEdit,
    source: Path,
    out: Path,
    provenance: Mapping[str, Any],
    progress: Progress,
    *,
    accept_error: bool,
) -> GgufReport:
    """Fold the edit into a GGUF file of the same model, replacing an earlier bake of ours in ``out``."""
    with progress.stage("bake GGUF"):
        return bake_gguf(
            source, edit, session.writers, out, provenance=provenance, accept_error=accept_error, overwrite=True
        )


def prove_tensors(session: Session, edit: ModelEdit, baked: BakeReport, progress: Progress) -> TensorVerification:
    """Compute a sample of the edited rows again, and compare all other tensors. Raises CheckpointError."""
    carried = [str(item["weight"]) for item in baked.packed if item["stored"] == "carry"]
    with progress.stage("verify tensors"):
        return verify_tensors(
            session.folder, baked.out, edit, session.writers, carried=carried, seed=session.config.seed
        )


def verify_bake(
    session: Session, edit: ModelEdit, effect: Effect, baked: BakeReport, progress: Progress
) -> Verification:
    """Reload the checkpoint, measure it on the reporting prompts, and compare it with the live edit.

    Raises CheckpointError when an untouched tensor changed, or the measured effect is not the live edit's.
    """
    compared = verify_untouched(session.folder, baked.out, baked.edited, gone=baked.gone, come=baked.come)
    live = effect.finalists[0].measurement
    sets = report_sets(session, effect.continuations)
    prompts = (*sets.harmful, *sets.harmless)
    batch_tokens = session.config.states.batch_tokens
    with live_edit(session.handle, session.writers, edit):
        unrounded = first_token_log_probs(session.handle, prompts, batch_tokens=batch_tokens)
    with live_edit(session.handle, session.writers, edit, rounded=True):
        expected = first_token_log_probs(session.handle, prompts, batch_tokens=batch_tokens)
    handle = load_model(session.config.model.model_copy(update={"source": str(baked.out), "revision": None}))
    found = first_token_log_probs(handle, prompts, batch_tokens=batch_tokens)
    with progress.stage("measure baked", sets.count) as advance:
        measurement, _ = measure_subject(session, subject(handle), subject(session.handle), sets, advance)
    difference = (found - expected).abs()[expected > LOG_PROB_FLOOR]
    rounding = (found - unrounded).abs()[unrounded > LOG_PROB_FLOOR]
    verification = Verification(
        measurement=measurement,
        flips=refusal_flips(live.verdicts, measurement.verdicts),
        max_log_prob_difference=float(difference.max()),
        mean_log_prob_difference=float(difference.mean()),
        max_rounding_difference=float(rounding.max()),
        mean_rounding_difference=float(rounding.mean()),
        edited_tensors=len(baked.edited),
        untouched_tensors=len(compared.untouched),
    )
    require_same_effect(live, verification)
    return verification


def refusal_flips(first: tuple[Verdict, ...], second: tuple[Verdict, ...]) -> tuple[str, ...]:
    """Prompts that one model refused and the other did not, of those that there is a verdict on for both."""
    pairs = zip(first, second, strict=True)
    return tuple(
        a.prompt_id
        for a, b in pairs
        if "unknown" not in (a.label, b.label) and (a.label == "refusal") != (b.label == "refusal")
    )


def require_same_effect(live: Measurement, verification: Verification) -> None:
    """Raise CheckpointError when the baked checkpoint does not do what the live edit did."""
    baked = verification.measurement
    allowed = max(1, round(FLIP_SHARE * baked.refusals.n))
    if len(verification.flips) > allowed:
        raise CheckpointError(
            f"the baked checkpoint decides {len(verification.flips)} of {baked.refusals.n} reporting prompts otherwise "
            f"than the live edit (allowed {allowed}): {', '.join(verification.flips[:5])}. Its dtype may be too coarse "
            "for the edit: bake from a float32 or bfloat16 checkpoint"
        )
    if live.kl is None or baked.kl is None:
        return
    difference = abs(baked.kl.first_token - live.kl.first_token)
    if difference > max(KL_FLOOR, KL_SHARE * live.kl.first_token):
        raise CheckpointError(
            f"the baked checkpoint has first-token KL {baked.kl.first_token:.4f}, the live edit "
            f"{live.kl.first_token:.4f}; they should agree. Its dtype may be too coarse for the edit: bake from a "
            "float32 or bfloat16 checkpoint"
        )
