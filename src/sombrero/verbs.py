"""The verbs of the command line as Python functions of the same names.

``judge_key``: the API key of the detector ``judge``, where its endpoint wants one; it is written nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sombrero.config import ModelConfig, RunConfig
from sombrero.errors import RunError, UsageError
from sombrero.progress import Noted, Progress, Silent
from sombrero.run_folder import RunFolder, guard_disk, is_run, read_config, write_json

if TYPE_CHECKING:
    from sombrero.pipeline import Pipeline
    from sombrero.records import ModelHandle, TrialScore

RUNS = Path("runs")
MEASUREMENT = "measurement.json"
MEBIBYTE = 2**20


def run(
    config: RunConfig,
    out: Path | None = None,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
    judge_key: str | None = None,
) -> dict[str, Any]:
    """Map, search, bake, measure, report: everything, resumable. Returns the summary that ``summary.json`` holds."""
    with _pipeline(config, out, fresh, progress, judge_key) as pipeline:
        return pipeline.run() | {"run": str(pipeline.folder.path)}


def map(
    config: RunConfig,
    out: Path | None = None,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
    judge_key: str | None = None,
) -> dict[str, Any]:
    """Map the model's refusal: states, map, directions, controls. Returns the figures of the map at its best state."""
    from sombrero.stages.map_figures import map_figures

    with _pipeline(config, out, fresh, progress, judge_key) as pipeline:
        pipeline.check_identity()
        mapped = pipeline.map()
        pipeline.show()
        return {"run": str(pipeline.folder.path)} | map_figures(
            mapped.baseline,
            mapped.refusal_map,
            mapped.directions["som"],
            mapped.choice,
            mapped.controls,
            mapped.quality,
            mapped.units,
            mapped.accounting,
        )


def search(
    config: RunConfig,
    out: Path | None = None,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
    judge_key: str | None = None,
) -> dict[str, Any]:
    """Map and search. Returns the front, best first."""
    from sombrero.search import rank_finalists
    from sombrero.stages.reaching import constraints

    with _pipeline(config, out, fresh, progress, judge_key) as pipeline:
        pipeline.check_identity()
        scores = pipeline.search(pipeline.map())
        pipeline.show()
        front = [asdict(score) for score in rank_finalists(scores, constraints(config.search))]
        return {"run": str(pipeline.folder.path), "trials": len(scores), "front": front}


def bake(
    run_path: Path,
    out: Path | None = None,
    *,
    trial: int | None = None,
    adapter: bool = False,
    gguf: Path | None = None,
    packed: Literal["nearest", "carry", "beside"] | None = None,
    accept_requantization_error: bool = False,
    verify: Literal["tensors"] | None = None,
    push: str | None = None,
    progress: Progress | None = None,
    judge_key: str | None = None,
) -> dict[str, Any]:
    """Bake the picked trial of a run, or any other one by number, into ``out`` (default: inside the run folder).

    adapter: write a LoRA adapter instead of merged weights. gguf: fold the edit into this GGUF file of the same model.
    packed: how edited weights of a quantized checkpoint are stored, rounded to the ``nearest`` numbers of their format,
    with the edit ``carry``-ed over into them, or in bfloat16 ``beside`` the quantized rest; by default beside it where
    the loader permits that, else nearest. Either stops where rounding leaves too little of the edit, unless
    accept_requantization_error. verify: ``tensors`` computes a sample of the edited rows again and compares all other
    tensors with the base. push: a repository of the hub that the result is sent to; called again, the upload goes on.
    """
    from sombrero import checkpoints
    from sombrero.checkpoints import write_card
    from sombrero.stages.baking import bake_edit, bake_into_gguf, export_edit, prove_tensors
    from sombrero.stages.provenance import trial_card_data, trial_provenance
    from sombrero.stages.summary import describe_edit

    if push is not None:
        checkpoints.check_repository(push)  # before minutes are spent
    if packed is not None and (adapter or gguf is not None):
        raise UsageError("packed is of merged safetensors, not of an adapter or a GGUF file; leave one of them out")
    if adapter + (gguf is not None) + (verify is not None) > 1:
        raise UsageError("adapter, gguf and verify cannot be combined (verify is of merged safetensors); give one")
    config = read_config(run_path)
    with _pipeline(config, run_path, False, progress, judge_key) as pipeline:
        pipeline.check_identity()
        mapped = pipeline.map()
        scores = pipeline.search(mapped)
        score = _picked(pipeline, scores, trial)
        number = score.number
        edit = pipeline.planner.build(score.parameters)
        kind = "adapter" if adapter else "model" if gguf is None else "gguf"
        folder = out or run_path / f"{kind}-trial-{number}"
        session, shown = pipeline.session, progress or Silent()
        facts = trial_provenance(session, score, run_path)
        found: dict[str, Any] = {"trial": number, "edit": describe_edit(score.parameters, edit)}
        if adapter:
            exported = export_edit(session, edit, folder, facts, shown)
            card = trial_card_data(session, score, edit, len(exported.modules), mapped.baseline)
            write_card(folder, replace(card, adapter=True), base_card=session.folder / "README.md")
            found |= {"adapter": str(exported.out), "rank": exported.rank, "modules": len(exported.modules)}
            return found if push is None else found | {"pushed": checkpoints.push(folder, push)}
        if gguf is not None:
            stored = bake_into_gguf(session, edit, gguf, folder, facts, shown, accept_error=accept_requantization_error)
            card = trial_card_data(session, score, edit, len(stored.edited), mapped.baseline)
            write_card(folder, card, base_card=session.folder / "README.md")
            retyped = {name: list(kinds) for name, kinds in stored.retyped.items()}
            found |= {"gguf": str(stored.out), "survived": stored.survived, "retyped": retyped}
            return found if push is None else found | {"pushed": checkpoints.push(folder, push)}
        report = bake_edit(
            session, edit, folder, facts, shown, packing=packed, accept_error=accept_requantization_error
        )
        card = trial_card_data(session, score, edit, len(report.edited), mapped.baseline)
        write_card(folder, replace(card, packed=report.packed))
        proof = asdict(prove_tensors(session, edit, report, shown)) if verify == "tensors" else None
        found |= {"model": str(report.out)} | ({"verified": proof} if proof else {})
        if report.packed:
            ways = {item["weight"]: f"{item['stored']}, {item['format']}" for item in report.packed}
            found |= {"survived": report.survived, "packed": ways}
        return found if push is None else found | {"pushed": checkpoints.push(folder, push)}


