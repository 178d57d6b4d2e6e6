"""Prompt sets from files, Hugging Face datasets, and the starter sets that come with the package."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from sombrero.errors import PromptError
from sombrero.prompts.formats import FILE_SUFFIXES, Row, Table, read_table, table_from_bytes
from sombrero.prompts.hub import read_dataset
from sombrero.records import Prompt, SplitName

StarterName = Literal["harmful", "harmless", "borderline", "contrast"]

LAYOUT_CHARACTERS = "\n\r\t"


def load_prompts(
    source: str | Path,
    *,
    split: str | None = None,
    column: str = "text",
    limit: int | None = None,
    subset: str | None = None,
) -> tuple[Prompt, ...]:
    """Load one prompt set.

    source: a .txt (a prompt a line, blank lines skipped), .csv, .json, .jsonl or .parquet file; a dataset folder; or a
    hub id ("owner/name"). split: the dataset's split; of a file, the rows whose column ``split`` has this value.
    column: which column holds the request. limit: at most this many, the first ones. subset: the dataset's
    configuration, where it has several. The columns ``id``, ``category`` and ``pair`` are used where there are any;
    without ``id``, prompts are named after the source and their position in it.

    Raises PromptError when the source is missing, unreadable or not UTF-8, the column or split is not there, the set is
    empty, a text is blank, not a string or has control characters, or a text or an id comes twice.
    """
    if limit is not None and limit < 1:
        raise PromptError(f"limit must be at least 1, not {limit}; leave it out to load every prompt")
    table = _open_table(source, subset=subset, split=split, column=column)
    return _prompts(table, column=column, limit=limit)


def starter_prompts(name: StarterName, split: SplitName) -> tuple[Prompt, ...]:
    """Load one split of a starter set, written for this project and shipped with it.

    The splits of one set share no prompt, nor do two sets. ``borderline`` and ``contrast`` come in the same order:
    prompt i of one and prompt i of the other are a pair.

    Raises PromptError when the name or the split is unknown, or the package's data is damaged.
    """
    if name not in get_args(StarterName):
        raise PromptError(f"there is no starter set {name!r}; use one of {', '.join(get_args(StarterName))}")
    if split not in get_args(SplitName):
        raise PromptError(f"the starter sets have no split {split!r}; use one of {', '.join(get_args(SplitName))}")
    resource = files("sombrero.prompts").joinpath("data", f"{name}.jsonl")
    try:
        data = resource.read_bytes()
    except OSError as error:
        raise PromptError(f"the starter set {name!r} is missing from the package; install sombrero again") from error
    table = table_from_bytes(data, Path(f"{name}.jsonl"), "text")
    return _prompts(_with_split(table, split), column="text", limit=None)


def _open_table(source: str | Path, *, subset: str | None, split: str | None, column: str) -> Table:
    path = Path(source).expanduser()
    if path.is_dir():
        return read_dataset(str(path), subset=subset, split=split)
    if isinstance(source, str) and not path.exists() and _could_be_hub_id(source):
        return read_dataset(source, subset=subset, split=split)
    if subset is not None:
        raise PromptError(f"a file has no subset, but subset {subset!r} was asked of {str(source)!r}; leave it out")
    table = read_table(path, column)
    return table if split is None else _with_split(table, split)


def _could_be_hub_id(source: str) -> bool:
    return source.count("/") <= 1 and source[:1].isalnum() and not source.lower().endswith(FILE_SUFFIXES)


def _with_split(table: Table, split: str) -> Table:
    if "split" not in table.columns:
        raise PromptError(
            f"split {split!r} was asked of {table.name!r}, which has no column 'split' "
            f"(it has {', '.join(table.columns)}); leave the split out, or add the column"
        )
    rows = list(table.rows)
    kept = [row for row in rows if row.values.get("split") == split]
    if not kept:
        present = ", ".join(sorted({str(row.values.get("split")) for row in rows})) or "none"
        raise PromptError(f"{table.name!r} has no rows of split {split!r}; its splits: {present}")
    return Table(table.name, table.stem, table.columns, iter(kept))


def _prompts(table: Table, *, column: str, limit: int | None) -> tuple[Prompt, ...]:
    if table.columns and column not in table.columns:
        raise PromptError(f"{table.name!r} has no column {column!r}; it has {', '.join(map(repr, table.columns))}")
    prompts: list[Prompt] = []
    places_by_text: dict[str, str] = {}
    places_by_id: dict[str, str] = {}
    for position, row in enumerate(islice(table.rows, limit), 1):
        prompt = _prompt(table, row, column, position)
        _refuse_twice(places_by_text, " ".join(prompt.text.split()).casefold(), row, table, "text")
        _refuse_twice(places_by_id, prompt.id, row, table, "id")
        prompts.append(prompt)
    if not prompts:
        raise PromptError(f"{table.name!r} holds no prompts; give a source with at least one")
    return tuple(prompts)


def _prompt(table: Table, row: Row, column: str, position: int) -> Prompt:
    text = row.values.get(column)
    if not isinstance(text, str):
        what = "has no" if text is None else f"has a {type(text).__name__} as"
        raise PromptError(f"{row.place} of {table.name!r} {what} {column!r}; each row needs a text there")
    if not text.strip():
        raise PromptError(f"{row.place} of {table.name!r} has a blank {column!r}; remove the row or fill it")
    for index, character in _forbidden(text):
        raise PromptError(
            f"{row.place} of {table.name!r} has the control character U+{ord(character):04X} "
            f"at position {index} of {column!r}; remove it"
        )
    return Prompt(
        id=_label(row, "id") or f"{table.stem}-{position:05d}",
        text=text,
        category=_label(row, "category") or "uncategorized",
        pair=_label(row, "pair"),
    )


def _forbidden(text: str) -> Iterator[tuple[int, str]]:
    """Control characters, and lone surrogates, which JSON can smuggle in and no tokenizer can encode."""
    for index, character in enumerate(text):
        if unicodedata.category(character) in {"Cc", "Cs"} and character not in LAYOUT_CHARACTERS:
            yield index, character


def _label(row: Row, key: str) -> str | None:
    value = row.values.get(key)
    return None if value is None else str(value).strip() or None


def _refuse_twice(places: dict[str, str], key: str, row: Row, table: Table, what: str) -> None:
    if key in places:
        raise PromptError(
            f"{table.name!r} has the same {what} twice, in {places[key]} and {row.place}: "
            f"{key[:80]!r}; keep one of them"
        )
    places[key] = row.place
