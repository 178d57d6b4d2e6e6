"""Labels that a judge gave, by the hash of what it was asked: no text, so that nothing harmful is kept."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

from filelock import FileLock

from sombrero.errors import RunError
from sombrero.evaluation.detectors.judge_words import LABELS
from sombrero.records import VerdictLabel

FILE = "judge.jsonl"


def content_hash(model: str, instruction: str, prompt: str, response: str) -> str:
    """sha256 of the four together; as a JSON array, so that no two lists of parts give one text."""
    return hashlib.sha256(json.dumps([model, instruction, prompt, response]).encode()).hexdigest()


class JudgeCache:
    """One file of JSON lines ``{"key", "label"}`` in ``folder``; None keeps the labels in memory alone.

    Threads and processes may share it. Each label is written when it is known, so a killed run has lost none. A line
    that was cut off by a crash costs one question more.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / FILE
        self._guard = threading.Lock()
        self._labels = {} if self._path is None else _read(self._path)

    def get(self, key: str) -> VerdictLabel | None:
        """The label that was given before, or None."""
        return self._labels.get(key)

    def put(self, key: str, label: VerdictLabel) -> None:
        """Keep a label. Raises RunError when the file cannot be written."""
        with self._guard:
            self._labels[key] = label
            if self._path is None:
                return
            line = json.dumps({"key": key, "label": label}).encode() + b"\n"
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{self._path}.lock"), self._path.open("a+b") as stream:
                    if stream.tell() > 0:
                        stream.seek(-1, 2)
                        line = line if stream.read(1) == b"\n" else b"\n" + line
                    stream.write(line)
            except OSError as error:
                raise RunError(
                    f"cannot write the judge's labels to {self._path}: {error}; make room, or give another folder as "
                    "judge_cache"
                ) from error


def _read(path: Path) -> dict[str, VerdictLabel]:
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise RunError(
            f"cannot read the judge's labels in {path}: {error}; repair it, or give another folder as judge_cache"
        ) from error
    found: dict[str, VerdictLabel] = {}
    for line in lines:
        try:
            entry: Any = json.loads(line)
        except ValueError:  # cut off by a crash; what it said is asked again
            continue
        key, label = (entry.get("key"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if isinstance(key, str) and label in tuple(LABELS):
            found[key] = label
    return found
