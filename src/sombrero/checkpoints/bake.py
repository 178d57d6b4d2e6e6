"""Write an edited copy of a checkpoint, tensor by tensor: memory holds one tensor, never the model."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sombrero.checkpoints.companions import RECORD_NAME, Companion, find_companions, index_file
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.plan import TensorEdit, describe, digest_edit, plan_edits
from sombrero.checkpoints.record import BakeReport, canonical, check_files, identity, read_record, write_record
from sombrero.checkpoints.rewrite import RewrittenFile, hash_file, rewrite_file
from sombrero.checkpoints.staging import UNFINISHED, staged_folder, sync_file
from sombrero.errors import CheckpointError
from sombrero.records import ModelEdit, Writer

METADATA_KEY = "sombrero"
_SPARE_BYTES = 1 << 20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class _Job:
    """One bake, decided in full before the first byte is written."""

    index: CheckpointIndex
    planned: Mapping[str, TensorEdit]
    companions: tuple[Companion, ...]
    left_out: tuple[str, ...]
    provenance: Mapping[str, object]
    identity: str
    out: Path

    @property
    def n_bytes(self) -> int:
        """Bytes that the result takes, a little more than less."""
        header_growth = len(self.index.files) * 2 * len(canonical(self.provenance))
        return self.index.n_bytes + sum(item.n_bytes for item in self.companions) + header_growth + _SPARE_BYTES


def bake(
    source: Path,
    edit: ModelEdit,
    writers: Sequence[Writer],
    out: Path,
    *,
    provenance: Mapping[str, object],
    on_progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> BakeReport:
    """Write the checkpoint ``source`` with ``edit`` folded into its weights to the folder ``out``.

    Tensors that are not edited are copied bit for bit; files, tensor order, dtypes and shapes stay. ``provenance``
    (plain JSON) goes into the header of every weight file and into ``sombrero.json``. on_progress gets data bytes done
    and in all. ``out`` appears in one rename when everything is on disk: a killed bake leaves at most a folder
    ``<out>.partial-<pid>``, which the next bake removes. The same bake asked for again is checked and returned.

    Raises CheckpointError when the source, the edit and the writers do not fit, ``out`` is taken (``overwrite``
    replaces another checkpoint), or the disk is full; NumericalError when an edited tensor is not finite.
    """
    started = time.monotonic()
    index = CheckpointIndex.read(source)
    planned = plan_edits(index, edit, writers)
    companions, left_out = find_companions(index)
    name = identity(provenance, digest_edit(edit))
    job = _Job(index, planned, companions, left_out, provenance, name, _absolute(out))
    report = None if _is_free(job, overwrite) else _reuse(job, overwrite)
    if report is None:
        _check_space(job)
        report = _build(job, on_progress or (lambda done, total: None))
    return replace(report, seconds=time.monotonic() - started)


def _absolute(out: Path) -> Path:
    try:
        return out.resolve()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot follow {out}: {error}; give another output folder") from error


def _is_free(job: _Job, overwrite: bool) -> bool:
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


def _reuse(job: _Job, overwrite: bool) -> BakeReport | None:
    """The report of the complete bake that ``out`` holds, when it is this one; None when it is to be replaced."""
    try:
        record = read_record(job.out)
        if record["identity"] != job.identity:
            raise CheckpointError(f"{job.out} holds another bake")
        expected = {file.name: (job.index.path(file.name), record["source"]) for file in job.index.files}
        copied = {name: item["sha256"] for name, item in record["files"].items()}
        expected |= {item.target: (item.source, copied) for item in job.companions}
        for name, (path, digests) in expected.items():
            if hash_file(path) != digests.get(name):
                raise CheckpointError(f"{job.out} was baked from another {name} than {job.index.folder} holds")
        check_files(job.out, record["files"])
        return _report(job, record, reused=True)
    except (CheckpointError, KeyError, TypeError, AttributeError) as error:
        if overwrite:
            return None
        raise CheckpointError(
            f"the output {job.out} is taken: {error}; give another folder, or overwrite it"
        ) from error


def _check_space(job: _Job) -> None:
    place = next(parent for parent in job.out.parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < job.n_bytes:
        raise CheckpointError(
            f"the bake needs {job.n_bytes} bytes and {place} has {free} free; free space or give another output folder"
        )


def _build(job: _Job, on_progress: Callable[[int, int], None]) -> BakeReport:
    try:
        with staged_folder(job.out) as partial:
            weights = _write_weights(job, partial, on_progress)
            files = {name: {"sha256": item.sha256, "bytes": item.n_bytes} for name, item in weights.items()}
            for companion in job.companions:
                files[companion.target] = _copy(companion.source, partial / companion.target)
            shard_index = index_file(job.index)
            if shard_index is not None:
                unfinished = partial / (str(job.index.index_name) + UNFINISHED)
                files[str(job.index.index_name)] = _copy(shard_index, unfinished)
            record = _record(job, weights, files)
            write_record(partial, record)
            for name in [*weights, *([job.index.index_name] if job.index.index_name else [])]:
                (partial / (name + UNFINISHED)).rename(partial / name)  # the index comes last
    except OSError as error:
        raise _disk_error(job, error) from error
    return _report(job, record, reused=False)


def _write_weights(job: _Job, partial: Path, on_progress: Callable[[int, int], None]) -> dict[str, RewrittenFile]:
    """Rewrite every weight file under an unfinished name; no loader takes the folder for a checkpoint yet."""
    metadata = {METADATA_KEY: canonical(job.provenance)}
    total = sum(entry.n_bytes for entry in job.index.tensors.values())
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        on_progress(done, total)

    return {
        file.name: rewrite_file(
            job.index.path(file.name), file, partial / (file.name + UNFINISHED), job.planned, metadata, advance
        )
        for file in job.index.files
    }


def _copy(source: Path, target: Path) -> dict[str, Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    sync_file(target)
    return {"sha256": hash_file(target), "bytes": target.stat().st_size}


def _record(job: _Job, weights: Mapping[str, RewrittenFile], files: Mapping[str, Any]) -> dict[str, Any]:
    energy = {name: value for item in weights.values() for name, value in item.energy.items()}
    return {
        "identity": job.identity,
        "provenance": dict(job.provenance),
        "source": {name: item.source_sha256 for name, item in weights.items()},
        "edited": [{**item, "energy": energy[str(item["tensor"])]} for item in describe(job.planned)],
        "untouched": len(job.index.tensors) - len(job.planned),
        "left_out": list(job.left_out),
        "files": dict(files),
    }


def _report(job: _Job, record: Mapping[str, Any], *, reused: bool) -> BakeReport:
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
    )


def _disk_error(job: _Job, error: OSError) -> CheckpointError:
    if error.errno in _DISK_FULL:
        place = next(parent for parent in job.out.parents if parent.exists())
        return CheckpointError(
            f"the disk became full at {error.filename or place}: the bake needs {job.n_bytes} bytes, "
            f"{shutil.disk_usage(place).free} are free now; free space or give another output folder"
        )
    return CheckpointError(f"cannot write {job.out}: {error}; check that the folder can be written")
