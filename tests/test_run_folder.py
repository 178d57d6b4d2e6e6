import errno
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from sombrero.config import RunConfig, load_config
from sombrero.errors import RunError
from sombrero.run_folder import RunFolder, guard_disk, read_config

CONFIG = RunConfig()


def numbers(folder: RunFolder, calls: list[str], name: str = "a", inputs: object = 1) -> list[int]:
    def make() -> list[int]:
        calls.append(name)
        return [1, 2]

    return folder.once_json(name, inputs, list[int], make)


def test_a_finished_stage_is_read_and_not_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        with RunFolder.open(tmp_path, CONFIG) as folder:
            assert numbers(folder, calls) == [1, 2]
    assert calls == ["a"]
    assert read_config(tmp_path) == CONFIG


def test_other_inputs_make_the_stage_again(tmp_path: Path) -> None:
    calls: list[str] = []
    with RunFolder.open(tmp_path, CONFIG) as folder:
        numbers(folder, calls, inputs=1)
        numbers(folder, calls, inputs=2)
        numbers(folder, calls, inputs=2)
    assert calls == ["a", "a"]


def test_a_stage_that_fails_is_not_finished(tmp_path: Path) -> None:
    def fail() -> list[int]:
        raise RunError("no")

    with RunFolder.open(tmp_path, CONFIG) as folder:
        numbers(folder, [], "before")
        with pytest.raises(RunError):
            folder.once_json("a", 1, list[int], fail)
    calls: list[str] = []
    with RunFolder.open(tmp_path, CONFIG) as folder:
        numbers(folder, calls, "before")
        numbers(folder, calls)
    assert calls == ["a"]


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG):
        pass
    other = load_config(None, {"map": {"n_rows": 7}})
    with pytest.raises(RunError, match=r"map\.n_rows: 4 there, 7 now.*--fresh"), RunFolder.open(tmp_path, other):
        pass
    with RunFolder.open(tmp_path, other, fresh=True):
        assert read_config(tmp_path) == other


def test_more_trials_continue_a_run_and_fewer_do_not(tmp_path: Path) -> None:
    def with_trials(trials: int) -> RunConfig:
        return load_config(None, {"search": {"trials": trials}})

    for trials in (10, 20):
        with RunFolder.open(tmp_path, with_trials(trials)):
            pass
    with pytest.raises(RunError, match=r"search\.trials: 20 there, 5 now"), RunFolder.open(tmp_path, with_trials(5)):
        pass


def test_fresh_removes_an_earlier_run_and_nothing_else(tmp_path: Path) -> None:
    calls: list[str] = []
    with RunFolder.open(tmp_path, CONFIG) as folder:
        numbers(folder, calls)
    with RunFolder.open(tmp_path, CONFIG, fresh=True) as folder:
        numbers(folder, calls)
    assert calls == ["a", "a"]


@pytest.mark.parametrize("fresh", [True, False])
def test_a_folder_that_is_no_run_is_left_alone(fresh: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    refusal = pytest.raises(RunError, match=r"holds no run \(found thesis\.tex\)")
    with refusal, RunFolder.open(tmp_path, CONFIG, fresh=fresh):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_process_killed_before_its_first_manifest_leaves_a_folder_to_start_in(tmp_path: Path) -> None:
    (tmp_path / "run.json.partial").write_text("{")
    with RunFolder.open(tmp_path, CONFIG) as folder:
        assert numbers(folder, []) == [1, 2]


def test_a_start_over_that_was_killed_leaves_no_finished_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of the old run was still there, the next call makes everything anew, with --fresh or without."""
    calls: list[str] = []
    with RunFolder.open(tmp_path, CONFIG) as folder:
        numbers(folder, calls)
    other = load_config(None, {"map": {"n_rows": 7}})

    def interrupt(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(Path, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt), RunFolder.open(tmp_path, other, fresh=True):
            pass
    assert (tmp_path / "a.json").exists()
    with pytest.raises(RunError, match="cannot be read"):
        read_config(tmp_path)
    with RunFolder.open(tmp_path, other) as folder:
        numbers(folder, calls)
    assert calls == ["a", "a"]
    assert read_config(tmp_path) == other


def test_settings_that_this_version_does_not_know_are_an_error(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG):
        pass
    manifest = json.loads((tmp_path / "run.json").read_bytes())
    manifest["config"]["map"]["n_planes"] = 3
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"map\.n_planes"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99, "stages": {}}'])
def test_a_damaged_manifest_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match="--fresh"), RunFolder.open(tmp_path, CONFIG):
        pass


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as folder:
        numbers(folder, [])
        (tmp_path / "a.json").write_text('["one"]')
        with pytest.raises(RunError, match=r"a\.json cannot be read"):
            numbers(folder, [])


def _hold(path: Path, ready: object, leave: object) -> None:
    with RunFolder.open(path, CONFIG):
        ready.set()  # type: ignore[attr-defined]
        leave.wait(30)  # type: ignore[attr-defined]


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, leave))
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(RunError, match="another process"), RunFolder.open(tmp_path, CONFIG):
            pass
    finally:
        leave.set()
        process.join()
    with RunFolder.open(tmp_path, CONFIG):
        pass


def test_a_full_disk_says_what_is_free_and_what_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"MiB free there\)\. Finished stages are kept"), guard_disk(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), guard_disk(tmp_path):
        (tmp_path / "none").read_bytes()


def test_a_disk_that_is_full_for_tensors_is_a_full_disk(tmp_path: Path) -> None:
    """A process that may write no file above 64 KiB stands for the disk: the system refuses it the same way."""
    code = (
        "import resource, sys, torch; from pathlib import Path; from sombrero.errors import RunError\n"
        "from sombrero.run_folder import guard_disk; from sombrero.tensor_records import write_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "path = Path(sys.argv[1])\n"
        "try:\n"
        "    with guard_disk(path.parent): write_tensors({'x': torch.zeros(50_000)}, path, {})\n"
        "except RunError as error: print(error)"
    )
    path = tmp_path / "x.safetensors"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "cannot write to" in done.stdout and "Finished stages are kept" in done.stdout
    assert not path.exists()


def test_the_manifest_is_never_half_written(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as folder:
        for index in range(20):
            numbers(folder, [], f"stage-{index}")
            assert len(json.loads((tmp_path / "run.json").read_bytes())["stages"]) == index + 1
    assert not list(tmp_path.glob("*.partial"))
