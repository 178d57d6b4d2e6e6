"""``measurement.json``: any model measured alone, or beside the base that it came from (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sombrero import __version__
from sombrero.errors import ArchitectureError, UsageError
from sombrero.evaluation import EvaluationSets, run_tasks
from sombrero.models.batches import require_room
from sombrero.progress import Progress
from sombrero.records import Measurement, ModelHandle, Response, TaskResult
from sombrero.run_folder import library_versions
from sombrero.session import Session
from sombrero.stages.agreeing import summarize_agreement
from sombrero.stages.searching import measure_subject, report_sets, subject
from sombrero.stages.summary import figures, paired

FORMAT = 1


@dataclass(frozen=True)
class TaskRequest:
    """Tasks of lm-evaluation-harness: their names, a folder with task files of one's own, samples of each at most."""

    names: tuple[str, ...] = ()
    folder: Path | None = None
    limit: int | None = None


def measure_model(session: Session, base: Session | None, tasks: TaskRequest, progress: Progress) -> dict[str, Any]:
    """Measure the session's model on its ``report`` prompts, and with ``base`` that model too, on the same tokens.

    Deterministic, and without timings: the same model on the same machine gives the same document. Raises UsageError
    when the two models do not share a vocabulary or a task cannot be run, PromptError for a prompt that does not fit
    into a context; both before anything is generated.
    """
    asking = session if base is None else base
    if base is not None:
        require_same_vocabulary(base.handle, session.handle)
    sets = report_sets(asking)
    for one in filter(None, (session, base)):
        _require_room(one, sets)
    results = _run_tasks(session, base, tasks, progress)  # first: a task that is not there must not cost a measurement
    target, own, responses, base_responses = _measure_both(session, base, sets, progress)
    found = figures(target, own)
    return {
        "format": FORMAT,
        "model": session.config.model.source,
        "against": None if base is None else base.config.model.source,
        "notes": _notes(session, base),
        **(found if base is not None else found | {"kl": None}),
        "base": None if own is None else figures(own) | {"kl": None},
        "paired": None if own is None else paired(own, target),
        "agreement": _agreement(session, base, sets, (target, responses), (own, base_responses)),
        "tasks": results,
        "settings": _settings(asking, sets, tasks),
        "checkpoints": {"model": _checkpoint(session), "against": None if base is None else _checkpoint(base)},
        "versions": {"sombrero": __version__} | library_versions(),
        "verdicts": _verdicts(target, own, sets),
        "samples": _samples(responses, base_responses, sets, session.config.evaluation.samples),
    }


def require_same_vocabulary(base: ModelHandle, other: ModelHandle) -> None:
    """Raise UsageError unless both models read and write the same tokens: no divergence is defined otherwise."""
    ours, theirs = other.tokenizer.get_vocab(), base.tokenizer.get_vocab()
    if ours != theirs:
        moved = sum(theirs.get(token) != number for token, number in ours.items())
        raise UsageError(
            f"{other.source!r} has another tokenizer than {base.source!r} ({len(ours)} and {len(theirs)} tokens, "
            f"{moved} of them not the same), so the two cannot be compared token by token; give the base that the "
            "model was made from, or leave --against out"
        )
    sizes = [handle.model.get_output_embeddings().weight.shape[0] for handle in (other, base)]
    if sizes[0] != sizes[1]:
        raise UsageError(
            f"{other.source!r} predicts {sizes[0]} tokens and {base.source!r} {sizes[1]}, so the two cannot be "
            "compared over the full vocabulary; give checkpoints whose embeddings are padded alike, or leave "
            "--against out"
        )


def _require_room(session: Session, sets: EvaluationSets) -> None:
    settings = session.config.evaluation
    prompts = (*sets.harmful, *sets.contrast, *sets.harmless, *sets.borderline)
    require_room(session.handle, prompts, max(settings.max_new_tokens, settings.sequence_tokens))


def _measure_both(
    session: Session, base: Session | None, sets: EvaluationSets, progress: Progress
) -> tuple[Measurement, Measurement | None, Mapping[str, Response], Mapping[str, Response]]:
    target = subject(session.handle)
    if base is None:
        with progress.stage(f"measure {session.config.model.source}", sets.count) as advance:
            measurement, responses = measure_subject(session, target, target, sets, advance)
        return measurement, None, responses, {}
    untouched = subject(base.handle)
    with progress.stage(f"measure base {base.config.model.source}", sets.count) as advance:
        own, base_responses = measure_subject(session, untouched, untouched, sets, advance)
    # the base model's own answers, not generated twice
    length = session.config.evaluation.sequence_tokens
    begun = tuple(base_responses[p.prompt.id].token_ids[:length] for p in sets.harmless)
    with progress.stage(f"measure {session.config.model.source}", sets.count) as advance:
        measurement, responses = measure_subject(
            session, target, untouched, replace(sets, continuations=begun), advance
        )
    return measurement, own, responses, base_responses


