"""A bake that was stopped goes on with the weight files that it finished, and with no others."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sombrero.checkpoints import CheckpointIndex, bake, rewrite
from sombrero.checkpoints.staging import Staging
from sombrero.errors import CheckpointError, NumericalError
from tests.checkpoints.bakes import PROVENANCE, bake_tiny, random_edit, tiny_writers, tree
from tests.tiny_models import save_tiny


class Stopped(NamedTuple):
    """A bake that was stopped when it had finished something: its source, where it goes, what it must become."""

    source: Path
    out: Path
    expected: dict[str, str]

    @property
    def staging(self) -> Staging:
        return Staging(self.out)

    @property
    def finished(self) -> list[str]:
        lines = self.staging.journal.read_text().splitlines()[1:]
        return [json.loads(line)["name"] for line in lines]

    def place(self, name: str) -> Path:
        return self.staging.model / f"{name}.unfinished"


def act_after(n_files: int, out: Path, act: Callable[[], None]) -> Callable[[int, int], None]:
    """An on_progress that acts once as many files are noted as finished."""
    journal = Staging(out).journal

    def on_progress(done: int, total: int) -> None:
        if journal.read_bytes().count(b"\n") > n_files:
            act()

    return on_progress


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stopped:
    monkeypatch.setattr(rewrite, "RUN_BYTES", 4 << 10)
    monkeypatch.setattr(rewrite, "FILES_AT_ONCE", 1)
    source = save_tiny("llama", tmp_path / "base", max_shard_size="60KB")
    expected = tree(bake_tiny(source, tmp_path / "reference").out)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        bake_tiny(source, out, on_progress=act_after(1, out, interrupt))
    found = Stopped(source, out, expected)
    assert found.finished and not out.exists()
    return found


def test_finished_files_are_not_written_again(stopped: Stopped) -> None:
    kept = {name: stopped.place(name).stat() for name in stopped.finished}
    calls: list[tuple[int, int]] = []
    report = bake_tiny(stopped.source, stopped.out, on_progress=lambda *now: calls.append(now))
    assert tree(stopped.out) == stopped.expected and not report.reused
    for name, before in kept.items():
        after = (stopped.out / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert calls == sorted(calls) and calls[0][0] > 0 and calls[-1][0] == calls[-1][1]
    assert report.energy == bake_tiny(stopped.source, stopped.out.with_name("reference")).energy
    assert not stopped.staging.root.exists()


def damage(stopped: Stopped) -> None:
    path = stopped.place(stopped.finished[0])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lose(stopped: Stopped) -> None:
    stopped.place(stopped.finished[0]).unlink()


def tear(stopped: Stopped) -> None:
    os.truncate(stopped.staging.journal, stopped.staging.journal.stat().st_size - 3)


def forget(stopped: Stopped) -> None:
    stopped.staging.journal.unlink()


def garble(stopped: Stopped) -> None:
    content = stopped.staging.journal.read_text().splitlines()
    stopped.staging.journal.write_text("\n".join([content[0], '{"name": 3}', "[]"]) + "\n")


def touch(stopped: Stopped) -> None:
    os.utime(stopped.source / stopped.finished[0], ns=(1, 1))


def litter(stopped: Stopped) -> None:
    (stopped.staging.model / "deep").mkdir()
    (stopped.staging.model / "deep" / "left").write_text("over")
    (stopped.staging.model / "old.safetensors").write_text("over")


@pytest.mark.parametrize("harm", [damage, lose, tear, forget, garble, touch, litter])
def test_what_is_not_as_noted_is_written_again(stopped: Stopped, harm: Callable[[Stopped], None]) -> None:
    harm(stopped)
    bake_tiny(stopped.source, stopped.out)
    assert tree(stopped.out) == stopped.expected
    assert not stopped.staging.root.exists()


def test_a_kill_between_the_last_renames_is_gone_on_from(stopped: Stopped) -> None:
    """All content is there; some files have their names already, the index too, the folder has not."""
    names = [file.name for file in CheckpointIndex.read(stopped.source).files]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Staging, "publish", lambda self, replace: interrupt())
        with pytest.raises(KeyboardInterrupt):
            bake_tiny(stopped.source, stopped.out)
    assert all((stopped.staging.model / name).exists() for name in names)
    stopped.staging.model.joinpath(names[0]).rename(stopped.place(names[0]))
    kept = {(stopped.staging.model / name).stat().st_ino for name in names[1:]}
    bake_tiny(stopped.source, stopped.out)
    assert tree(stopped.out) == stopped.expected
    assert kept <= {path.stat().st_ino for path in stopped.out.iterdir()}


def test_another_bake_removes_what_was_finished(stopped: Stopped) -> None:
    writers = tiny_writers(stopped.source, (1, 2))
    edit = random_edit(writers, seed=5)
    bake(stopped.source, edit, writers, stopped.out, provenance=PROVENANCE)
    other = bake(stopped.source, edit, writers, stopped.out.with_name("other"), provenance=PROVENANCE)
    assert tree(stopped.out) == tree(other.out) != stopped.expected
    assert not stopped.staging.root.exists()


def test_what_cannot_go_on_leaves_nothing(stopped: Stopped) -> None:
    def fail() -> None:
        raise NumericalError("no number")

    with pytest.raises(NumericalError):
        bake_tiny(stopped.source, stopped.out, on_progress=act_after(1, stopped.out, fail))
    assert not stopped.staging.root.exists()


def test_a_folder_that_stepped_aside_is_put_back(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    out = bake_tiny(source, tmp_path / "out").out
    old = tree(out)
    staging = Staging(out)
    staging.root.mkdir()
    out.rename(staging.replaced)  # killed between the two renames of a replacement
    assert bake_tiny(source, out).reused
    assert tree(out) == old and not staging.root.exists()
    staging.root.mkdir()
    shutil.copytree(out, staging.replaced)  # killed after them
    assert bake_tiny(source, out).reused
    assert tree(out) == old and not staging.root.exists()


def test_an_output_that_was_filled_meanwhile_is_kept(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base")
    out = tmp_path / "out"

    def fill(done: int, total: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "thesis.tex").write_text("years of work")

    with pytest.raises(CheckpointError, match="was filled while it was baked"):
        bake_tiny(source, out, on_progress=fill)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_space_counts_what_is_there_already(stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    def needed(source: Path, out: Path) -> int:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0))
        with pytest.raises(CheckpointError, match="the bake needs") as caught:
            bake_tiny(source, out)
        monkeypatch.undo()
        return int(str(caught.value).split("needs ")[1].split()[0])

    kept = sum(stopped.place(name).stat().st_size for name in stopped.finished)
    finished = len(stopped.finished)
    assert needed(stopped.source, stopped.out) == needed(stopped.source, stopped.out.with_name("fresh")) - kept
    assert len(stopped.finished) == finished  # nothing is lost by asking


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on file size, set when one file is finished, stands for the disk."""
    monkeypatch.setattr(rewrite, "RUN_BYTES", 4 << 10)
    monkeypatch.setattr(rewrite, "FILES_AT_ONCE", 1)
    source = save_tiny("llama", tmp_path / "base", max_shard_size="60KB")
    expected = tree(bake_tiny(source, tmp_path / "reference").out)
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))

    try:
        with pytest.raises(CheckpointError, match=r"disk became full.*finished weight files stay in .*out\.partial"):
            bake_tiny(
                source,
                out,
                on_progress=act_after(1, out, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))),
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Staging(out).journal.read_bytes().count(b"\n") > 1
    bake_tiny(source, out)
    assert tree(out) == expected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, too small for the bake."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_true_disk_that_becomes_full(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "FILES_AT_ONCE", 1)
    source = save_tiny("llama", tmp_path / "base", max_shard_size="60KB")
    expected = tree(bake_tiny(source, tmp_path / "reference").out)
    out = small_disk / "out"
    with pytest.raises(CheckpointError, match=r"the bake needs \d+ bytes"):
        bake_tiny(source, out)
    assert not list(small_disk.iterdir())

    class Usage(NamedTuple):
        free: int

    with monkeypatch.context() as patch:  # another process takes the space after it was counted
        patch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40))
        with pytest.raises(CheckpointError, match=r"disk became full.*finished weight files stay"):
            bake_tiny(source, out)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    bake_tiny(source, out)
    assert tree(out) == expected


def test_a_source_that_cannot_be_read_is_named_and_nothing_is_lost(
    stopped: Stopped, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = set(stopped.finished)
    last = sorted(stopped.source.glob("*.safetensors"))[-1]
    away = last.rename(stopped.source.with_name("away"))
    last.symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=last.name):
        bake_tiny(stopped.source, stopped.out)
    last.unlink()
    away.rename(last)
    assert set(stopped.finished) == finished
    bake_tiny(stopped.source, stopped.out)
    assert tree(stopped.out) == stopped.expected
