"""A prompt set comes out of every kind of source the same, and a damaged one never comes out at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from sombrero.errors import PromptError
from sombrero.prompts import load_prompts, starter_prompts

TEXTS = ("How do I bake bread?", 'What is a "SOM", really?', "Zwei Sätze.\nAuf zwei Zeilen.")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_csv(path: Path) -> Path:
    quoted = "".join('"' + text.replace('"', '""') + '"\n' for text in TEXTS)
    path.write_text("text\n" + quoted, encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: list[object] | None = None) -> Path:
    rows = [{"text": text} for text in TEXTS] if rows is None else rows
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_json(path: Path) -> Path:
    path.write_text(json.dumps([{"text": text} for text in TEXTS], indent=1), encoding="utf-8")
    return path


def write_parquet(path: Path) -> Path:
    parquet.write_table(pa.table({"text": list(TEXTS), "answer": ["x", "y", "z"]}), path)
    return path


def write_folder(path: Path) -> Path:
    path.mkdir()
    write_jsonl(path / "train.jsonl")
    return path


def write_saved(path: Path) -> Path:
    datasets.Dataset.from_dict({"text": list(TEXTS)}).save_to_disk(path)
    return path


WRITERS = {
    "s.csv": write_csv,
    "s.jsonl": write_jsonl,
    "s.json": write_json,
    "s.parquet": write_parquet,
    "folder": write_folder,
    "saved": write_saved,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_source_gives_the_same_texts(tmp_path: Path, name: str) -> None:
    source = WRITERS[name](tmp_path / name)
    assert tuple(prompt.text for prompt in load_prompts(source)) == TEXTS
    assert tuple(prompt.text for prompt in load_prompts(str(source), limit=2)) == TEXTS[:2]
    assert len({prompt.id for prompt in load_prompts(source)}) == len(TEXTS)


def test_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\n  two \n\nthree")
    assert [prompt.text for prompt in load_prompts(path)] == ["one", "two", "three"]
    assert [prompt.id for prompt in load_prompts(path)] == ["s-00001", "s-00002", "s-00003"]


def test_labels_are_kept(tmp_path: Path) -> None:
    rows: list[object] = [{"id": 7, "text": "a", "category": "c", "pair": "p"}, {"id": None, "text": "b"}]
    first, second = load_prompts(write_jsonl(tmp_path / "s.jsonl", rows))
    assert (first.id, first.category, first.pair) == ("7", "c", "p")
    assert (second.id, second.category, second.pair) == ("s-00002", "uncategorized", None)


def test_other_column_and_split_of_a_file(tmp_path: Path) -> None:
    rows: list[object] = [{"goal": "a", "split": "map"}, {"goal": "b", "split": "report"}]
    path = write_jsonl(tmp_path / "s.jsonl", rows)
    assert [prompt.text for prompt in load_prompts(path, column="goal", split="report")] == ["b"]
    with pytest.raises(PromptError, match="map, report"):
        load_prompts(path, column="goal", split="test")
    with pytest.raises(PromptError, match="no column 'split'"):
        load_prompts(write_csv(tmp_path / "s.csv"), split="map")


def test_splits_of_a_dataset_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder")
    write_jsonl(folder / "test.jsonl", [{"text": "held out"}])
    assert [prompt.text for prompt in load_prompts(folder, split="test")] == ["held out"]
    assert [prompt.text for prompt in load_prompts(folder, split="train[:1]")] == [TEXTS[0]]
    with pytest.raises(PromptError, match=r"several splits: train, test"):
        load_prompts(folder)
    with pytest.raises(PromptError, match="validation"):
        load_prompts(folder, split="validation")
    with pytest.raises(PromptError, match="no column 'goal'; it has 'text'"):
        load_prompts(folder, split="train", column="goal")


def test_splits_of_a_saved_dataset(tmp_path: Path) -> None:
    one = datasets.Dataset.from_dict({"text": list(TEXTS)})
    datasets.DatasetDict({"a": one, "b": one}).save_to_disk(tmp_path / "two")
    assert len(load_prompts(tmp_path / "two", split="b")) == len(TEXTS)
    with pytest.raises(PromptError, match="it has a, b"):
        load_prompts(tmp_path / "two", split="train")
    with pytest.raises(PromptError, match="without splits"):
        load_prompts(write_saved(tmp_path / "saved"), split="train")


def test_dataset_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(PromptError, match="cannot load the dataset 'nobody/nothing-here'"):
        load_prompts("nobody/nothing-here", split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptError, match="cannot load the dataset"):
        load_prompts(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.txt", b"", "holds no prompts"),
        ("s.txt", b"\n \n", "holds no prompts"),
        ("s.txt", b"one\nt\xff", r"byte 0xff at offset 5, line 2"),
        ("s.txt", b"\xef\xbb\xbfone\nt\xff", r"byte 0xff at offset 8, line 2"),
        ("s.txt", "zwei Sätze".encode("utf-16"), r"not UTF-8: byte 0xff at offset 0, line 1"),
        ("s.txt", b"one\ntwo\x00", r"line 2 .* control character U\+0000 at position 3"),
        ("s.txt", b"one\x0bone", r"line 1 .* control character U\+000B"),
        ("s.txt", b"same\nother\nSame ", r"same text twice, in line 1 and line 3: 'same'"),
        ("s.md", b"one", r"unknown kind '.md'; use one of .txt, .csv"),
        ("s.csv", b"", "holds no prompts"),
        ("s.csv", b"text\n", "holds no prompts"),
        ("s.csv", b"goal,target\na,b\n", r"no column 'text'; it has 'goal', 'target'"),
        ("s.csv", b"text\nfirst, kill a process\n", "line 2 .* has 2 cells, the header has 1; quote"),
        ("s.csv", b"text,text\na,b\n", "names a column twice"),
        ("s.csv", b'text\n"open', "not valid CSV"),
        ("s.csv", b'id,text\n1,"  "\n', "line 2 .* blank 'text'"),
        ("s.csv", b"id,text\n1,a\n1,b\n", "same id twice, in line 2 and line 3"),
        ("s.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 .* not valid JSON"),
        ("s.jsonl", b'{"text": "a"}\n{"goal": "b"}\n', "line 2 .* has no 'text'"),
        ("s.jsonl", b'{"text": "a"}\n{"text": 3}\n', "line 2 .* has a int as 'text'"),
        ("s.jsonl", b'"a"\n', "line 1 .* is a JSON str"),
        ("s.jsonl", b'{"text": "\\ud800"}\n', r"control character U\+D800"),
        ("s.json", b'[{"text": "a"}, ["b"]]', "item 2 .* is a JSON list"),
        ("s.json", b"[" * 100_000, "not valid JSON"),
        ("s.parquet", b"PAR1 but not really", "not a readable Parquet file"),
        ("s.parquet", b"", "not a readable Parquet file"),
    ],
)
def test_damaged_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PromptError, match=message):
        load_prompts(path)


def test_missing_file_and_useless_arguments(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="does not exist"):
        load_prompts(tmp_path / "missing")
    with pytest.raises(PromptError, match="does not exist"):
        load_prompts("missing.jsonl")
    with pytest.raises(PromptError, match="limit must be at least 1, not 0"):
        load_prompts(write_csv(tmp_path / "s.csv"), limit=0)
    with pytest.raises(PromptError, match="a file has no subset"):
        load_prompts(tmp_path / "s.csv", subset="main")


def test_unreadable_rows_past_the_limit_do_not_matter(tmp_path: Path) -> None:
    rows: list[object] = [{"text": "a"}, {"text": "b"}, {"text": " "}]
    assert len(load_prompts(write_jsonl(tmp_path / "s.jsonl", rows), limit=2)) == 2


def test_unknown_starter_set() -> None:
    with pytest.raises(PromptError, match="no starter set 'evil'; use one of harmful"):
        starter_prompts("evil", "map")  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="no split 'train'; use one of map, search, report"):
        starter_prompts("borderline", "train")  # type: ignore[arg-type]


def test_importing_is_light() -> None:
    code = "import sombrero.prompts, sys; print(*{'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
