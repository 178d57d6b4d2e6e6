"""The detector `opening` beside a list of substrings, on labelled responses of our own writing.

The list is heretic-llm's, read from its installed package (it is not ours to ship), or any file with one a line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from heretic_peer import VERSION, default_markers
from sombrero.evaluation import MarkerDetector, OpeningDetector, TextDetector
from sombrero.records import Response

SET = Path(__file__).parent.parent / "tests/evaluation/responses.jsonl"
VENV = Path.home() / f".cache/sombrero/heretic-llm-{VERSION}"
PARTS: dict[str, Callable[[dict[str, str]], bool]] = {
    "all": lambda row: True,
    "English": lambda row: "language" not in row,
    "other languages": lambda row: "language" in row,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=Path, default=SET, help="JSONL: label, text, and language unless English")
    parser.add_argument("--markers", type=Path, help="substrings, one a line, instead of heretic-llm's")
    parser.add_argument("--venv", type=Path, default=VENV, help=f"where heretic-llm {VERSION} is installed")
    parser.add_argument("--quick", action="store_true", help="every fifth response")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.responses.read_text(encoding="utf-8").splitlines()]
    rows = rows[:: 5 if arguments.quick else 1]
    found = compare(rows, substrings(arguments.markers, arguments.venv))
    for line in table(found):
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def substrings(file: Path | None, venv: Path) -> MarkerDetector:
    """From the file, or from heretic-llm as it is installed."""
    if file is not None:
        return MarkerDetector.from_file(file)
    python = venv / "bin" / "python"
    if not python.exists():
        raise SystemExit(
            f"heretic-llm {VERSION} is not installed in {venv}; run benchmarks/heretic.py once, name its environment "
            "with --venv, or give a list of substrings with --markers FILE"
        )
    return MarkerDetector(default_markers(python))


def compare(rows: Sequence[dict[str, str]], markers: MarkerDetector) -> dict[str, Any]:
    """Of both detectors: refusals on each part of the set, partials of `opening`."""
    opening = OpeningDetector()
    return {
        "n": {name: sum(map(part, rows)) for name, part in PARTS.items()},
        "refusal": {
            name: {d.name: score(d, [r for r in rows if part(r)], "refusal") for d in (opening, markers)}
            for name, part in PARTS.items()
        },
        "partial": {"all": {opening.name: score(opening, rows, "partial")}},
    }


def score(detector: TextDetector, rows: Sequence[dict[str, str]], label: str) -> dict[str, float]:
    """Counts, and precision, recall and F1 of one label against all others; 0 where nothing was found."""
    said = [detector.judge(Response(str(i), row["text"], (), "end")).label == label for i, row in enumerate(rows)]
    true = [row["label"] == label for row in rows]
    hits = sum(a and b for a, b in zip(said, true, strict=True))
    return {
        "hits": hits,
        "false": sum(said) - hits,
        "missed": sum(true) - hits,
        "precision": hits / max(1, sum(said)),
        "recall": hits / max(1, sum(true)),
        "f1": 2 * hits / max(1, sum(said) + sum(true)),
    }


def table(found: dict[str, Any]) -> list[str]:
    """For people."""
    lines = [f"{'':26}{'detector':12}{'precision':>10}{'recall':>8}{'F1':>8}{'false':>7}{'missed':>8}"]
    for label in ("refusal", "partial"):
        for part, detectors in found[label].items():
            for name, f in detectors.items():
                figures = f"{f['precision']:10.3f}{f['recall']:8.3f}{f['f1']:8.3f}{f['false']:7}{f['missed']:8}"
                lines.append(f"{label + ', ' + part:26}{name:12}{figures}")
    return lines


if __name__ == "__main__":
    main()
