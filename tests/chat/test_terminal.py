"""A chat in a terminal, in a narrow one, and through a pipe."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from sombrero.chat import terminal
from tests.commands import Command, Tiny, environment

HOSTILE = "red \x1b[31m title \x1b]0;x\x07 tab\tend \u202e"


class Recorded:
    """Models whose answers are given."""

    names = ("base", "edited")

    def answer(self, name: str, _history: object, *, max_new_tokens: int) -> Iterator[str]:
        yield from (f"{name} {HOSTILE}"[:n] for n in range(1, max_new_tokens))


@pytest.fixture
def sombrero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def shown(width: int, *, is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """What an exchange with :class:`Recorded` leaves, colours taken away."""
    monkeypatch.setattr("builtins.input", iter(["Hello", "/quit"]).__next__)
    console = Console(file=io.StringIO(), width=width, height=24, force_terminal=is_terminal, color_system=None)
    monkeypatch.setattr(console, "input", lambda *_: input())
    terminal.talk(console, Recorded(), max_new_tokens=60)  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 120])
def test_answers_cannot_steer_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(width, is_terminal=True, monkeypatch=monkeypatch)
    ours = re.sub(r"\x1b\[(\?25[lh]|\d*[AK]|0?m)|\r", "", text)  # what Rich moves the cursor with
    assert not {"\x1b", "\x07", "\t", "\u202e"} & set(ours)
    assert r"\x1b" in ours


def test_wide_terminals_have_two_columns_and_narrow_ones_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def last(width: int) -> list[str]:
        return shown(width, is_terminal=True, monkeypatch=monkeypatch).splitlines()

    assert any(" base " in line and " edited " in line for line in last(120))
    assert not any(" base " in line and " edited " in line for line in last(40))


def test_a_pipe_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(200, is_terminal=False, monkeypatch=monkeypatch).splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["base", "edited"]
    assert not any("\x1b" in line or "│" in line for line in lines)


def test_commands_through_a_pipe(sombrero: Command, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("Hello", "/strength 0", "/reset", "Hello", "/nothing", "/base off", "Hello", "/help")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    outcome = sombrero("chat", tiny.run, "--max-new-tokens", 6)
    assert outcome.code == 0
    base, edited = (re.findall(rf"^{name}: (.*)$", outcome.out, re.M) for name in ("base", "edited"))
    assert len(base) == 2 and len(edited) == 3
    assert edited[1] == base[1]  # strength 0
    assert "error: there is no command /nothing" in outcome.out
    assert "/units 0+2" in outcome.out


def test_saving_asks_on_a_terminal_and_no_is_the_default(tiny: Tiny, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sombrero", "chat", str(tiny.run), "--max-new-tokens", "4"]
    process = subprocess.Popen(
        command, env=environment(COLUMNS="100", TERM="xterm"), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = Typist(ours)
    seen.wait_for("Type a message")
    seen.type("Hello")
    seen.wait_for("base", "edited")
    seen.type(f"/save {tmp_path / 'out'}")
    seen.wait_for("[y/N]")
    seen.type("")
    seen.wait_for("nothing written")
    seen.type("/quit")
    assert process.wait(timeout=60) == 0
    os.close(ours)
    assert not (tmp_path / "out").exists()


class Typist:
    """The other end of a pseudo-terminal."""

    def __init__(self, end: int) -> None:
        self._end = end
        self.text = ""

    def type(self, line: str) -> None:
        self.text = ""
        os.write(self._end, line.encode() + b"\n")

    def wait_for(self, *expected: str) -> None:
        deadline = time.monotonic() + 120
        while not all(part in self.text for part in expected):
            assert time.monotonic() < deadline, f"no {expected} in {self.text!r}"
            self.text += os.read(self._end, 65536).decode(errors="replace")
