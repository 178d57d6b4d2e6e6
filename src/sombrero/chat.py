"""Base and edited model side by side in the terminal. What is said stays in memory."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from sombrero.records import RenderedPrompt, Subject

Render = Callable[[Sequence[dict[str, str]]], RenderedPrompt]
HELP = "Type a message. /reset forgets the conversation, /quit (or Ctrl-D) ends."


def talk(console: Console, render: Render, subjects: Mapping[str, Subject], *, max_new_tokens: int) -> None:
    """Read messages until the input ends; each model keeps a conversation of its own.

    ``render`` shows a conversation to the models as they were measured: system prompt, reasoning closed.
    """
    histories: dict[str, list[dict[str, str]]] = {name: [] for name in subjects}
    console.print(HELP, style="dim")
    for message in _messages(console):
        if message == "/quit":
            return
        if message == "/reset":
            histories = {name: [] for name in subjects}
            continue
        answers = {}
        for name, subject in subjects.items():
            histories[name].append({"role": "user", "content": message})
            with console.status(f"{name} answers"):
                answers[name] = answer(subject, render(histories[name]), max_new_tokens=max_new_tokens)
            histories[name].append({"role": "assistant", "content": answers[name]})
        width = max(20, console.width // len(answers) - 1)
        console.print(Columns([Panel(Text(visible(a)), title=n, width=width) for n, a in answers.items()]))


def answer(subject: Subject, prompt: RenderedPrompt, *, max_new_tokens: int) -> str:
    """The model's greedy answer to a rendered conversation."""
    from sombrero.evaluation import generate

    with subject() as model:
        return generate(model, [prompt], max_new_tokens=max_new_tokens)[0].text


def visible(text: str) -> str:
    """Text without control characters, so that a model cannot write to the terminal; line breaks stay."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\ufffd" for c in text)


def _messages(console: Console) -> Iterator[str]:
    while True:
        try:
            message = console.input("[bold]> [/]").strip()
        except EOFError:
            return
        if message:
            yield message
