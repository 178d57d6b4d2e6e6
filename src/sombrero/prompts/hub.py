"""Rows of a Hugging Face dataset: a hub id, or a local folder in either of the two shapes that ``datasets`` writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sombrero.errors import PromptError
from sombrero.prompts.formats import Row, Table

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def read_dataset(source: str, *, subset: str | None, split: str | None) -> Table:
    """Open a dataset and pick one split, in the syntax of ``datasets`` (``train[:200]``). Rows are read when used.

    Raises PromptError when the dataset, the subset or the split cannot be found or read, or when there are several
    splits and none was named.
    """
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    try:
        found = _open(source, subset, split)
        dataset = _one_split(found, source, split) if isinstance(found, datasets.DatasetDict) else found
    except (
        datasets.exceptions.DatasetsError,
        pyarrow.ArrowException,
        OSError,  # no such dataset, no connection, a damaged file
        ValueError,  # no such split or subset, not an id at all
    ) as error:
        raise PromptError(
            f"cannot load the dataset {source!r} (subset {subset!r}, split {split!r}): {_first_line(error)}; "
            "check the id or folder, the split, and that the hub can be reached"
        ) from error
    return Table(source, Path(source).name, tuple(dataset.column_names), _rows(dataset))


def _open(source: str, subset: str | None, split: str | None) -> Dataset | DatasetDict:
    import datasets

    folder = Path(source)
    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(source)
    if (folder / "state.json").is_file():
        if split is not None:
            raise PromptError(
                f"the dataset folder {source!r} holds one set without splits, but split {split!r} was asked"
            )
        return datasets.load_from_disk(source)
    return datasets.load_dataset(source, subset, split=split)


def _one_split(found: DatasetDict, source: str, split: str | None) -> Dataset:
    present = ", ".join(found)
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split is None:
        raise PromptError(f"the dataset {source!r} has several splits: {present}; name one of them")
    if split not in found:
        raise PromptError(f"the dataset {source!r} has no split {split!r}; it has {present}")
    return found[split]


def _rows(dataset: Dataset) -> Iterator[Row]:
    for number, record in enumerate(dataset, 1):
        yield Row(f"row {number}", record)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
