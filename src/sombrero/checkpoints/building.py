"""Write the files of a bake into a staging folder: go on from what is there, and publish when all is on disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sombrero.checkpoints.companions import Companion, index_file
from sombrero.checkpoints.formats import Requantization, require_survival
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.journal import Journal, fingerprint
from sombrero.checkpoints.layout import Layout, replacements
from sombrero.checkpoints.plan import Plan, describe
from sombrero.checkpoints.record import canonical, write_record
from sombrero.checkpoints.rewrite import RewriteJob, RewrittenFile, rewrite_files
from sombrero.checkpoints.staging import UNFINISHED, Staging, staged_folder, sync_file, sync_folder
from sombrero.checkpoints.transfer import hash_file
from sombrero.errors import CheckpointError

METADATA_KEY = "sombrero"
_SPARE_BYTES = 1 << 20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Job:
    """One bake, decided in full before the first byte is written.

    layouts: weight file -> what lies where in the new one. shard_index: its content where it is another one.
    accept_error: whether little may be left of the edit after rounding.
    """

    index: CheckpointIndex
    plan: Plan
    layouts: Mapping[str, Layout]
    companions: tuple[Companion, ...]
    left_out: tuple[str, ...]
    provenance: Mapping[str, object]
    identity: str
    out: Path
    shard_index: bytes | None = None
    accept_error: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes that the result takes, a little more than less."""
        header_growth = len(self.index.files) * 2 * len(canonical(self.provenance))
        weights = sum(file.data_begin + self.layouts[file.name].size for file in self.index.files)
        return weights + sum(item.n_bytes for item in self.companions) + header_growth + _SPARE_BYTES


def build(job: Job, on_progress: Callable[[int, int], None], overwrite: bool) -> dict[str, Any]:
    """Write all files, publish them as ``job.out``, and return the record.

    What stopped it decides what stays: finished weight files do when the bake can go on later (the disk, the source, an
    interruption), nothing does when it cannot.
    """
    kept = ""
    if not Staging(job.out).root.exists():
        _check_space(job, {})  # before a folder is made
    try:
        with staged_folder(job.out) as staging:
            try:
                weights = _write_weights(job, staging, on_progress)
                require_survival(requantized(job, weights), accept=job.accept_error)
                record = _finish(job, staging.model, weights)
                staging.publish(replace=overwrite)
            except (OSError, CheckpointError, KeyboardInterrupt):
                kept = _kept(job, staging)
                raise
            finally:
                if not kept:
                    staging.remove()
    except OSError as error:
        raise CheckpointError(_why(job, error) + kept) from error
    except CheckpointError as error:
        if not kept:
            raise
        raise CheckpointError(f"{error}{kept}") from error
    return record


def _kept(job: Job, staging: Staging) -> str:
    """What a message says of the finished weight files; nothing when there are none."""
    n = Journal(staging.journal, job.identity).n_finished
    return f"; {n} finished weight files stay in {staging.root}, the same bake goes on with them" if n else ""


def _write_weights(job: Job, staging: Staging, on_progress: Callable[[int, int], None]) -> dict[str, RewrittenFile]:
    """Write what is not there yet under unfinished names; no loader takes the folder for a checkpoint."""
    paths = {file.name: staging.model / (file.name + UNFINISHED) for file in job.index.files}
    sources = {file.name: fingerprint(job.index.path(file.name), file) for file in job.index.files}
    journal, weights = _resume(job, staging, paths, sources)
    _check_space(job, weights)
    total = sum(entry.n_bytes for entry in job.index.tensors.values())
    done = sum(entry.n_bytes for entry in job.index.tensors.values() if entry.file in weights)

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if n_bytes:
            on_progress(done, total)

    metadata = {METADATA_KEY: canonical(job.provenance)}
    jobs = [
        RewriteJob(job.index.path(file.name), file, paths[file.name], job.layouts[file.name], metadata)
        for file in job.index.files
        if file.name not in weights
    ]
    if weights:
        on_progress(done, total)
    for rewritten, result in rewrite_files(jobs, job.index, job.plan, advance):
        name = rewritten.file.name
        if fingerprint(rewritten.source, rewritten.file) != sources[name]:
            raise CheckpointError(f"{rewritten.source} changed while it was read; bake again when nothing writes to it")
        sync_folder(staging.model)
        journal.add(name, sources[name], result)
        weights[name] = result
    return {file.name: weights[file.name] for file in job.index.files}


