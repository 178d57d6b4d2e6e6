"""Proof that a bake changed what it says and nothing else: two checkpoints compared byte by byte."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sombrero.checkpoints.header import TensorEntry
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.transfer import hash_range
from sombrero.errors import CheckpointError


@dataclass(frozen=True)
class VerifyReport:
    """edited, untouched: tensor names. n_bytes: data compared. sha256: of each baked tensor's data."""

    edited: tuple[str, ...]
    untouched: tuple[str, ...]
    n_bytes: int
    sha256: Mapping[str, str] = field(repr=False)


def verify_untouched(
    source: Path,
    baked: Path,
    edited_names: Collection[str],
    *,
    gone: Collection[str] = (),
    come: Collection[str] = (),
) -> VerifyReport:
    """Compare the tensors of two checkpoints: those in ``edited_names`` must differ, all others must be the same bytes.

    Names, dtypes and shapes must agree throughout; how tensors are spread over files may differ. gone, come: tensors of
    packed weights that are now stored in another form: in the base alone or in another form, and what took their place;
    they count as edited. Raises CheckpointError that names every tensor that breaks a rule.
    """
    before, after = CheckpointIndex.read(source), CheckpointIndex.read(baked)
    _check_same_tensors(before, after, edited_names, set(gone), set(come))
    old, new = _digest(before), _digest(after)
    edited_names = {*edited_names, *come}
    changed = [name for name in new if name not in edited_names and new[name] != old[name]]
    same = [name for name in new if name in edited_names and new[name] == old.get(name)]
    if changed or same:
        raise CheckpointError(
            f"{baked} is not the edit it claims of {source}: changed without an edit {changed}; said to be edited but "
            f"the same {same}; bake again"
        )
    return VerifyReport(
        edited=tuple(name for name in new if name in edited_names),
        untouched=tuple(name for name in new if name not in edited_names),
        n_bytes=sum(entry.n_bytes for entry in after.tensors.values()),
        sha256=new,
    )


def _check_same_tensors(
    before: CheckpointIndex, after: CheckpointIndex, edited_names: Collection[str], gone: set[str], come: set[str]
) -> None:
    missing = sorted(gone - set(before.tensors)) + sorted(come - set(after.tensors))
    if missing:
        raise CheckpointError(
            f"{after.folder} is said to hold tensors in another form than {before.folder}, but {missing} are not where "
            "they should be; bake again"
        )
    old, new = set(before.tensors) - gone, set(after.tensors) - come
    unknown = sorted(set(edited_names) - old - come)
    if old != new or unknown:
        raise CheckpointError(
            f"{after.folder} and {before.folder} do not hold the same tensors: lost {sorted(old - new)}, added "
            f"{sorted(new - old)}, edited but in neither {unknown}; compare a bake with its own base"
        )

    def form(entry: TensorEntry) -> tuple[str, tuple[int, ...]]:
        return entry.dtype, entry.shape

    other = [
        f"{name} {form(before.tensors[name])} -> {form(after.tensors[name])}"
        for name in sorted(old)
        if form(before.tensors[name]) != form(after.tensors[name])
    ]
    if other:
        raise CheckpointError(
            f"{after.folder} holds tensors in another dtype or shape than its base: {other}; bake again"
        )


def _digest(index: CheckpointIndex) -> dict[str, str]:
    digests: dict[str, str] = {}
    for file in index.files:
        path = index.path(file.name)
        for entry in file.tensors:
            digest = hashlib.sha256()
            hash_range(path, entry.begin, entry.n_bytes, digest)
            digests[entry.name] = digest.hexdigest()
    return digests
