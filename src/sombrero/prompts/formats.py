"""Rows of a local prompt file. One function a format; what a row means is decided in ``load``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sombrero.errors import PromptError

LABELS = ("id", "category", "pair", "split")  # columns that mean something beside the text


@dataclass(frozen=True)
class Row:
    """One record of a prompt source. ``place`` says where it stands ("line 7"), for messages."""

    place: str
    values: Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """The rows of one prompt source. ``name`` is what messages call it, ``stem`` begins the ids that we make."""

    name: str
    stem: str
    columns: tuple[str, ...]
    rows: Iterator[Row]


def read_table(path: Path, column: str) -> Table:
    """Read a .txt, .csv, .json, .jsonl or .parquet file. A .txt file has the one column ``column``.

    Raises PromptError when the file is missing, unreadable, of another kind, not UTF-8, or malformed.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise PromptError(f"the prompt file {str(path)!r} {what}; check the path")
    try:
        return table_from_bytes(path.read_bytes(), path, column)
    except OSError as error:
        raise PromptError(f"cannot read the prompt file {str(path)!r}: {error.strerror}; check its rights") from error


def table_from_bytes(data: bytes, path: Path, column: str) -> Table:
    """The same for bytes that were read already; ``path`` gives the name and, by its suffix, the format."""
    name, suffix = str(path), path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(data, name, path.stem, column)
    if suffix == ".txt":
        lines = _decode(data, name).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        rows = (Row(f"line {n}", {column: line.strip()}) for n, line in enumerate(lines, 1) if line.strip())
        return Table(name, path.stem, (column,), rows)
    if suffix not in TEXT_READERS:
        raise PromptError(
            f"the prompt file {name!r} is of unknown kind {suffix or 'without suffix'!r}; "
            f"use one of {', '.join(FILE_SUFFIXES)}"
        )
    columns, found = TEXT_READERS[suffix](_decode(data, name), name)
    return Table(name, path.stem, columns, iter(found))


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (len(data) - len(error.object))  # utf-8-sig counts from after the byte order mark
        raise PromptError(
            f"{name!r} is not UTF-8: byte 0x{data[start]:02x} at offset {start}, "
            f"line {data.count(10, 0, start) + 1}; save the file as UTF-8"
        ) from error


def _csv(text: str, name: str) -> tuple[tuple[str, ...], list[Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = tuple(next(reader, ()))
        _require_distinct(header, name)
        rows = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise PromptError(
                    f"line {reader.line_num} of {name!r} has {len(cells)} cells, the header has {len(header)}; "
                    "quote texts that contain commas"
                )
            rows.append(Row(f"line {reader.line_num}", dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise PromptError(f"line {reader.line_num} of {name!r} is not valid CSV: {error}; repair it") from error
    return header, rows


def _json(text: str, name: str) -> tuple[tuple[str, ...], list[Row]]:
    if text.lstrip().startswith("["):
        values = _parse(text, name, "the array")
        if not isinstance(values, list):
            raise PromptError(f"{name!r} holds a JSON {type(values).__name__}; give an array of objects")
        placed = [(f"item {n}", value) for n, value in enumerate(values, 1)]
    else:
        lines = [(f"line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        placed = [(place, _parse(line, name, place)) for place, line in lines]
    rows = []
    columns: dict[str, None] = {}
    for place, value in placed:
        if not isinstance(value, dict):
            raise PromptError(f"{place} of {name!r} is a JSON {type(value).__name__}; each must be an object")
        columns.update(dict.fromkeys(value))
        rows.append(Row(place, value))
    return tuple(columns), rows


def _parse(text: str, name: str, place: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptError(
            f"{place} of {name!r} is not valid JSON: {error}; write one object a line, or one array of objects"
        ) from error
    return value


def _parquet(data: bytes, name: str, stem: str, column: str) -> Table:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        names = tuple(file.schema_arrow.names)
        _require_distinct(names, name)
        records = file.read(
            columns=[column_name for column_name in names if column_name in {column, *LABELS}]
        ).to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise PromptError(f"{name!r} is not a readable Parquet file: {error}; write it again") from error
    rows = (Row(f"row {n}", record) for n, record in enumerate(records, 1))
    return Table(name, stem, names, rows)


def _require_distinct(columns: tuple[str, ...], name: str) -> None:
    if len(set(columns)) != len(columns):
        raise PromptError(f"{name!r} names a column twice: {', '.join(columns)}; rename one of them")


TEXT_READERS: Mapping[str, Callable[[str, str], tuple[tuple[str, ...], list[Row]]]] = {
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _json,
}
FILE_SUFFIXES = (".txt", *TEXT_READERS, ".parquet")
