"""Write an edited copy of a checkpoint as a stream: memory holds slices of tensors, never the model."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sombrero.checkpoints.building import Job, build
from sombrero.checkpoints.companions import RECORD_NAME, Companion, find_companions
from sombrero.checkpoints.foresight import foresee_survival
from sombrero.checkpoints.formats import leave_out
from sombrero.checkpoints.index import CheckpointIndex, resolve_inside
from sombrero.checkpoints.layout import lay_out, new_index
from sombrero.checkpoints.packed import Packing
from sombrero.checkpoints.plan import Plan, digest_edit, plan_edits
from sombrero.checkpoints.record import BakeReport, check_files, identity, read_record
from sombrero.checkpoints.rewrite import hash_replaced
from sombrero.checkpoints.staging import remove_abandoned, restore_replaced
from sombrero.checkpoints.transfer import hash_file
from sombrero.checkpoints.verify import verify_untouched
from sombrero.errors import CheckpointError
from sombrero.records import ModelEdit, Writer


def bake(
    source: Path,
    edit: ModelEdit,
    writers: Sequence[Writer],
    out: Path,
    *,
    provenance: Mapping[str, object],
    on_progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
    packing: Packing | None = None,
    accept_error: bool = False,
) -> BakeReport:
    """Write the checkpoint ``source`` with ``edit`` folded into its weights to the folder ``out``.

    Tensors that are not edited are copied bit for bit; files, tensor order, dtypes and shapes stay, except of packed
    weights that are kept in bfloat16 beside the quantized rest. packing: how edited packed weights are stored, see
    :mod:`~sombrero.checkpoints.packed`; by default in bfloat16 where the loader permits it, else in their own format,
    rounded to nearest. accept_error: whether less than half of the edit may be left after that. ``provenance``
    (plain JSON) goes into the header of every weight file and into ``sombrero.json``. on_progress gets data bytes done
    and in all. ``out`` appears in one rename when everything is on disk. A bake that was killed, or ran out of disk,
    leaves its finished weight files in ``<out>.partial``; the same bake called again checks them by hash and goes on
    from there, another bake to ``out`` removes them. A complete bake asked for again is checked and returned.

    Raises CheckpointError when the source, the edit and the writers do not fit, ``out`` is taken (``overwrite``
    replaces another checkpoint), too little of the edit is left after rounding, or the disk is full;
    NumericalError when an edited tensor is not finite.
    """
    started = time.monotonic()
    index = CheckpointIndex.read(source)
    config = _read_config(index.folder)
    plan = plan_edits(index, edit, writers, packing, config)
    companions, left_out = find_companions(index)
    job = Job(
        index,
        plan,
        {file.name: lay_out(file, plan.packed.values()) for file in index.files},
        _with_modules_left_out(companions, plan, config),
        left_out,
        provenance,
        identity(provenance, digest_edit(edit) + "".join(f" {n} {c.how}" for n, c in plan.packed.items())),
        _absolute(out),
        new_index(index, plan.packed.values()),
        accept_error,
    )
    restore_replaced(job.out)
    report = None if _is_free(job, overwrite) else _reuse(job, overwrite)
    if report is None:
        if not accept_error:
            foresee_survival(index, plan.packed)
        record = build(job, on_progress or (lambda done, total: None), overwrite)
        report = _report(job, record, reused=False)
    else:
        remove_abandoned(job.out)
    return replace(report, seconds=time.monotonic() - started)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        return {}
    try:
        config = json.loads(resolve_inside(folder, path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}; fetch it again") from error
    return config if isinstance(config, dict) else {}


def _with_modules_left_out(
    companions: tuple[Companion, ...], plan: Plan, config: Mapping[str, Any]
) -> tuple[Companion, ...]:
    """The companions, config.json naming the modules that are not quantized any more."""
    modules = [change.module for change in plan.packed.values() if change.module is not None]
    if not modules:
        return companions
    content = (json.dumps(leave_out(config, modules), indent=2) + "\n").encode()
    return tuple(
        replace(item, content=content, n_bytes=len(content)) if item.target == "config.json" else item
        for item in companions
    )


def _absolute(out: Path) -> Path:
    try:
        return out.resolve()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot follow {out}: {error}; give another output folder") from error


def _is_free(job: Job, overwrite: bool) -> bool:
    """True when ``out`` is absent or empty; CheckpointError when it can be neither reused nor replaced."""
    out, source = job.out, job.index.folder
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise CheckpointError(f"the output {out} and the source {source} lie in each other; give another output folder")
    if not out.exists():
        return True
    if not out.is_dir():
        raise CheckpointError(f"the output {out} is a file; give a folder")
    if not any(out.iterdir()):
        return True
    if overwrite and not any((out / name).exists() for name in (RECORD_NAME, "config.json")):
        raise CheckpointError(
            f"the output {out} holds files, but no checkpoint, and is not overwritten; empty it or give another folder"
        )
    return False


def _reuse(job: Job, overwrite: bool) -> BakeReport | None:
    """The report of the complete bake that ``out`` holds, when it is this one; None when it is to be replaced."""
    try:
        record = read_record(job.out)
        if record["identity"] != job.identity:
            raise CheckpointError(f"{job.out} holds another bake")
        check_files(job.out, record["files"])
        for item in job.companions:
            content = item.content
            found = hash_file(item.source) if content is None else hashlib.sha256(content).hexdigest()
            if found != record["files"].get(item.target, {}).get("sha256"):
                raise _other_base(job, item.target)
        for file in job.index.files:
            replaced = hash_replaced(job.index.path(file.name), file, job.plan.rewritten)
            if record["source"].get(file.name) != {"bytes": file.size, "replaced_sha256": replaced}:
                raise _other_base(job, file.name)
        report = _report(job, record, reused=True)
        verify_untouched(job.index.folder, job.out, report.edited, gone=report.gone, come=report.come)
        return report
    except (CheckpointError, KeyError, TypeError, AttributeError) as error:
        if overwrite:
            return None
        raise CheckpointError(
            f"the output {job.out} is taken: {error}; give another folder, or overwrite it"
        ) from error


def _other_base(job: Job, name: str) -> CheckpointError:
    return CheckpointError(f"{job.out} was baked from another {name} than {job.index.folder} holds")


def _report(job: Job, record: Mapping[str, Any], *, reused: bool) -> BakeReport:
    energy = {item["tensor"]: item["energy"] for item in record["edited"]}
    files = record["files"]
    return BakeReport(
        out=job.out,
        edited=tuple(name for name, value in energy.items() if value > 0),
        rounded_away=tuple(name for name, value in energy.items() if value == 0),
        untouched=record["untouched"],
        n_bytes=sum(item["bytes"] for item in files.values()),
        seconds=0.0,
        energy=energy,
        sha256={name: item["sha256"] for name, item in files.items()},
        left_out=tuple(record["left_out"]),
        reused=reused,
        packed=tuple(record.get("packed", ())),
        survived=record.get("survived"),
        gone=tuple(record.get("gone", ())),
        come=tuple(record.get("come", ())),
    )
