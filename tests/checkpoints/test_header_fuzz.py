"""Any header and any index: taken only when every tensor lies in its file, else refused by one kind of error."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from sombrero.checkpoints import CheckpointIndex
from sombrero.checkpoints.header import WeightFile, encode_header, read_header
from sombrero.checkpoints.index import INDEX_NAME, SINGLE_NAME
from sombrero.errors import CheckpointError

numbers = st.integers(-2, 20) | st.sampled_from([2**31, 2**63, 2**64, 10**30, True, 1.0, None, "4"])
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "F33", 3]), "shape": st.lists(numbers, max_size=3)},
    optional={"data_offsets": st.lists(numbers, max_size=3), "extra": st.none()},
)
headers = st.dictionaries(
    st.text(max_size=3) | st.just("__metadata__"), entries | st.dictionaries(st.text(max_size=3), numbers), max_size=4
)


@contextmanager
def written(content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SINGLE_NAME
        path.write_bytes(content)
        yield path


def read_or_refuse(path: Path) -> WeightFile | None:
    """The file as we read it; whatever is taken lies in the file without holes, and safetensors takes it too."""
    try:
        file = read_header(path, path.name)
    except CheckpointError:
        return None
    size = path.stat().st_size
    position = file.data_begin
    for entry in file.tensors:
        assert entry.begin == position <= entry.end <= size
        position = entry.end
    assert position == size == file.size
    with safe_open(path, "pt") as handle:
        assert set(handle.keys()) == {entry.name for entry in file.tensors}
    return file


@settings(max_examples=100, deadline=None)
@given(header=headers, n_bytes=st.integers(0, 40), declared=st.none() | st.integers(0, 2**64 - 1))
def test_any_header(header: dict[str, Any], n_bytes: int, declared: int | None) -> None:
    raw = json.dumps(header).encode()
    length = len(raw) if declared is None else declared
    with written(length.to_bytes(8, "little") + raw + b"x" * n_bytes) as path:
        read_or_refuse(path)


@st.composite
def true_files(draw: st.DrawFn) -> bytes:
    header: dict[str, Any] = {}
    position = 0
    for number in range(draw(st.integers(0, 4))):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        count = 1
        for size in shape:
            count *= size
        header[f"t{number}"] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + 2 * count]}
        position += 2 * count
    return encode_header(header, {"format": "pt"}) + bytes(position)


@settings(max_examples=100, deadline=None)
@given(
    content=true_files(),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    data=st.data(),
)
def test_true_files_are_read_and_damaged_ones_read_or_refused(
    content: bytes, changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    with written(content) as path:
        file = read_or_refuse(path)
        assert file is not None
        raw = encode_header(file.header, {**file.metadata, "more": "x" * 9})
        assert len(raw) % 8 == 0 and json.loads(raw[8:])["__metadata__"] == {"format": "pt", "more": "x" * 9}
    damaged = bytearray(content)
    for place, value in changes:
        if damaged:
            damaged[place % len(damaged)] = value
    with written(bytes(damaged[: data.draw(st.integers(0, len(damaged)))])) as path:
        read_or_refuse(path)


@settings(max_examples=100, deadline=None)
@given(
    weight_map=st.dictionaries(
        st.text(max_size=5),
        st.text(max_size=8)
        | st.sampled_from(
            [
                "../x.safetensors",
                "/x.safetensors",
                "a/../../x.safetensors",
                "..",
                "x.safetensors",
                "\\x.safetensors",
                3,
                None,
            ]
        ),
        max_size=3,
    )
)
def test_no_index_leads_out_of_its_folder(weight_map: dict[str, Any]) -> None:
    """The file next to the folder is a true one, and holds what the index says."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "checkpoint"
        folder.mkdir()
        header = {name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for name in weight_map}
        for path in (Path(place) / "x.safetensors", folder / "x.safetensors"):
            path.write_bytes(encode_header({k: v for k, v in header.items() if k != "__metadata__"}, {}))
        (folder / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
        try:
            index = CheckpointIndex.read(folder)
        except CheckpointError:
            return
        assert {file.name for file in index.files} == {"x.safetensors"}
        assert all(index.path(file.name).parent == folder.resolve() for file in index.files)
