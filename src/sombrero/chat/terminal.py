"""A chat in the terminal: both answers stream side by side, or one under the other where it is narrow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sombrero.chat.commands import describe, obey
from sombrero.chat.models import ChatModels
from sombrero.chat.turns import Histories, take_turns, visible
from sombrero.errors import SombreroError, UsageError
from sombrero.progress import Progress

INTRODUCTION = "Type a message. /help lists the commands, /quit (or Ctrl-D) ends."
NARROW = 72
"""Columns below which two answers do not stand side by side."""
FRAME = 5
"""Lines of a panel's frame, the prompt and a margin: what a growing answer leaves free of the terminal."""


def talk(console: Console, models: ChatModels, *, max_new_tokens: int, progress: Progress | None = None) -> None:
    """Read messages and commands until the input ends; each model keeps a conversation of its own."""
    histories: Histories = {}
    console.print(INTRODUCTION, style="dim")
    for line in _lines(console):
        if line == "/quit":
            return
        try:
            if line == "/reset":
                histories.clear()
                _tell(console, "forgotten")
            elif line.startswith("/save"):
                _tell(console, _save(console, models, line.removeprefix("/save").strip(), progress))
            elif line.startswith("/"):
                _tell(console, obey(models, line))
            else:
                _exchange(console, models, histories, line, max_new_tokens)
        except SombreroError as error:
            console.print(f"[bold red]error:[/] {escape(visible(str(error)))}", highlight=False, soft_wrap=True)


def _exchange(console: Console, models: ChatModels, histories: Histories, message: str, max_new_tokens: int) -> None:
    """Put the message to every model, and show the answers while they grow. Ctrl-C ends them early."""
    answers: dict[str, str] = {}
    turns = take_turns(models, histories, message, max_new_tokens)
    if not console.is_terminal:
        *_, answers = turns
        for name, answer in answers.items():
            console.print(Text(f"{name}: {visible(answer)}"), soft_wrap=True)
        return
    with Live(console=console, transient=True, auto_refresh=False) as live, suppress(KeyboardInterrupt), closing(turns):
        for answers in turns:
            live.update(_side_by_side(console, answers, console.height - FRAME), refresh=True)
    if answers:
        console.print(_side_by_side(console, answers, None))


def _side_by_side(console: Console, answers: dict[str, str], height: int | None) -> RenderableType:
    """The answers in panels; with a height, the ends of those that are longer."""
    narrow = console.width < NARROW
    width = console.width if narrow else console.width // len(answers)
    if height is not None and narrow:
        height = height // len(answers) - 2
    panels = []
    for name, answer in answers.items():
        text = Text(visible(answer))
        if height is not None:
            text = Text("\n").join(text.wrap(console, max(1, width - 4))[-max(1, height) :])
        panels.append(Panel(text, title=name))
    if narrow:
        return Group(*panels)
    grid = Table.grid(expand=True)
    for _ in panels:
        grid.add_column(ratio=1)
    grid.add_row(*panels)
    return grid


def _save(console: Console, models: ChatModels, argument: str, progress: Progress | None) -> str:
    if not argument:
        raise UsageError("/save takes a new folder; for example /save my-model")
    if console.is_terminal:
        question = f"Write the whole model with this edit ({describe(models)}) to {argument}? [y/N] "
        console.print(escape(visible(question)), end="", highlight=False, soft_wrap=True)
        if console.input().strip().lower() not in ("y", "yes"):
            return "nothing written"
    return f"saved: {models.save(Path(argument).expanduser(), progress)}"


def _tell(console: Console, text: str) -> None:
    console.print(Text(visible(text), style="dim"), soft_wrap=True)


def _lines(console: Console) -> Iterator[str]:
    while True:
        try:
            line = console.input("[bold]> [/]" if console.is_terminal else "").strip()
        except EOFError:
            return
        if line:
            yield line
