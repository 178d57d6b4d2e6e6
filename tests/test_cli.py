"""The command line: what it parses, what it prints, and the code that it exits with."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sombrero import cli, verbs
from sombrero.config import RunConfig, load_config
from sombrero.errors import UsageError
from sombrero.flags import SKIPPED
from sombrero.run_folder import read_config
from sombrero.session import Role, load_role
from tests.commands import Command, Tiny, as_flags, environment, finished_run

VERBS = ("run", "map", "search", "bake", "measure", "compare", "report", "chat", "inspect", "verify", "diff", "watch")
OTHER_VALUES: dict[str, dict[str, Any]] = {
    "model": {
        "revision": "abc", "dtype": "float32", "device": "cpu", "trust_remote_code": True, "cache": "some/cache",
        "quantization": "bnb-8bit", "device_map": "auto", "max_memory": "cpu=3GiB", "offload_folder": "some/disk",
        "architecture_file": "own.json",
    },
    "prompts": {
        "harmful": "a.txt", "harmless": "b-{split}.txt", "borderline": "c:train", "contrast": "d.csv",
        "column": "goal", "limit": 7,
        "search_limit": 4, "report_limit": 5,
        "system_prompt": "Be kind.", "max_tokens": 99,
    },
    "states": {
        "batch_tokens": 128, "key_positions": 3, "key_answer_tokens": 2, "guards": 11, "winsorize": 0.99,
    },
    "map": {
        "n_rows": 2, "n_columns": 3, "lattice": "rectangular", "toroidal": True, "rule": "online",
        "neighbourhood": "mexican_hat", "initialization": "pca", "sigma": 0.5, "learning_rate": 0.1,
        "n_steps": 9, "holdout": 0.3, "projected": True, "layer_rule": "log-odds", "layer_max_kl": 0.4,
        "permutations": 8,
    },
    "search": {
        "goal": "calibrate", "trials": 9, "rules": ["project", "compose"], "max_units": 2, "max_refusals": 0.1,
        "keep_true_refusals": 0.9, "patience": 3, "workers": 2, "warm_from": "runs/x",
        "max_kl": 0.3, "max_leak": 0.7,
        "finalists": 1, "storage": "sqlite:///x.db",
    },
    "evaluation": {
        "detector": ["substring", "classifier"], "markers": "m.txt",
        "max_new_tokens": 5, "sequence_tokens": 6, "batch_size": 7,
        "thinking": "off", "keep_responses": True, "samples": 0, "min_base_refusals": 0.2,
        "classifier": "some/classifier", "classifier_labels": "LABEL_0=answer,LABEL_1=refusal", "classifier_pair": True,
        "judge_url": "http://127.0.0.1:9/v1", "judge_model": "some/judge", "judge_key_variable": "SOME_KEY",
        "judge_remote": True, "judge_concurrency": 2, "judge_timeout": 5.5, "judge_retries": 1,
        "judge_per_minute": 30.0, "judge_outage": "unknown", "judge_cache": "labels",
    },
    "bake": {"packed": "carry", "accept_requantization_error": True},
}  # fmt: skip


@pytest.fixture
def sombrero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return finished_run(tmp_path_factory.mktemp("tiny"))


def as_toml(sections: dict[str, dict[str, Any]]) -> str:
    """The same settings as TOML."""
    lines: list[str] = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    return "\n".join(lines)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that ``verbs.run`` is called with, instead of running."""
    found: list[RunConfig] = []

    def run(config: RunConfig, *_: Any, **__: Any) -> dict[str, Any]:
        found.append(config)
        return {}

    monkeypatch.setattr(verbs, "run", run)
    monkeypatch.delenv(cli.CACHE_VARIABLE, raising=False)
    return found


