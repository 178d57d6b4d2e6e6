"""A run on disk: one folder, one manifest, one record per finished stage.

A stage's files are written first and its entry in ``run.json`` last, each under a temporary name and renamed. A process
that is killed at any moment therefore leaves either a finished stage or none.
"""

from __future__ import annotations

import errno
import hashlib
import json
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from sombrero import __version__
from sombrero.config import RunConfig
from sombrero.errors import RunError
from sombrero.safe_text import json_text

FORMAT = 1
MANIFEST = "run.json"
OWN = (".lock", f"{MANIFEST}.partial")
"""All that a process leaves which was killed before its first manifest."""
LIBRARIES = ("torch", "transformers", "safetensors", "optuna", "scikit-learn", "numpy")
GROWING = ("search.trials",)
"""Settings that a run may be continued with at a higher value."""
FREE = ("bake.", "compare.", "search.workers")
"""Settings that no finished stage rests on without naming them: a run may be continued with other values."""

T = TypeVar("T")


class RunFolder:
    """The folder of one run. Open it with :meth:`open`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._manifest = manifest

    @classmethod
    @contextmanager
    def open(cls, path: Path, config: RunConfig, *, fresh: bool = False) -> Iterator[RunFolder]:
        """Open or create the folder for this configuration, locked against a second process.

        ``fresh`` removes what an earlier run left. Raises RunError when the folder is in use, holds something that is
        not a run, or a run with another configuration (the message lists what differs).
        """
        with guard_disk(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise RunError(f"another process is working in {path}; wait for it, or choose another --out") from error
            try:
                if fresh:
                    _clear(path)
                yield cls(path, _continue_manifest(path, config))
            finally:
                lock.release()

    def once(
        self, name: str, inputs: object, make: Callable[[], T], save: Callable[[T], None], load: Callable[[], T]
    ) -> T:
        """The stage's record: loaded when it was finished with these inputs, else made, saved and loaded."""
        key = fingerprint([FORMAT, name, inputs])
        if not self.is_finished(name, key):
            started = time.monotonic()
            with guard_disk(self.path):
                save(make())
                self._manifest["stages"][name] = {
                    "hash": key,
                    "seconds": round(time.monotonic() - started, 3),
                    "peak_rss_bytes": peak_rss_bytes(),
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                self.write_manifest()
        return load()

    def once_json(self, name: str, inputs: object, kind: type[T], make: Callable[[], T], *, under: str = "") -> T:
        """:meth:`once` for a record of type ``kind`` that is kept as ``NAME.json``, below the folder ``under``."""
        path = self.path / under / f"{name}.json"
        adapter = TypeAdapter(kind)
        return self.once(
            name,
            inputs,
            make,
            lambda value: write_bytes(path, adapter.dump_json(value, indent=1)),
            lambda: self.load_json(name, kind, under=under),
        )

    def load_json(self, name: str, kind: type[T], *, under: str = "") -> T:
        """The record of a stage that :meth:`once_json` finished. Raises RunError when it is missing or damaged."""
        path = self.path / under / f"{name}.json"
        try:
            return TypeAdapter(kind).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise RunError(f"the record {path} cannot be read: {error}; start over with --fresh") from error

    def is_finished(self, name: str, key: str) -> bool:
        """Whether the stage was finished with exactly these inputs."""
        return bool(self._manifest["stages"].get(name, {}).get("hash") == key)

    def stage_hash(self, name: str) -> str:
        """The hash of a finished stage, for the inputs of the next one."""
        return str(self._manifest["stages"][name]["hash"])

    @property
    def seconds(self) -> dict[str, float]:
        """Time that each finished stage took when it was made."""
        return {name: entry["seconds"] for name, entry in self._manifest["stages"].items()}

    @property
    def facts(self) -> Mapping[str, Any]:
        """Everything in the manifest."""
        return self._manifest

    def note(self, **facts: object) -> None:
        """Add facts to the manifest."""
        self._manifest |= facts
        self.write_manifest()

    def write_manifest(self) -> None:
        """Write ``run.json``."""
        write_json(self.path / MANIFEST, self._manifest)


def read_config(path: Path) -> RunConfig:
    """The configuration of the run in ``path``. Raises RunError when there is no run."""
    manifest = _read_manifest(path)
    if manifest is None:
        raise RunError(f"there is no run in {path} (no {MANIFEST}); give a run folder, or start one with: sombrero run")
    try:
        return RunConfig.model_validate(manifest["config"])
    except (KeyError, ValidationError) as error:
        raise RunError(f"the settings in {path / MANIFEST} cannot be read: {error}; start over with --fresh") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """What ``run.json`` of the run in ``path`` says. Raises RunError when there is no run."""
    manifest = _read_manifest(path)
    if manifest is None or "config" not in manifest:
        raise RunError(f"there is no run in {path} (no {MANIFEST}); give the folder that 'sombrero run' wrote")
    return manifest


def is_run(path: Path) -> bool:
    """Whether the folder holds a run."""
    return (path / MANIFEST).is_file()


def fingerprint(value: object) -> str:
    """sha256 of a JSON-able value."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def peak_rss_bytes() -> int:
    """The largest resident set of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, indented, UTF-8, atomically."""
    write_bytes(path, json_text(value).encode() + b"\n")


@contextmanager
def guard_disk(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a RunError that says what is free and that nothing was lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
            raise
        parent = next(p for p in (path, *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(parent).free / 2**20
        raise RunError(
            f"cannot write to {path}: {error.strerror} ({free:.0f} MiB free there). Finished stages are kept: make "
            "room or choose another --out, then run the same command again"
        ) from error


def _continue_manifest(path: Path, config: RunConfig) -> dict[str, Any]:
    settings = config.model_dump(mode="json")
    manifest = _read_manifest(path)
    if manifest is None:
        foreign = [item.name for item in path.iterdir() if item.name not in OWN]
        if foreign:
            raise RunError(
                f"{path} is not empty and holds no run (found {', '.join(sorted(foreign)[:3])}); choose another --out"
            )
        manifest = {"format": FORMAT, "created": datetime.now(UTC).isoformat(timespec="seconds"), "stages": {}}
    else:
        differing = [
            f"{key}: {was!r} there, {now!r} now"
            for key, was, now in _differences(_completed(manifest.get("config", settings)), settings)
            if not (key in GROWING and was < now) and not key.startswith(FREE)
        ]
        if differing:
            raise RunError(
                f"{path} holds a run with another configuration ({'; '.join(differing[:6])}). Use the same settings to "
                "resume it, another --out for a new run, or --fresh to start over"
            )
    manifest |= {"config": settings, "config_hash": fingerprint(settings), "seed": config.seed}
    manifest |= {"versions": {"sombrero": __version__, "python": platform.python_version()} | library_versions()}
    write_json(path / MANIFEST, manifest)
    return manifest


def _completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of an earlier run, with the defaults of those that were not there yet when it began."""
    try:
        return RunConfig.model_validate(settings).model_dump(mode="json")
    except ValidationError:  # settings that are no longer there: they are named among those that differ
        return settings


def _read_manifest(path: Path) -> dict[str, Any] | None:
    file = path / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(file.read_bytes())
        found = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is damaged ({error}); start over with --fresh or choose another --out") from error
    if found != FORMAT:
        raise RunError(f"{file} has format {found}, this version reads {FORMAT}; start over with --fresh")
    return manifest


def _differences(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in sorted(set(was) | set(now)):
        a, b = was.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b


def library_versions() -> dict[str, str]:
    """Versions of the libraries that figures rest on."""
    return {name: version(name) for name in LIBRARIES}


def _clear(path: Path) -> None:
    if not is_run(path):
        return
    write_json(path / MANIFEST, {"format": FORMAT, "stages": {}})  # killed from here on, it is a run that has nothing
    for item in path.iterdir():
        if item.name in (".lock", MANIFEST):
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()
    (path / MANIFEST).unlink()
