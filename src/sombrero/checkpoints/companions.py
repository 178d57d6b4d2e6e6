"""The files of a checkpoint folder that are not its weights: which go along into an edited copy, and which do not."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path

from sombrero.checkpoints.index import INDEX_NAME, CheckpointIndex, resolve_inside
from sombrero.errors import CheckpointError

RECORD_NAME = "sombrero.json"
CARD_NAME = "README.md"
RENAMED = {CARD_NAME: "README.base.md", RECORD_NAME: "sombrero.base.json"}
"""The base's own card and bake record make room for those of the edited checkpoint."""

# Other copies of the weights would carry the unedited model along, and some loaders prefer them.
_OTHER_WEIGHTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
    "*.pt",
    "*.pth",
    "*.pkl",
    "*.ckpt",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.onnx_data",
    "*.gguf",
)
_NOT_CONTENT = (".git", ".cache", "__pycache__")


@dataclass(frozen=True)
class Companion:
    """One file to write: its path (posix) inside the new folder, and its content: that of ``source``, or another."""

    source: Path
    target: str
    n_bytes: int
    content: bytes | None = None


def find_companions(index: CheckpointIndex) -> tuple[tuple[Companion, ...], tuple[str, ...]]:
    """Return the files to copy beside the weights, and the paths that are left out.

    Left out: weights that the index does not name (they hold the unedited model), version control and caches. Raises
    CheckpointError for a link out of the folder, a linked folder, or what is neither file nor folder.
    """
    weights = {file.name for file in index.files} | ({index.index_name} if index.index_name else set())
    found: dict[str, Companion] = {}
    left_out: list[str] = []
    for path in _walk(index.folder, left_out):
        name = path.relative_to(index.folder).as_posix()
        target = RENAMED.get(name, name)
        if name in weights:
            continue
        replaced = name in RENAMED.values() and (index.folder / _original(name)).exists()
        if replaced or any(fnmatch.fnmatch(path.name.lower(), pattern) for pattern in _OTHER_WEIGHTS):
            left_out.append(name)
            continue
        real = resolve_inside(index.folder, path)
        if not real.is_file():
            raise CheckpointError(f"{path} is no regular file; remove it from the checkpoint folder")
        found[target] = Companion(real, target, real.stat().st_size)
    return tuple(found[target] for target in sorted(found)), tuple(sorted(left_out))


def index_file(index: CheckpointIndex) -> Path | None:
    """Return the content of the shard index, or None for a checkpoint of one file."""
    return None if index.index_name is None else resolve_inside(index.folder, index.folder / INDEX_NAME)


def _original(renamed: str) -> str:
    return next(original for original, name in RENAMED.items() if name == renamed)


def _walk(root: Path, left_out: list[str]) -> list[Path]:
    paths: list[Path] = []
    for current, folders, files in os.walk(root, onerror=_raise):
        folder = Path(current)
        for name in list(folders):
            path = folder / name
            if name in _NOT_CONTENT:
                left_out.append(path.relative_to(root).as_posix() + "/")
                folders.remove(name)
            elif path.is_symlink():
                raise CheckpointError(f"{path} is a linked folder; replace the link by the folder it names")
        paths.extend(folder / name for name in files)
    return paths


def _raise(error: OSError) -> None:
    raise CheckpointError(f"cannot list {error.filename}: {error.strerror}; make it readable") from error
