"""Where a checkpoint's files lie: a local folder, one fetched from the hub, or one made in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sombrero.config import ModelConfig
from sombrero.errors import ModelError
from sombrero.models.embedded import embedded_folder, is_prepared
from sombrero.models.gguf_folder import find_gguf, unpacked_folder
from sombrero.records import EMBEDDED

CHECKPOINT_FILES = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    "*.py",  # fetched for the baked checkpoint, which needs what its base needs; run only where code is trusted
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
    "README.md",
)
PICKLE_FILES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def locate(config: ModelConfig, *, weights: bool = True) -> Path:
    """The local folder that holds the checkpoint's files.

    Fetched from the hub when ``source`` is a hub id; of a GGUF file, the folder that it is unpacked into.
    """
    if config.source in EMBEDDED:
        return embedded_folder(config.source, cache=config.cache)
    path = Path(config.source).expanduser()
    if path.exists():
        gguf = find_gguf(path)
        if gguf is not None:
            return unpacked_folder(gguf, config.cache)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{config.source!r} is a file; give the folder that holds the checkpoint, or a hub id")
    if config.source.startswith((".", "/", "~")) or config.source.count("/") != 1:
        raise ModelError(
            f"no folder {config.source!r}; give an existing checkpoint folder, a hub id (owner/name), or "
            f"{' or '.join(map(repr, EMBEDDED))}"
        )
    return _download(config, weights=weights)


def needs_preparing(config: ModelConfig) -> bool:
    """Whether :func:`locate` may take minutes: an embedded model that is not in the cache yet, or one of the hub."""
    if config.source in EMBEDDED:
        return not is_prepared(config.source, cache=config.cache)
    return not Path(config.source).expanduser().exists() and config.source.count("/") == 1


def configuration_source(config: ModelConfig) -> dict[str, Any]:
    """What the library's ``from_pretrained`` needs to read the configuration; no weights are fetched or unpacked."""
    path = Path(config.source).expanduser()
    gguf = find_gguf(path) if path.exists() else None
    if gguf is not None:
        return {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    return {"pretrained_model_name_or_path": locate(config, weights=False)}


def check_folder(folder: Path, source: str) -> None:
    """Refuse a folder whose weights are missing or pickled, or that has no configuration. Raises ModelError."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{source!r} has no config.json (looked in {folder}); it is not a Hugging Face checkpoint")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in PICKLE_FILES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{source!r} has pickle weights only ({', '.join(pickles[:3])}); pickles run code when they are loaded and "
            "are refused. Convert them once with transformers: model.save_pretrained(folder) writes safetensors"
        )
    raise ModelError(f"{source!r} has no safetensors weights (looked in {folder})")


def first_line(error: Exception) -> str:
    """The first line of what a library says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _download(config: ModelConfig, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = CHECKPOINT_FILES if weights else CHECKPOINT_FILES[1:]
    try:
        return Path(snapshot_download(config.source, revision=config.revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"cannot find or fetch {config.source!r} (revision {config.revision or 'main'}): there is no such local "
            f"folder, and the hub says: {first_line(error)}. Check the spelling, the network and your access token, "
            "or give a local folder"
        ) from error
