"""The live page: what it tells of a run, when it tells more, and what it never gives away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import optuna
import pytest

from sombrero.errors import RunError
from sombrero.progress import Noted, Silent
from sombrero.stages.trials import TRIALS, read_trials, write_trials
from sombrero.watch import Snapshots, watch
from tests.commands import Tiny, environment
from tests.watch.conftest import Server


def next_event(stream: HTTPResponse) -> dict[str, Any]:
    while not (line := stream.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_event_tells_the_run_and_a_new_trial_makes_another(server: Server, run: Path) -> None:
    with server.events() as stream:
        first = next_event(stream)
        scores = read_trials(run / TRIALS)
        assert [trial["number"] for trial in first["trials"]] == [score.number for score in scores]
        assert {stage["name"] for stage in first["stages"]} == set(json.loads((run / "run.json").read_text())["stages"])
        assert first["report"] and first["summary"]["base"]["refusals"]["n"] > 0
        assert set(first["front"]) <= {score.number for score in scores if score.state == "generated"}
        better = replace(scores[0], number=len(scores), state="generated", refusals=0, faults=0, kl=0.0)
        write_trials((*scores, better), run / TRIALS)
        second = next_event(stream)
        assert second["from"] == len(scores)
        assert [trial["number"] for trial in second["trials"]] == [better.number]
        assert second["best"] == better.number and second["front"] == [better.number]


def test_a_run_that_starts_over_is_told_from_its_beginning(run: Path) -> None:
    snapshots, scores = Snapshots(run), read_trials(run / TRIALS)
    assert snapshots.take(len(scores))["trials"] == []
    write_trials(scores[:1], run / TRIALS)
    found = snapshots.take(len(scores))
    assert found["from"] == 0 and len(found["trials"]) == 1
    (run / TRIALS).unlink()
    assert snapshots.take(1)["trials"] == []


def test_a_folder_that_is_damaged_or_gone_is_said_and_survived(server: Server, run: Path) -> None:
    manifest = (run / "run.json").read_bytes()
    with server.events() as stream:
        next_event(stream)
        (run / "run.json").write_bytes(manifest[:40])
        assert "is damaged" in next_event(stream)["problem"]
        (run / "run.json").unlink()
        assert "there is no run" in next_event(stream)["problem"]
        (run / "run.json").write_bytes(manifest)
        assert next_event(stream)["trials"]


def test_a_stage_that_runs_is_told(run: Path) -> None:
    snapshots = Snapshots(run)
    with Noted(Silent(), run).stage("search", 40) as advance:
        now = snapshots.take()["now"]
        assert now["stage"] == "search" and now["total"] == 40
        advance(1)
    assert snapshots.take()["now"]["stage"] is None


def test_watching_changes_nothing(run: Path) -> None:
    before = contents(run)
    server = Server(run)
    for path in ("/", "/page.js", "/page.css", "/report.html"):
        assert server.get(path).status == 200
    with server.events() as stream:
        next_event(stream)
    server.stop()
    assert contents(run) == before


@pytest.mark.parametrize(
    "path",
    [
        "/run.json", "/study.db", "/edit.safetensors", "/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt",
        "/report.html/../run.json", "//etc/passwd", "/report.html/../../secret.txt", "/server.py", "/..\\secret.txt",
    ],
)  # fmt: skip
def test_no_other_file_is_served(server: Server, run: Path, path: str) -> None:
    (run.parent / "secret.txt").write_text("secret")
    assert server.get(path).status == 404


def test_a_report_that_leads_out_of_the_run_is_not_served(server: Server, run: Path) -> None:
    secret = run.parent / "secret.txt"
    secret.write_text("secret")
    (run / "report.html").unlink()
    assert server.get("/report.html").status == 404
    (run / "report.html").symlink_to(secret)
    assert server.get("/report.html").status == 404


def test_a_foreign_host_is_refused(server: Server) -> None:
    for path in ("/", "/events", "/report.html"):
        assert server.get(path, host="evil.example").status == 400
        assert server.get(path, host=f"127.0.0.1.evil.example:{server.port}").status == 400
    assert server.get("/", host=f"localhost:{server.port}").status == 200


def test_it_is_read_only(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert server.get("/report.html", method=method).status == 405


def test_the_verb_says_its_address_and_ends_on_an_interrupt(run: Path) -> None:
    command = [sys.executable, "-m", "sombrero", "watch", str(run), "--port", "0"]
    process = subprocess.Popen(command, env=environment(PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    with urllib.request.urlopen(address, timeout=60) as page:
        assert b"page.js" in page.read()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) in (0, 130)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run"):
        watch(tmp_path, port=0)


def test_optuna_opens_the_study_as_it_is_and_leaves_it_so(tiny: Tiny, tmp_path: Path) -> None:
    """What ``optuna-dashboard sqlite:///RUN/study.db`` needs; a file that cannot be written proves the reading."""
    file = Path(shutil.copy(tiny.run / "study.db", tmp_path))
    before = file.read_bytes()
    os.chmod(file, 0o444)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///file:{file}?mode=ro&uri=true")
    assert study.study_name == "sombrero" and len(study.trials) == len(read_trials(tiny.run / TRIALS))
    assert study.metric_names == ["refusal_rate", "first_token_kl"]
    rates = {
        trial.number: score.rate for trial, score in zip(study.trials, read_trials(tiny.run / TRIALS), strict=True)
    }
    assert {trial.number: trial.values[0] for trial in study.trials} == rates
    assert file.read_bytes() == before
