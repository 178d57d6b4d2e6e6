"""What the command line refuses: wrong usage exits with 2, a failure with 1 and a message that says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.commands import Command, Tiny, environment, finished_run
from tests.tiny_models import save_tiny


@pytest.fixture
def sombrero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return finished_run(tmp_path_factory.mktemp("tiny"))


# What is wrong usage: exit code 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument"),
        (["dance"], "No such command"),
        (["run", "x/y", "--trails", "3"], "No such option"),
        (["run", "x/y", "--trials", "many"], "--trials"),
        (["run", "x/y", "--trials", "0"], "search.trials: Input should be greater than or equal to 1"),
        (["run", "x/y", "--rules", "magic"], "search.rules.0"),
        (["run", "x/y", "--detector", "substring"], "needs markers = FILE"),
        (["run", "x/y", "--config", "none.toml"], "none.toml"),
    ],
)
def test_wrong_usage_exits_with_2(sombrero: Command, arguments: list[str], message: str) -> None:
    outcome = sombrero(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_an_unknown_key_of_the_file_exits_with_2(sombrero: Command, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[search]\ntrails = 9\n")
    outcome = sombrero("run", "x/y", "-c", tmp_path / "run.toml")
    assert outcome.code == 2 and "search.trails" in outcome.err


def test_a_run_folder_takes_no_other_folder_and_no_file(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("seed = 1\n")
    for arguments in (("--out", tmp_path / "other"), ("--config", tmp_path / "run.toml")):
        outcome = sombrero("run", tiny.run, *arguments)
        assert outcome.code == 2 and "leave it out" in outcome.err


# What fails: exit code 1 and a message that says why


def spoil(folder: Path, how: str) -> Path:
    """Take from a good checkpoint what ``how`` names."""
    save_tiny("llama", folder)
    if how == "tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    elif how == "chat template":
        (folder / "chat_template.jinja").unlink()
    elif how == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif how == "config":
        (folder / "config.json").unlink()
    elif how == "truncated":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[:-100])
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("tokenizer", "has no tokenizer"),
        ("chat template", "has no chat template"),
        ("pickle", "has pickle weights only (pytorch_model.bin)"),
        ("config", "has no config.json"),
        ("truncated", "model.safetensors"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "measure"])
def test_a_checkpoint_that_lacks_something_exits_with_1(
    sombrero: Command, tiny: Tiny, tmp_path: Path, how: str, message: str, verb: str
) -> None:
    out = ("--out", tmp_path / "out") if verb == "run" else ()
    flags = tiny.flags if verb == "run" else ("--device", "cpu")
    outcome = sombrero(verb, spoil(tmp_path / "model", how), *out, *flags)
    assert outcome.code == 1
    assert message in outcome.err or (how, verb) == ("truncated", "measure")  # it says "the weights of ..." instead
    assert "Traceback" not in outcome.err and outcome.out == ""


def test_a_folder_that_is_missing_exits_with_1(sombrero: Command, tmp_path: Path) -> None:
    outcome = sombrero("run", tmp_path / "none", "--out", tmp_path / "out")
    assert outcome.code == 1 and "no folder" in outcome.err


def test_an_architecture_that_is_not_described_exits_with_1(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    save_undescribed(tmp_path / "model")
    for verb in ("run", "inspect"):
        more = ("--out", tmp_path / "out", *tiny.flags) if verb == "run" else ()
        outcome = sombrero(verb, tmp_path / "model", *more)
        assert outcome.code == 1
        assert "the architecture GPTNeoXForCausalLM is not described. Closest family" in outcome.err


def save_undescribed(folder: Path) -> None:
    """A checkpoint of a class that no architecture file names."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from tests.tiny_models import VOCAB_SIZE, tiny_tokenizer

    config = GPTNeoXConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "holds no prompts"),
        ("Take it\nBring it\nTake  It\nLift it\nDrop it\n", "has the same text twice, in"),
        ("Take it\nBring it\n", "too few to be cut"),
        ("Take it\nBring it\nPaint the wall for Ann.\nDrop it\n", "overlap in 1"),
    ],
)
def test_prompt_files_that_cannot_be_used_exit_with_1(
    sombrero: Command, tiny: Tiny, tmp_path: Path, lines: str, message: str
) -> None:
    (tmp_path / "prompts.txt").write_text(lines)
    flags = (*tiny.flags, "--harmful", tmp_path / "prompts.txt", "--out", tmp_path / "out")
    outcome = sombrero("run", tiny.model, *flags)
    assert outcome.code == 1
    assert message in " ".join(outcome.err.split())


def test_a_folder_with_another_configuration_exits_with_1(sombrero: Command, tiny: Tiny) -> None:
    outcome = sombrero("run", tiny.run, "--map-n-rows", 5)
    assert outcome.code == 1
    assert "map.n_rows: 2 there, 5 now" in outcome.err
    outcome = sombrero("run", tiny.model, *tiny.flags, "--seed", 4, "--out", tiny.run)
    assert outcome.code == 1
    assert "seed: 0 there, 4 now" in outcome.err


def test_what_is_not_a_run_has_no_report(sombrero: Command, tmp_path: Path) -> None:
    outcome = sombrero("report", tmp_path)
    assert outcome.code == 1 and "there is no run in" in outcome.err


def test_a_trial_that_is_not_there_cannot_be_baked(sombrero: Command, tiny: Tiny) -> None:
    outcome = sombrero("bake", tiny.run, "--trial", 77)
    assert outcome.code == 2 and "it has 0 to 2" in outcome.err


def test_a_bake_replaces_no_checkpoint_of_somebody_elses(sombrero: Command, tiny: Tiny, tmp_path: Path) -> None:
    other = save_tiny("llama", tmp_path / "other", seed=9)
    before = load_file(other / "model.safetensors")
    outcome = sombrero("bake", tiny.run, "--out", other)
    assert outcome.code == 1 and "is taken" in outcome.err
    after = load_file(other / "model.safetensors")
    assert all(after[name].equal(tensor) for name, tensor in before.items())


def test_errors_cannot_write_to_the_terminal(sombrero: Command, tmp_path: Path) -> None:
    """Names come from users and files: control characters are shown, markup is text."""
    outcome = sombrero("run", "./no\x1b]0;owned\x07/[red]such[/red]\x9b31m", "--out", tmp_path / "out")
    assert outcome.code == 1
    assert "\\x1b" in outcome.err and "[red]such[/red]" in outcome.err
    assert not {"\x1b", "\x07", "\x9b"} & set(outcome.err)


def test_an_unknown_id_offline_exits_with_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sombrero", "run", "nobody/no-such-model", "--out", str(tmp_path / "out")]
    env = environment(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "cannot find or fetch 'nobody/no-such-model'" in result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
