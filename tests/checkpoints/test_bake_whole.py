"""A bake is whole or absent: killed, out of disk, interrupted by its caller, asked for twice, or in the way."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest
from transformers import AutoModelForCausalLM

from sombrero.checkpoints import CardData, CheckpointIndex, bake, rewrite, write_card
from sombrero.checkpoints.record import check_files, read_record
from sombrero.checkpoints.staging import Staging, staged_folder
from sombrero.errors import CheckpointError
from sombrero.records import EditParameters
from tests.checkpoints.bakes import PROVENANCE, bake_tiny, progress_that, random_edit, tiny_writers, tree
from tests.tiny_models import save_tiny

ROOT = Path(__file__).parents[2]
SHARDS = pytest.mark.parametrize("shard", [None, "60KB"])


def kill_bakes(work: Path, jobs: list[tuple[Path, str]]) -> dict[str, str]:
    """Run bakes that are killed (see killed_bake): name of the output folder -> 'killed', or 'finished' before that."""
    work.mkdir()
    jobs_as_text = [f"{source},{point}" for source, point in jobs]
    command = [sys.executable, "-m", "tests.checkpoints.killed_bake", str(work), *jobs_as_text]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return dict(line.split() for line in result.stdout.splitlines())


def assert_whole_or_absent(out: Path, expected: dict[str, str]) -> None:
    """No reader may take a half for a checkpoint: not under the final name, and not under a temporary one."""
    assert not out.exists() or tree(out) == expected
    for partial in (Staging(out).root, Staging(out).model):
        if not partial.exists():
            continue
        try:
            CheckpointIndex.read(partial)
        except CheckpointError:
            with pytest.raises((OSError, ValueError), match=r"no file named|Unrecognized model"):
                AutoModelForCausalLM.from_pretrained(partial)
        else:
            check_files(partial, read_record(partial)["files"])


def test_a_killed_bake_leaves_no_half_and_the_next_one_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite, "RUN_BYTES", 8 << 10)
    sources = {
        "single": save_tiny("llama", tmp_path / "single"),
        "sharded": save_tiny("llama", tmp_path / "sharded", max_shard_size="60KB"),
    }
    expected: dict[str, dict[str, str]] = {}
    jobs: list[tuple[Path, str]] = []
    for kind, source in sources.items():
        calls: list[tuple[int, int]] = []
        report = bake_tiny(source, tmp_path / f"reference-{kind}", on_progress=lambda *now, to=calls: to.append(now))
        expected[kind] = tree(report.out)
        points = [f"call-{n}" for n in (1, 7, len(calls) // 2, len(calls))]
        points += [f"delay-{n}" for n in (1, 3, 6, 10, 15, 20, 30, 45)]
        jobs += [(source, point) for point in points]
    work = tmp_path / "work"
    ends = kill_bakes(work, jobs)
    assert len(ends) == len(jobs)
    assert all(end == "killed" for name, end in ends.items() if "call" in name)
    for source, point in jobs:
        out = work / f"{source.name}-{point}"
        assert_whole_or_absent(out, expected[source.name])
        bake_tiny(source, out)
        assert tree(out) == expected[source.name]
    assert not list(work.glob("*.partial"))


class _StopError(Exception):
    pass


def _stop() -> NoReturn:
    raise _StopError


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


@SHARDS
def test_an_error_in_the_middle_leaves_nothing(shard: str | None, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", max_shard_size=shard)
    for act, error in ((_stop, _StopError), (_interrupt, KeyboardInterrupt)):
        with pytest.raises(error):
            bake_tiny(source, tmp_path / "out", on_progress=progress_that(act, 1))
        assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_source_that_shrinks_under_the_bake_is_an_error(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", max_shard_size="60KB")
    last = sorted(source.glob("*.safetensors"))[-1]
    with pytest.raises(CheckpointError, match=f"{last.name} ended"):
        bake_tiny(source, tmp_path / "out", on_progress=progress_that(lambda: os.truncate(last, 5_000), 1))
    assert not (tmp_path / "out").exists()


def test_too_little_space_is_found_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_tiny("llama", tmp_path / "base")

    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 9 * 10**5, 10**5))
    with pytest.raises(CheckpointError, match=r"needs \d{7,} bytes .* has 100000 free"):
        bake_tiny(source, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@SHARDS
def test_a_disk_that_becomes_full_leaves_nothing(shard: str | None, tmp_path: Path) -> None:
    """A limit on file size stands for the disk: the system refuses the write in the middle of a file."""
    source = save_tiny("llama", tmp_path / "base", max_shard_size=shard)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"disk became full.*needs \d+ bytes"):
            bake_tiny(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(CheckpointError, match="file"):
            bake_tiny(source, out)


def test_the_same_bake_is_checked_and_returned(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", max_shard_size="60KB")
    first = bake_tiny(source, tmp_path / "out")
    parameters = EditParameters("project", "som", None, (0,), {})
    write_card(first.out, CardData("x", "a/b", None, parameters, 1, 4, (), "sombrero", 0))
    times = {path: path.stat().st_mtime_ns for path in first.out.iterdir()}
    again = bake_tiny(source, tmp_path / "out")
    assert again.reused and not first.reused
    assert (again.edited, again.sha256, again.energy) == (first.edited, first.sha256, first.energy)
    assert times == {path: path.stat().st_mtime_ns for path in first.out.iterdir()}


def test_another_bake_in_the_way_is_kept_unless_told(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    out = bake_tiny(source, tmp_path / "out").out
    kept = tree(out)
    writers = tiny_writers(source, (1, 2))
    other = random_edit(writers, seed=1)
    with pytest.raises(CheckpointError, match="another bake"):
        bake(source, other, writers, out, provenance=PROVENANCE)
    with pytest.raises(CheckpointError, match="another bake"):
        bake(source, random_edit(writers), writers, out, provenance={"other": 1})
    with pytest.raises(_StopError):
        bake(source, other, writers, out, provenance=PROVENANCE, overwrite=True, on_progress=progress_that(_stop, 5))
    assert tree(out) == kept
    report = bake(source, other, writers, out, provenance=PROVENANCE, overwrite=True)
    assert not report.reused and tree(out) != kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_a_changed_source_or_result_is_not_taken_for_the_same_bake(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    out = bake_tiny(source, tmp_path / "out").out
    save_tiny("llama", source, seed=1)
    with pytest.raises(CheckpointError, match="baked from another"):
        bake_tiny(source, out)
    save_tiny("llama", source, seed=0)
    assert bake_tiny(source, out).reused
    (out / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="changed after"):
        bake_tiny(source, out)
    assert not bake_tiny(source, out, overwrite=True).reused
    assert bake_tiny(source, out).reused


def test_only_a_checkpoint_apart_from_the_source_is_overwritten(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    for out in (source, source / "inside", tmp_path):
        with pytest.raises(CheckpointError, match="in each other"):
            bake_tiny(source, out, overwrite=True)
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        bake_tiny(source, home, overwrite=True)
    assert (home / "thesis.tex").exists()
    (tmp_path / "empty").mkdir()
    assert not bake_tiny(source, tmp_path / "empty").reused


def test_a_running_bake_is_not_taken_for_an_abandoned_one(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    out = tmp_path / "out"
    with staged_folder(out) as staging:
        with pytest.raises(CheckpointError, match="another bake"):
            bake_tiny(source, out)
        assert staging.model.is_dir()
    assert not out.exists()
    bake_tiny(source, out)


def test_a_bake_of_a_bake_keeps_both_records(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    first = bake_tiny(source, tmp_path / "first").out
    second = bake_tiny(first, tmp_path / "second").out
    assert tree(second)["sombrero.base.json"] == tree(first)["sombrero.json"]
    assert read_record(second)["source"].keys() == {"model.safetensors"}


def test_everything_that_is_no_weight_comes_along(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    names = (
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
        "generation_config.json",
        "modeling_custom.py",
        "tokenizer.model",
        "vocab.tiktoken",
        "LICENSE",
        ".gitattributes",
        "a name with spaces – and ümlauts.txt",
    )
    for name in names:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(f"content of {name}")
    out = bake_tiny(source, tmp_path / "out").out
    for name in names:
        assert (out / name).read_text() == f"content of {name}"


@pytest.mark.parametrize("kind", ["fifo", "loop", "broken", "up"])
def test_what_is_no_file_of_the_folder_stops_the_bake(kind: str, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    strange = source / "strange.txt"
    if kind == "fifo":
        os.mkfifo(strange)
    else:
        strange.symlink_to({"loop": "strange.txt", "broken": "nothing", "up": "../outside"}[kind])
        (tmp_path / "outside").write_text("secret")
    with pytest.raises(CheckpointError, match=r"strange\.txt"):
        bake_tiny(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
