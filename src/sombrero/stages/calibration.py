"""What the goal ``calibrate`` adds to a run: what the base model refuses falsely, and the keys of both sorts."""

from __future__ import annotations

from collections.abc import Sequence

from sombrero.errors import RunError
from sombrero.evaluation import generate
from sombrero.progress import Progress
from sombrero.records import Baseline, Calibration, HiddenStates, RenderedPrompt, SplitName, Verdict
from sombrero.session import Session
from sombrero.stages.mapping import pad_openings
from sombrero.states import collect_states

MIN_MOVED = 4
"""False refusals among the borderline map prompts that an edit can be fitted to at all."""


def measure_calibration(session: Session, progress: Progress) -> Calibration:
    """Answer borderline and contrast prompts with the untouched model, and begin answers to what must stay refused.

    Raises RunError when the model hardly refuses a borderline prompt: there is nothing to calibrate.
    """
    borderline = session.rendered("borderline", "map")
    with progress.stage("false refusals", len(borderline)) as advance:
        verdicts = _judge(session, borderline)
        advance(len(borderline))
        on_search = [_judge(session, session.rendered(role, "search")) for role in ("borderline", "contrast")]
    moved = tuple(v.prompt_id for v in verdicts if v.label == "refusal")
    n_search = sum(v.label == "refusal" for v in on_search[0])
    if len(moved) < MIN_MOVED or n_search == 0:
        raise RunError(
            f"the base model refuses {len(moved)}/{len(verdicts)} borderline map prompts and {n_search}/"
            f"{len(on_search[0])} search prompts: there is nothing to calibrate. Give borderline prompts that it "
            f"refuses (at least {MIN_MOVED} to fit, 1 to search)"
        )
    length = session.config.states.key_answer_tokens
    openings: list[tuple[int, ...]] = []
    if length > 0:
        prompts = _kept_prompts(session, "map")
        with progress.stage("openings of true refusals", len(prompts)) as advance:
            found = generate(session.handle, prompts, max_new_tokens=length, on_progress=advance)
        openings = pad_openings(found, length)
    return Calibration(on_search[0], on_search[1], moved, tuple(openings))


def collect_moved(
    session: Session, calibration: Calibration, openings: Sequence[tuple[int, ...]], progress: Progress
) -> HiddenStates:
    """States and keys of the borderline map prompts that are refused, continued with openings of harmless answers."""
    ids = set(calibration.moved)
    prompts = [p for p in session.rendered("borderline", "map") if p.prompt.id in ids]
    chosen = [openings[i % len(openings)] for i in range(len(prompts))] if openings else []
    return _collect(session, "false refusals", prompts, chosen, progress)


def collect_kept(session: Session, calibration: Calibration, progress: Progress) -> HiddenStates:
    """States and keys of the harmful and contrast map prompts, continued with the base model's own answers."""
    return _collect(session, "true refusals", _kept_prompts(session, "map"), calibration.openings, progress)


def true_refusals(session: Session, baseline: Baseline, calibration: Calibration) -> tuple[RenderedPrompt, ...]:
    """The harmful and contrast search prompts that the base model refuses: what a trial should not lose."""
    refused = {v.prompt_id for v in (*baseline.verdicts, *calibration.contrast) if v.label == "refusal"}
    return tuple(p for p in _kept_prompts(session, "search") if p.prompt.id in refused)


def _kept_prompts(session: Session, split: SplitName) -> tuple[RenderedPrompt, ...]:
    return (*session.rendered("harmful", split), *session.rendered("contrast", split))


def _judge(session: Session, prompts: Sequence[RenderedPrompt]) -> tuple[Verdict, ...]:
    settings = session.config.evaluation
    responses = generate(
        session.handle,
        prompts,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        settled=session.detector.settled,
    )
    return session.detector.judge_all([rendered.prompt for rendered in prompts], responses)


def _collect(
    session: Session,
    what: str,
    prompts: Sequence[RenderedPrompt],
    openings: Sequence[tuple[int, ...]],
    progress: Progress,
) -> HiddenStates:
    settings = session.config.states
    with progress.stage(f"states of {what}", len(prompts)) as advance:
        return collect_states(
            session.handle,
            session.architecture,
            session.writers,
            prompts,
            batch_tokens=settings.batch_tokens,
            key_positions=settings.key_positions,
            openings=openings,
            on_progress=advance,
        )