def _resume(
    job: Job, staging: Staging, paths: Mapping[str, Path], sources: Mapping[str, str]
) -> tuple[Journal, dict[str, RewrittenFile]]:
    """The journal, and the weight files that an earlier call of this bake finished; everything else is removed."""
    journal = Journal(staging.journal, job.identity)
    weights: dict[str, RewrittenFile] = {}
    if journal.belongs:
        if job.index.index_name is not None:
            (staging.model / job.index.index_name).unlink(missing_ok=True)
        for name, path in paths.items():  # killed between the first of the last renames and the publication
            if (staging.model / name).exists():
                (staging.model / name).rename(path)
        weights = journal.finished(paths, sources)
    else:
        journal.begin()
    kept = {paths[name] for name in weights}
    for path in staging.model.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path not in kept:
            path.unlink()
    return journal, weights


def _finish(job: Job, model: Path, weights: Mapping[str, RewrittenFile]) -> dict[str, Any]:
    """Add everything that is no weight, and give the weights their names, the index last; return the record."""
    files = {name: {"sha256": item.sha256, "bytes": item.n_bytes} for name, item in weights.items()}
    for companion in job.companions:
        files[companion.target] = _copy(companion.source, model / companion.target, companion.content)
    shard_index = index_file(job.index)
    names = [*weights]
    if shard_index is not None:
        names.append(str(job.index.index_name))
        files[names[-1]] = _copy(shard_index, model / (names[-1] + UNFINISHED), job.shard_index)
    record = _record(job, weights, files)
    write_record(model, record)
    for name in names:
        (model / (name + UNFINISHED)).rename(model / name)
    return record


def _copy(source: Path, target: Path, content: bytes | None) -> dict[str, Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        shutil.copyfile(source, target)
    else:
        target.write_bytes(content)
    sync_file(target)
    return {"sha256": hash_file(target), "bytes": target.stat().st_size}


def _record(job: Job, weights: Mapping[str, RewrittenFile], files: Mapping[str, Any]) -> dict[str, Any]:
    energy = {name: value for item in weights.values() for name, value in item.energy.items()}
    found = requantized(job, weights)
    return {
        "identity": job.identity,
        "provenance": dict(job.provenance),
        "source": {
            file.name: {"bytes": file.size, "replaced_sha256": weights[file.name].replaced_sha256}
            for file in job.index.files
        },
        "edited": [{**item, "energy": energy[str(item["tensor"])]} for item in describe(job.plan)],
        **(_packed_record(job, found) if job.plan.packed else {}),
        "untouched": len(job.index.tensors) - len(job.plan.rewritten),
        "left_out": list(job.left_out),
        "files": dict(files),
    }


def requantized(job: Job, weights: Mapping[str, RewrittenFile]) -> dict[str, Requantization]:
    """How each edited packed weight came out."""
    sums = {name: values for item in weights.values() for name, values in item.requantized.items()}
    return {
        name: Requantization(change.new_format, *sums[name])
        for name, change in job.plan.packed.items()
        if change.edit is not None
    }


def _packed_record(job: Job, found: Mapping[str, Requantization]) -> dict[str, Any]:
    """packed: each edited packed weight. gone, come: names of tensors that are in the base alone, and that are new."""
    gone, placed = replacements(job.plan.packed.values())
    come = sorted(entry.name for entry in placed.values())
    return {
        "packed": [
            {
                "weight": name,
                "base_format": job.plan.packed[name].codec.format,
                "stored": job.plan.packed[name].how,
                **item.describe(),
            }
            for name, item in found.items()
        ],
        "survived": require_survival(found, accept=True),
        "gone": sorted(gone),
        "come": come,
    }


def _check_space(job: Job, kept: Mapping[str, RewrittenFile]) -> None:
    place = next(parent for parent in job.out.parents if parent.exists())
    free = shutil.disk_usage(place).free
    needed = job.n_bytes - sum(item.n_bytes for item in kept.values())
    if free < needed:
        raise CheckpointError(
            f"the bake needs {needed} bytes and {place} has {free} free; free space or give another output folder"
        )


def _why(job: Job, error: OSError) -> str:
    if error.errno in _DISK_FULL:
        place = next(parent for parent in job.out.parents if parent.exists())
        return (
            f"the disk became full at {error.filename or place}: the bake needs {job.n_bytes} bytes, "
            f"{shutil.disk_usage(place).free} are free now; free space or give another output folder"
        )
    return f"cannot bake {job.index.folder} to {job.out}: {error}; check that the one can be read and the other written"