def _run_tasks(
    session: Session, base: Session | None, tasks: TaskRequest, progress: Progress
) -> dict[str, list[dict[str, Any]] | None] | None:
    if not tasks.names:
        return None

    def run(one: Session) -> list[dict[str, Any]]:
        with progress.stage(f"tasks of {one.config.model.source}"):
            found: Sequence[TaskResult] = run_tasks(
                subject(one.handle),
                tasks.names,
                folder=tasks.folder,
                limit=tasks.limit,
                batch_size=one.config.evaluation.batch_size,
                seed=one.config.seed,
            )
        return [asdict(result) for result in found]

    return {"model": run(session), "against": None if base is None else run(base)}


def _agreement(
    session: Session,
    base: Session | None,
    sets: EvaluationSets,
    target: tuple[Measurement, Mapping[str, Response]],
    own: tuple[Measurement | None, Mapping[str, Response]],
) -> dict[str, list[dict[str, Any]] | None] | None:
    """Of the detectors on either model's responses; None with one detector."""
    name = session.detector.name
    found = summarize_agreement(name, target[0], sets, target[1])
    if found is None:
        return None
    measurement, responses = own
    against = None if measurement is None else summarize_agreement(name, measurement, sets, responses)
    return {"model": found, "against": against}


def _notes(session: Session, base: Session | None) -> list[str]:
    """What a reader must know of how the models were asked."""
    asking = session if base is None else base
    notes = []
    if asking.system_role == "prepended":
        notes.append(
            "The chat template has no system role, or rejects it: the system prompt stands in front of each request."
        )
    if base is not None and session.handle.tokenizer.chat_template != base.handle.tokenizer.chat_template:
        notes.append("The chat templates of the two models differ: both were asked with that of the base model.")
    try:
        _ = asking.architecture
    except ArchitectureError:
        notes.append("The architecture is not described, so a reasoning block that the template opens stays open.")
    return notes


def _settings(asking: Session, sets: EvaluationSets, tasks: TaskRequest) -> dict[str, Any]:
    evaluation = asking.config.evaluation
    counts = {name: len(getattr(sets, name)) for name in ("harmful", "borderline", "harmless", "contrast")}
    return {
        "detector": asking.detector.name,
        "other_detectors": [other.name for other in asking.other_detectors],
        "max_new_tokens": evaluation.max_new_tokens,
        "sequence_tokens": evaluation.sequence_tokens,
        "batch_size": evaluation.batch_size,
        "system_role": asking.system_role,
        "prompts": {name: count for name, count in counts.items() if count},
        "prompts_hash": asking.identity["prompts"],
        "seed": asking.config.seed,
        **({"task_limit": tasks.limit} if tasks.names else {}),
    }


def _checkpoint(session: Session) -> dict[str, Any]:
    handle = session.handle
    return {
        "class": type(handle.model).__name__,
        "revision": handle.revision,
        "hash": session.identity["checkpoint"],
        "dtype": str(handle.model.dtype).removeprefix("torch."),
        "device": handle.device.type,
    }


def _verdicts(target: Measurement, own: Measurement | None, sets: EvaluationSets) -> list[dict[str, Any]]:
    """Prompt by prompt, so that others can count and pair again; no text of an answer."""
    roles = [name for name in ("harmful", "contrast", "borderline", "harmless") for _ in getattr(sets, name)]
    every = (*target.verdicts, *target.safe_verdicts)
    base = [None] * len(every) if own is None else [v.label for v in (*own.verdicts, *own.safe_verdicts)]
    return [
        {"id": verdict.prompt_id, "set": role, "label": verdict.label, "base": label, "tokens": verdict.n_tokens}
        for role, verdict, label in zip(roles, every, base, strict=True)
    ]


def _samples(
    responses: Mapping[str, Response], base: Mapping[str, Response], sets: EvaluationSets, n: int
) -> list[dict[str, Any]]:
    """The first ``n`` harmless and borderline prompts with the answers to them; never a harmful one."""
    return [
        {
            "id": prompt.prompt.id,
            "kind": kind,
            "prompt": prompt.prompt.text,
            "base": base[prompt.prompt.id].text if base else None,
            "answer": responses[prompt.prompt.id].text,
        }
        for kind, prompts in (("harmless", sets.harmless), ("borderline", sets.borderline))
        for prompt in prompts[:n]
    ]
