"""Workers of a whole run: killed or interrupted, it leaves no process behind and goes on with any number of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sombrero import verbs
from sombrero.config import RunConfig
from sombrero.errors import RunError
from sombrero.pipeline import Pipeline
from sombrero.run_folder import RunFolder
from sombrero.search import WorkerPool
from sombrero.search.scoring import score_trial
from sombrero.stages.preparing import open_bench
from sombrero.stages.trials import read_trials
from tests.test_calibrate_run import calibrate_config
from tests.tiny_runs import tiny_config

ROOT = Path(__file__).parents[1]
TRIALS = 12


def with_search(config: RunConfig, **values: object) -> RunConfig:
    """The configuration with other settings of the search."""
    return config.model_copy(update={"search": config.search.model_copy(update=values)})


def n_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def search_until(folder: Path, arguments: list[str], n_trials: int) -> subprocess.Popen[str]:
    """Start ``sombrero search`` in a process group of its own, and return when it has so many trials."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, "-m", "sombrero", "search", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while n_lines(folder / "trials.jsonl") < n_trials:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    return process


def assert_all_gone(group: int) -> None:
    """No process of the group is left, a moment after its first one ended."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("the run left processes behind")


@pytest.mark.slow
def test_killed_and_interrupted_a_run_leaves_no_process_and_goes_on_with_one(tmp_path: Path) -> None:
    config = with_search(tiny_config(tmp_path / "inputs"), trials=TRIALS, workers=2)
    folder = tmp_path / "run"
    verbs.map(config, folder)

    process = search_until(folder, [str(folder)], 2)
    process.kill()
    process.communicate()
    assert_all_gone(process.pid)
    found = read_trials(folder / "trials.jsonl")

    process = search_until(folder, [str(folder), "--workers", "3"], len(found) + 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    errors = process.communicate()[1]
    assert_all_gone(process.pid)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    found = read_trials(folder / "trials.jsonl")
    assert len(found) < TRIALS, "it was not interrupted in time"

    assert verbs.search(with_search(config, workers=1), folder)["trials"] == TRIALS
    scores = read_trials(folder / "trials.jsonl")
    assert [score.number for score in scores] == list(range(TRIALS)) and scores[: len(found)] == found
    assert json.loads((folder / "run.json").read_text())["config"]["search"]["workers"] == 1


def test_a_worker_scores_from_the_folder_alone_and_makes_no_stage(tmp_path: Path) -> None:
    config = with_search(tiny_config(tmp_path / "inputs"), trials=2)
    folder = tmp_path / "run"
    verbs.search(config, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    first = read_trials(folder / "trials.jsonl")[0]
    score = score_trial(open_bench(config, folder), first.number, first.parameters, ())
    assert replace(score, kl=None, log_odds=None) == replace(first, kl=None, log_odds=None)
    assert score.kl == pytest.approx(first.kl) and score.log_odds == pytest.approx(first.log_odds)
    with pytest.raises(RunError, match=r"the stage openings .* is unfinished"):
        open_bench(config.model_copy(update={"seed": 1}), folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_another_number_of_workers_makes_no_stage_again(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "inputs", search={"trials": 2})
    summary = verbs.run(config, tmp_path / "run")
    shutil.copy(tmp_path / "run" / "run.json", tmp_path / "before.json")
    assert verbs.run(with_search(config, workers=2), tmp_path / "run") == summary
    stages = [json.loads(path.read_text())["stages"] for path in (tmp_path / "before.json", tmp_path / "run/run.json")]
    assert stages[0] == stages[1]


def test_workers_find_the_states_that_the_goal_calibrate_asks_for(tmp_path: Path) -> None:
    """The run makes them before a worker starts: it reads the folder, and makes no stage."""
    config = with_search(calibrate_config(tmp_path / "inputs"), workers=2)
    with RunFolder.open(tmp_path / "run", config) as folder:
        pipeline = Pipeline(config, folder)
        pipeline.map()
        assert isinstance(pipeline.scorer(), WorkerPool)
        bench = open_bench(config, folder.path)
        assert len(bench.true) > 0 and bench.harmful == pipeline.session.rendered("borderline", "search")
        assert "planner" not in vars(pipeline), "the run builds no edits while its workers do"
