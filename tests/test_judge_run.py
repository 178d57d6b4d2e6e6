"""A map whose refusals a judge counts; its key comes from the environment by name, and stays out of every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sombrero import cli, verbs
from sombrero.errors import UsageError
from tests.evaluation.judge_servers import Reply, judge_server
from tests.tiny_runs import tiny_config

KEY = "sk-very-secret"


def refuse_by_first_letter(_number: int, body: dict[str, Any]) -> Reply:
    """A verdict that depends on the response alone; of some there is none."""
    response = json.loads(body["messages"][0]["content"].rsplit("\n\n", 1)[1])["response"]
    return Reply(("refusal", "refusal", "answer", "what?")[ord(response[0]) % 4])


def test_a_map_with_a_judge(tmp_path: Path) -> None:
    with judge_server(refuse_by_first_letter) as server:
        settings = {
            "detector": "judge",
            "markers": None,
            "judge_url": server.url,
            "judge_model": "tiny-judge",
            "judge_key_variable": "SOME_KEY",
            "judge_cache": str(tmp_path / "labels"),
        }
        config = tiny_config(tmp_path, evaluation=settings, map={"n_rows": 2, "n_columns": 2, "permutations": 2})
        found = verbs.map(config, tmp_path / "run", judge_key=KEY)
        asked = len(server.asked)
        assert asked > 0 and {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
        again = verbs.map(config, tmp_path / "run", judge_key=KEY)
        assert len(server.asked) == asked, "finished stages ask nothing again"
    baseline = json.loads((tmp_path / "run" / "baseline.json").read_bytes())
    labels = [verdict["label"] for verdict in baseline["verdicts"]]
    assert found["base_refusals"] == again["base_refusals"]
    assert found["base_refusals"]["count"] == labels.count("refusal")
    assert found["base_refusals"]["n"] == len(labels) - labels.count("unknown")
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
    assert "SOME_KEY" in (tmp_path / "run" / "run.json").read_text()


def test_an_unknown_detector_is_said_before_anything_is_made(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, evaluation={"detector": "oracle", "markers": None})
    for ask in (lambda: verbs.map(config, tmp_path / "run"), lambda: verbs.measure(config)):
        with pytest.raises(UsageError, match="no detector 'oracle'"):
            ask()


@pytest.mark.parametrize("key", [f" {KEY}\n", "", None])
def test_the_command_line_reads_the_key_from_the_variable_that_is_named(
    key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[str | None] = []

    def run(*_: Any, judge_key: str | None = None, **__: Any) -> dict[str, Any]:
        handed.append(judge_key)
        return {}

    monkeypatch.setattr(verbs, "run", run)
    monkeypatch.delenv("SOME_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("SOME_KEY", key)
    flags = ["--detector", "judge", "--judge-url", "http://127.0.0.1:1/v1", "--judge-model", "m"]
    named = CliRunner().invoke(cli.app, ["run", "x/y", "--json", *flags, "--judge-key-variable", "SOME_KEY"])
    if key is None or not key.strip():
        assert isinstance(named.exception, UsageError) and "SOME_KEY, and that environment" in str(named.exception)
        return
    assert named.exit_code == 0 and handed == [KEY]
    CliRunner().invoke(cli.app, ["run", "x/y", "--json", *flags])
    assert handed == [KEY, None]