# What it parses


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = CliRunner().invoke(cli.app, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output and len(result.output.splitlines()) > 8


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(cli.app, ["--version"]).output.startswith("sombrero 0.")


def test_flags_and_toml_are_two_faces_of_one_configuration(captured: list[RunConfig], tmp_path: Path) -> None:
    known = {
        (section, name)
        for section in OTHER_VALUES
        for name in RunConfig.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
    }
    assert {(section, name) for section, values in OTHER_VALUES.items() for name in values} == known - SKIPPED
    (tmp_path / "run.toml").write_text("seed = 5\n" + as_toml(OTHER_VALUES))
    runner = CliRunner()
    by_flags = runner.invoke(cli.app, ["run", "x/y", "--json", "--seed", "5", *as_flags(OTHER_VALUES)])
    by_file = runner.invoke(cli.app, ["run", "x/y", "--json", "--config", str(tmp_path / "run.toml")])
    assert (by_flags.exit_code, by_file.exit_code) == (0, 0), by_flags.output + by_file.output
    assert captured[0] == captured[1]
    defaults, found = RunConfig(), captured[0]
    same = [
        (section, name)
        for section, values in OTHER_VALUES.items()
        for name in values
        if getattr(getattr(defaults, section), name) == getattr(getattr(found, section), name)
    ]
    assert same == []
    assert (found.seed, found.model.source) == (5, "x/y")
    assert found.evaluation.detectors == ("substring", "classifier")


def test_a_flag_replaces_all_detectors_of_an_earlier_configuration() -> None:
    earlier = load_config(None, {"evaluation": {"detector": "opening, mine"}})
    assert earlier.evaluation.detectors == ("opening", "mine")
    dumped = earlier.model_dump()["evaluation"]
    assert load_config(None, {"evaluation": dumped}) == earlier
    assert load_config(None, {"evaluation": {**dumped, "detector": ["mine"]}}).evaluation.detectors == ("mine",)
    for wrong, message in ((["opening", "opening"], "twice"), (["opening", ""], "empty one"), ([], "no detector")):
        with pytest.raises(UsageError, match=message):
            load_config(None, {"evaluation": {"detector": wrong}})


def test_flags_win_over_the_file_and_the_rest_of_it_stays(captured: list[RunConfig], tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[search]\ntrials = 9\nfinalists = 2\n")
    arguments = ["run", "x/y", "--json", "--trials", "11", "-c", str(tmp_path / "run.toml")]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert (captured[0].search.trials, captured[0].search.finalists) == (11, 2)


def test_code_of_a_model_is_run_only_when_asked_for(captured: list[RunConfig]) -> None:
    for arguments in ([], ["--trust-remote-code"], ["--no-trust-remote-code"]):
        CliRunner().invoke(cli.app, ["run", "x/y", "--json", *arguments])
    assert [config.model.trust_remote_code for config in captured] == [False, True, False]


def test_the_cache_of_the_embedded_model_may_come_from_the_environment(
    captured: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cli.CACHE_VARIABLE, "from/environment")
    for arguments in ([], ["--cache", "from/flag"]):
        CliRunner().invoke(cli.app, ["run", "embedded", "--json", *arguments])
    assert [config.model.cache for config in captured] == [Path("from/environment"), Path("from/flag")]


# What it prints


def test_json_of_every_verb_parses(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    run = json.loads(sombrero("run", tiny.run, "--json").out)
    assert run == json.loads(json.dumps(tiny.summary))
    assert json.loads(sombrero("map", tiny.run, "--json").out)["base_refusals"]["n"] == 5
    shown = sombrero("map", tiny.run).out
    assert shown.count("hold: ") + shown.count("holds: ") == 4 and "k-means" in shown
    search = json.loads(sombrero("search", tiny.run, "--json").out)
    assert search["trials"] == 3 and search["front"]
    inspected = json.loads(sombrero("inspect", tiny.model, "--json").out)
    assert (inspected["layers"], inspected["hidden_size"]) == (4, 32)
    baked = json.loads(sombrero("bake", tiny.run, "--trial", 0, "--out", tmp_path / "baked", "--json").out)
    assert baked["trial"] == 0 and (tmp_path / "baked" / "model.safetensors").is_file()
    card = (tmp_path / "baked" / "README.md").read_text(encoding="utf-8")
    assert "Measured while the edit was searched for" in card and "this checkpoint after it was written" in card


def test_a_model_is_measured_as_the_run_measured_it(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    """On the prompts that the run reported on: of whole files, more would be measured."""
    names = {"--device", "--detector", "--markers", "--max-new-tokens", "--sequence-tokens"}
    flags = [part for i, flag in enumerate(tiny.flags) if flag in names for part in (flag, tiny.flags[i + 1])]
    settings = read_config(tiny.run)
    roles: tuple[Role, ...] = ("harmful", "harmless", "borderline")
    for role in roles:
        prompts = load_role(settings.prompts, role, settings.seed)["report"]
        path = tmp_path / f"{role}.txt"
        path.write_text("".join(f"{prompt.text}\n" for prompt in prompts), encoding="utf-8")
        flags += [f"--{role}", str(path)]
    outcome = sombrero("measure", tiny.run / "model", "--against", tiny.model, *flags, "--json")
    found = json.loads(outcome.out)
    # the random model answers with any byte: none of them reaches the terminal as it is
    assert found["samples"] and all(char == "\n" or char.isprintable() for char in outcome.out)
    assert {key: found[key] for key in ("refusals", "false_refusals", "labels")} == {
        key: tiny.summary["baked"][key] for key in ("refusals", "false_refusals", "labels")
    }
    assert found["kl"]["first_token"] == pytest.approx(tiny.summary["baked"]["kl"]["first_token"], rel=1e-4)
    alone = json.loads(sombrero("measure", tiny.model, *flags, "--json").out)
    assert alone["kl"] is None and alone["refusals"] == tiny.summary["base"]["refusals"]
    assert found["base"]["refusals"] == tiny.summary["base"]["refusals"]
    assert found["paired"]["refusals"] == tiny.summary["paired"]["baked"]["refusals"]


def test_a_measurement_is_printed_for_people_and_written(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    names = {"--device", "--harmful", "--harmless", "--borderline", "--detector", "--markers", "--max-new-tokens"}
    flags = [part for i, flag in enumerate(tiny.flags) if flag in names for part in (flag, tiny.flags[i + 1])]
    flags += ["--report-limit", "3"]
    outcome = sombrero("measure", tiny.run / "model", "--against", tiny.model, *flags, "--out", tmp_path / "out")
    assert outcome.code == 0
    assert "McNemar p =" in outcome.out and "measurement.html" in outcome.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"measurement.json", "measurement.html"}
    unknown = sombrero("measure", tiny.model, *flags, "--tasks", "no_such_task", "--task-path", tmp_path)
    assert unknown.code == 2 and ("no_such_task" in unknown.err or "sombrero[lm-eval]" in unknown.err)


def test_people_get_tables(sombrero: Command, tiny: Tiny) -> None:
    outcome = sombrero("run", tiny.run)
    base = tiny.summary["base"]["refusals"]
    assert outcome.code == 0
    assert "refusals on harmful prompts" in outcome.out and f"{base['count']}/{base['n']}" in outcome.out
    assert "report.html" in outcome.out
    assert "front" in sombrero("search", tiny.run).out
    assert "LlamaForCausalLM" in sombrero("inspect", tiny.model).out
    assert sombrero("report", tiny.run).out.strip() == str(tiny.run / "report.html")


def test_flags_continue_an_earlier_run(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    flags = (*tiny.flags, "--trials", 1)
    assert sombrero("search", tiny.model, *flags, "--out", tmp_path / "run").code == 0
    outcome = sombrero("search", tmp_path / "run", "--trials", 2, "--json")
    assert json.loads(outcome.out)["trials"] == 2


def test_an_interrupt_exits_with_130_and_says_what_is_kept(tiny: Tiny, tmp_path: Path) -> None:
    trials = tmp_path / "run" / "trials.jsonl"
    command = [sys.executable, "-m", "sombrero", "run", str(tiny.model), *tiny.flags, "--trials", "10000"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")], env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 90
    while not trials.is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert trials.is_file()
    assert process.returncode == 130
    assert b"Interrupted. Finished stages and trials are kept" in err
    assert b"Traceback" not in err


# Chat


def test_chat_reads_a_pipe_to_its_end(sombrero: Command, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n\n/reset\nTake the key of Ann\n"))
    outcome = sombrero("chat", tiny.model, "--device", "cpu", "--max-new-tokens", 6)
    assert outcome.code == 0
    assert outcome.out.count("base") == 2 and "edited" not in outcome.out
    assert not {"\x1b", "\x07", "\x06", "\x14"} & set(outcome.out)


def test_chat_shows_base_and_edited_side_by_side_and_writes_nothing(tiny: Tiny) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny.run.rglob("*")}
    command = [sys.executable, "-m", "sombrero", "chat", str(tiny.run), "--max-new-tokens", "6"]
    result = subprocess.run(
        command, env=environment(), input="Hello\n/quit\nHello\n", capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("base") == result.stdout.count("edited") == 1
    assert {path: path.stat().st_mtime_ns for path in tiny.run.rglob("*")} == before
