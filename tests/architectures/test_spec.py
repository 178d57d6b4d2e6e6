import json
from pathlib import Path
from typing import Any

import pytest

from sombrero.architectures import load_architectures
from sombrero.architectures.spec import read_architectures
from sombrero.errors import ArchitectureError

ENTRY: dict[str, Any] = json.loads(load_architectures()[0].model_dump_json(exclude_none=True))


def write(folder: Path, name: str, entry: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(entry))
    return path


def test_shipped_entries_read_back_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", ENTRY)
    assert read_architectures([path])[0] == load_architectures()[0]


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"writers": []},
        {"classes": []},
        {"writers": [{**ENTRY["writers"][0], "layout": "diagonal"}]},
        {"writers": [{**ENTRY["writers"][0], "weight": "no.layer.in.here"}]},
        {"writers": [{**ENTRY["writers"][0], "typo": True}]},
    ],
)
def test_an_entry_that_does_not_fit_the_schema_fails(change: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, "broken.json", {**ENTRY, **change})
    with pytest.raises(ArchitectureError, match=r"broken\.json does not fit the schema"):
        read_architectures([path])


def test_two_entries_for_one_class_fail(tmp_path: Path) -> None:
    paths = [write(tmp_path, "a.json", ENTRY), write(tmp_path, "b.json", {**ENTRY, "family": "other"})]
    with pytest.raises(ArchitectureError, match=r"served by a\.json and by b\.json"):
        read_architectures(paths)
