"""What a run shows in a terminal while it goes on, and through a pipe."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from rich.console import Console

from sombrero.config import SearchConfig
from sombrero.console import Terminal, front_table
from sombrero.progress import PROGRESS, Noted
from sombrero.records import EditParameters, LayerProfile, TrialScore

PARAMETERS = EditParameters("project", "som", 1, (0, 2), {"attention": LayerProfile(0, 1, 1.0)})
SEARCH = SearchConfig(trials=9, max_kl=1.0)


def score(number: int, refusals: int, kl: float) -> TrialScore:
    return TrialScore(number, PARAMETERS, "generated", 10, refusals=refusals, kl=kl)


SCORES = (score(0, 8, 0.1), score(1, 9, 0.4), score(2, 2, 0.3))
"""The second is beaten by the others."""


def search(*, is_terminal: bool) -> str:
    """What a search of these trials writes, as it is sent to the terminal."""
    console = Console(file=io.StringIO(), width=100, height=30, force_terminal=is_terminal, color_system=None)
    terminal = Terminal(console, SEARCH)
    with terminal.stage("search", 9) as advance:
        for n in range(1, 4):
            advance(1)
            terminal.trial(SCORES[n - 1], SCORES[:n])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_front_grows_below_the_bar() -> None:
    text = search(is_terminal=True)
    titles = re.findall(r"Front: (\d) of the (\d) of 9 trials so far", text)
    assert titles[-1] == ("2", "3")
    assert "3/9" in text  # the bar counts what is done


def test_the_table_holds_the_front_alone_and_marks_the_best() -> None:
    table = front_table(SCORES, SEARCH)
    assert table is not None
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    found = rows(console.file.getvalue())[2:]
    assert [row[:3] for row in found] == [["best", "2", "2/10"], ["0", "8/10", "0.100"]]
    assert front_table((), SEARCH) is None


def test_a_pipe_gets_a_line_for_each_trial_and_stage() -> None:
    text = search(is_terminal=False)
    assert "\x1b" not in text and "Front" not in text
    lines = rows(text)
    assert [line[1:3] if line[0] == "★" else line[:2] for line in lines[:3]] == [["trial", str(n)] for n in range(3)]
    assert lines[-1][0] == "search:" and len(lines) == 4


def test_a_stage_within_another_shares_its_display_and_is_told_in_its_turn(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100, height=30, force_terminal=True, color_system=None)
    noted = Noted(Terminal(console), tmp_path)
    told = []
    with noted.stage("outer", 2) as advance:
        advance(1)
        with noted.stage("inner"):
            told.append(json.loads((tmp_path / PROGRESS).read_bytes())["stage"])
        told.append(json.loads((tmp_path / PROGRESS).read_bytes())["stage"])
        advance(1)
    told.append(json.loads((tmp_path / PROGRESS).read_bytes())["stage"])
    assert told == ["inner", "outer", None]
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "inner: " in text and "outer: " in text and "/?" not in text


def test_sentences_break_between_words_on_a_terminal_alone() -> None:
    sentence = "one sentence that is longer than the terminal is wide"
    for is_terminal, longest in ((True, 20), (False, len(sentence))):
        console = Console(file=io.StringIO(), width=20, force_terminal=is_terminal, color_system=None)
        Terminal(console).say(sentence)
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert " ".join(line.strip() for line in lines) == sentence
        assert max(map(len, lines)) <= longest