@contextmanager
def edit(
    run_path: Path, *, trial: int | None = None, progress: Progress | None = None, judge_key: str | None = None
) -> Iterator[ModelHandle]:
    """The model of a run, behaving as edited by its picked trial, or any other one, for as long as the context lasts.

    The edit is a set of hooks; no weight is touched. The folder is free again once the edit is made. Raises RunError
    where there is no run, UsageError for a trial that it does not have.
    """
    from sombrero.edits import live_edit

    with _pipeline(read_config(run_path), run_path, False, progress, judge_key) as pipeline:
        pipeline.check_identity()
        scores = pipeline.search(pipeline.map())
        if trial is None:
            found = pipeline.chosen_edit(pipeline.measure(scores))
        else:
            found = pipeline.planner.build(_picked(pipeline, scores, trial).parameters)
        session = pipeline.session
    with live_edit(session.handle, session.writers, found) as handle:
        yield handle


def verify(folder: Path) -> dict[str, Any]:
    """Compute the hash of every file of a baked folder or an adapter again. Raises CheckpointError on a difference."""
    from sombrero.checkpoints import verify_folder

    report = verify_folder(folder)
    return {
        "folder": str(folder),
        "verified": len(report.files),
        "bytes": report.n_bytes,
        "unrecorded": list(report.unrecorded),
    }


