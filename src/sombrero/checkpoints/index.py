"""Where every tensor of a checkpoint folder lies, from headers alone; the folder is not trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from sombrero.checkpoints.header import TensorEntry, WeightFile, read_header
from sombrero.errors import CheckpointError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class CheckpointIndex:
    """The safetensors files of a checkpoint folder and the tensors in them.

    index_name is None for a checkpoint of one file. tensors maps each tensor's name to its place.
    """

    folder: Path
    files: tuple[WeightFile, ...]
    tensors: Mapping[str, TensorEntry]
    index_name: str | None

    @property
    def n_bytes(self) -> int:
        """Size of all weight files in bytes, headers included."""
        return sum(file.size for file in self.files)

    def path(self, name: str) -> Path:
        """Return where the content of the weight file ``name`` is, links resolved."""
        return resolve_inside(self.folder, self.folder / name)

    @classmethod
    def read(cls, folder: Path) -> CheckpointIndex:
        """Read the headers of the checkpoint in ``folder``: ``model.safetensors``, else the index and its shards.

        A folder with both is read as the single file, as transformers does. Raises CheckpointError when there are no
        safetensors weights, a shard is missing or damaged, the index and the headers disagree, or a file lies outside
        the folder.
        """
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder; give the folder that holds the checkpoint's files")
        root = folder.resolve()
        if (root / SINGLE_NAME).exists():
            file = read_header(resolve_inside(root, root / SINGLE_NAME), SINGLE_NAME)
            return cls(root, (file,), {entry.name: entry for entry in file.tensors}, None)
        if not (root / INDEX_NAME).exists():
            raise _no_weights(root)
        weight_map = _read_weight_map(root)
        names = sorted(set(weight_map.values()))
        missing = [name for name in names if not (root / name).is_file()]
        if missing:
            raise CheckpointError(f"{root} lacks the shards {', '.join(missing)} of its index; fetch them again")
        files = tuple(read_header(resolve_inside(root, root / name), name) for name in names)
        return cls(root, files, _join(root, weight_map, files), INDEX_NAME)


def resolve_inside(root: Path, path: Path) -> Path:
    """Return the real path of ``path``, which must lie in ``root`` or in the blobs of the hub cache around it.

    A hub snapshot links each file to ``blobs`` beside ``snapshots``; any other link out of the folder could make a
    bake publish a private file. Raises CheckpointError for such a link and for a broken one.
    """
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot follow {path}: {error}; fetch the checkpoint again") from error
    allowed = [root, *(parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots")]
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{path} links out of the checkpoint, to {target}; replace the link by a copy of the file"
        )
    return target


def _no_weights(root: Path) -> CheckpointError:
    pickles = sorted(p.name for pattern in ("pytorch_model*.bin", "*.pth", "*.pt") for p in root.glob(pattern))
    if pickles:
        return CheckpointError(
            f"{root} has only pickled weights ({', '.join(pickles[:3])}), which can run code when they are read; "
            "convert them where you trust them: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW) "
            "writes safetensors"
        )
    return CheckpointError(f"{root} has neither {SINGLE_NAME} nor {INDEX_NAME}; give a safetensors checkpoint folder")


def _read_weight_map(root: Path) -> dict[str, str]:
    path = root / INDEX_NAME
    try:
        index = json.loads(resolve_inside(root, path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}; fetch it again") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} must hold an object 'weight_map' that is not empty, found {weight_map!r:.80}")
    for tensor, file in weight_map.items():
        if not _is_plain_name(file):
            raise CheckpointError(
                f"{path} places tensor {tensor!r} in {file!r}; a shard must be a plain *.safetensors name in the folder"
            )
    return weight_map


def _is_plain_name(file: object) -> bool:
    """No folder, drive or parent, under the rules of either kind of system, and nothing a C library would cut."""
    if not isinstance(file, str) or not file.endswith(".safetensors") or not file.isprintable():
        return False
    return PurePosixPath(file).name == file and PureWindowsPath(file).name == file and not file.startswith(".")


def _join(root: Path, weight_map: Mapping[str, str], files: tuple[WeightFile, ...]) -> dict[str, TensorEntry]:
    """Tensors by name; the index and the headers must tell the same story, or a loader would miss what was edited."""
    tensors: dict[str, TensorEntry] = {}
    for file in files:
        for entry in file.tensors:
            if entry.name in tensors:
                raise CheckpointError(
                    f"tensor {entry.name!r} is in both {tensors[entry.name].file} and {file.name} of {root}; "
                    "keep one of them"
                )
            tensors[entry.name] = entry
    wrong = [name for name, file in weight_map.items() if name not in tensors or tensors[name].file != file]
    unlisted = [name for name in tensors if name not in weight_map]
    if wrong or unlisted:
        raise CheckpointError(
            f"{root / INDEX_NAME} does not fit its shards: not where it says {wrong[:5]}, not listed {unlisted[:5]} "
            f"({len(wrong)} and {len(unlisted)} in all); fetch the checkpoint again"
        )
    return tensors
