"""The chat in a browser, on this machine alone: a Gradio page with the same commands as the terminal's."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterator
from typing import Any

from sombrero.chat.commands import describe, obey
from sombrero.chat.models import ChatModels
from sombrero.chat.turns import Histories, take_turns, visible
from sombrero.errors import SombreroError, UsageError

HOST = "127.0.0.1"
TERMINAL_ONLY = ("/save", "/quit")
"""A page in a browser writes nothing and ends nothing."""
PLACEHOLDER = "A message, or a command: /help lists them"
PANES = ("base", "edited")


def serve(models: ChatModels, *, max_new_tokens: int, port: int = 0, on_ready: Callable[[str], None]) -> None:
    """Serve the page on 127.0.0.1 until interrupted; port 0 takes a free one. ``on_ready`` is given its address.

    Raises UsageError when the extra is not installed or the port is taken.
    """
    page = make_page(models, max_new_tokens=max_new_tokens)
    address = start(page, port)
    on_ready(address)
    try:
        page.block_thread()
    finally:
        page.close()


def start(page: Any, port: int) -> str:
    """Serve the page from a thread; returns its address. Raises UsageError when the port is taken."""
    try:
        _, address, _ = page.launch(
            server_name=HOST, server_port=port or None, share=False, prevent_thread_lock=True, quiet=True,
            inbrowser=False, footer_links=[],
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"port {port} of {HOST} cannot be used: {error}; give another --port") from error
    return str(address)


def make_page(models: ChatModels, *, max_new_tokens: int) -> Any:
    """The page as Gradio's ``Blocks``. Answers are shown as text: no markup, no markdown of theirs is drawn."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import, which may already tell
    try:
        import gradio
    except ImportError as error:
        raise UsageError(f"--web needs {error.name}, which is not installed; pip install 'sombrero[gradio]'") from error

    def respond(line: str, histories: Histories) -> Iterator[tuple[Any, ...]]:
        """Values of: histories, both panes, the status line, the input."""
        line = line.strip()
        for status in _respond(models, histories, line, max_new_tokens):
            yield histories, *_panes(histories), visible(status), ""

    with gradio.Blocks(title="Sombrero chat", analytics_enabled=False) as page:
        histories = gradio.State({})
        with gradio.Row():
            shown = PANES if models.setting is not None else PANES[:1]
            panes = [
                gradio.Chatbot(
                    label=name,
                    render_markdown=False,
                    buttons=["copy"],  # and none that shares what was said
                    visible=name in shown,
                    elem_id=name,
                )
                for name in PANES
            ]
        status = gradio.Textbox(value=visible(describe(models)), label="edit", interactive=False, elem_id="status")
        line = gradio.Textbox(label="message", placeholder=PLACEHOLDER, autofocus=True, elem_id="line")
        # one at a time: all share one model, and a command must not change it within an answer
        line.submit(respond, [line, histories], [histories, *panes, status, line], concurrency_limit=1)
    return page


def _respond(models: ChatModels, histories: Histories, line: str, max_new_tokens: int) -> Iterator[str]:
    """Do what the line says; yields the status whenever there is something new to show."""
    try:
        if line == "/reset":
            histories.clear()
            yield "forgotten"
        elif line.split(" ")[0] in TERMINAL_ONLY:
            raise UsageError(f"{line.split(' ')[0]} is for the terminal: sombrero chat without --web")
        elif line.startswith("/"):
            yield obey(models, line)
        elif line:
            before = {name: list(history) for name, history in histories.items()}
            asked = {"role": "user", "content": line}
            for answers in take_turns(models, dict(before), line, max_new_tokens):
                for name, answer in answers.items():
                    said = {"role": "assistant", "content": answer}
                    histories[name] = [*before.get(name, []), asked, said]
                yield describe(models)
    except SombreroError as error:
        yield f"error: {error}"


def as_markup(text: str) -> str:
    """Text for a Chatbot, which takes it for HTML even where markdown is off: unescaped, an image would be loaded."""
    return html.escape(visible(text), quote=False)


def _panes(histories: Histories) -> tuple[list[dict[str, str]], ...]:
    return tuple(
        [{"role": said["role"], "content": as_markup(said["content"])} for said in histories.get(name, [])]
        for name in PANES
    )