def diff(base: Path, edited: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """What differs between two checkpoint folders, tensor by tensor, and what kind of edit it looks like."""
    from sombrero.checkpoints import CheckpointIndex, diff_checkpoints

    with (progress or Silent()).stage("diff", len(CheckpointIndex.read(edited).tensors)) as advance:
        found = asdict(diff_checkpoints(base, edited, on_progress=lambda _done, _total: advance(1)))
    return {"base": str(base), "edited": str(edited)} | found | {"same": len(found["same"])}


def measure(
    config: RunConfig,
    *,
    against: str | None = None,
    tasks: Sequence[str] = (),
    task_path: Path | None = None,
    task_limit: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
    judge_key: str | None = None,
) -> dict[str, Any]:
    """Measure any model on every prompt of its sources; with ``against`` also that base, divergence and paired tests.

    Of a source that has splits, the starter sets among them, on the ``report`` split.

    The first detector gives the verdicts; with others, how far they agree on the same responses is measured too.
    ``tasks`` are those of lm-evaluation-harness (extra ``lm-eval``), ``task_path`` a folder with files of one's own.
    Returns what ``measurement.json`` holds (docs/formats.md); ``out`` gets that file and ``measurement.html``.
    """
    from sombrero.evaluation import find_detector
    from sombrero.reports import write_measurement
    from sombrero.session import Session
    from sombrero.stages.measuring import TaskRequest, measure_model

    for name in config.evaluation.detectors:  # before minutes are spent
        find_detector(name)
    if out is not None and is_run(out):
        raise UsageError(f"{out} is the folder of a run, which has its own report; choose another --out")
    shown = progress or Silent()
    base = None if against is None else Session(_with_source(config, against), measures_only=True, progress=shown)
    request = TaskRequest(tuple(tasks), task_path, task_limit)
    session = Session(config, judge_key=judge_key, measures_only=True, progress=shown)
    found = measure_model(session, base, request, shown)
    if out is not None:
        with guard_disk(out):
            write_json(out / MEASUREMENT, found)
            write_measurement(out, found)
    return found


def compare(
    config: RunConfig,
    out: Path | None = None,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
    judge_key: str | None = None,
) -> dict[str, Any]:
    """Search with the same budget along the map's directions and along each control's, over several seeds.

    Returns what ``compare.json`` holds (docs/formats.md). Rule ``guarded``, unless ``search.rules`` says otherwise.
    """
    from pydantic import TypeAdapter

    from sombrero.comparison import ComparisonPipeline
    from sombrero.records import Comparison
    from sombrero.stages.comparing import comparable

    folder = out or RUNS / f"compare-{default_out(config.model.source).name}"
    with _pipeline(comparable(config), folder, fresh, progress, judge_key) as pipeline:
        found: dict[str, Any] = TypeAdapter(Comparison).dump_python(ComparisonPipeline(pipeline).run(), mode="json")
        return {"run": str(folder)} | found


def report(run_path: Path) -> Path:
    """Write ``report.html`` and ``figures/`` of a run again, also of one that is still going; and of a comparison."""
    from sombrero.reports import write_comparison, write_figures, write_report

    if not is_run(run_path):
        raise RunError(f"there is no run in {run_path}; give the folder that 'sombrero run' wrote")
    write_figures(run_path)
    if (run_path / "compare.json").is_file():
        write_comparison(run_path)
    return write_report(run_path)


def inspect(config: ModelConfig, *, propose: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """What is known of a model from its configuration alone: family, writers, memory for each verb, what is left out.

    ``propose`` traces the writers of a class instead, described or not, and returns an architecture entry to confirm.
    """
    if propose:
        from sombrero.stages.proposing import propose as propose_entry

        return propose_entry(config, progress or Silent())
    from sombrero.stages.inspecting import inspect_model

    return inspect_model(config, progress or Silent())


def default_out(source: str) -> Path:
    """``runs/NAME`` for a model id or folder."""
    name = source.rstrip("/").rsplit("/", 1)[-1]
    return RUNS / ("".join(c if c.isalnum() or c in "-._" else "-" for c in name).lstrip(".") or "run")


@contextmanager
def _pipeline(
    config: RunConfig, out: Path | None, fresh: bool, progress: Progress | None, judge_key: str | None
) -> Iterator[Pipeline]:
    if config.evaluation.other_detectors:
        raise UsageError(
            f"a run has one detector, and there are {len(config.evaluation.detectors)}: "
            f"{', '.join(config.evaluation.detectors)}; give one, and compare detectors with 'sombrero measure'"
        )
    with RunFolder.open(out or default_out(config.model.source), config, fresh=fresh) as folder:
        shown = Noted(progress or Silent(), folder.path)
        shown.say(f"{config.model.source} in {folder.path}; a live page of it: sombrero watch {folder.path}")
        with shown.stage("load the libraries"):  # after the folder is known to be usable: torch takes seconds to import
            from sombrero.pipeline import Pipeline

        yield Pipeline(config, folder, shown, judge_key=judge_key)


def _picked(pipeline: Pipeline, scores: Sequence[TrialScore], trial: int | None) -> TrialScore:
    """The trial with this number; None: the one that the run chose. Raises UsageError for one that is not there."""
    number = pipeline.measure(tuple(scores)).chosen if trial is None else trial
    if number not in range(len(scores)):
        raise UsageError(f"there is no trial {number} in {pipeline.folder.path}; it has 0 to {len(scores) - 1}")
    return scores[number]


def _with_source(config: RunConfig, source: str) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"source": source, "revision": None})})
