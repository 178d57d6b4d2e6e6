"""A turn of a chat: the message is put to every model, and the answers grow together."""

from __future__ import annotations

from collections.abc import Generator

from sombrero.chat.models import ChatModels
from sombrero.safe_text import printable

Histories = dict[str, list[dict[str, str]]]
"""Each model's own conversation, by its name."""


def take_turns(
    models: ChatModels, histories: Histories, message: str, max_new_tokens: int
) -> Generator[dict[str, str], None, None]:
    """Yield all answers so far, by name, after each round: one token of every model that is not done.

    The histories are brought up to date with what was yielded last, also when the reader stops early.
    """
    asked = {name: [*histories.get(name, []), {"role": "user", "content": message}] for name in models.names}
    streams = {name: models.answer(name, history, max_new_tokens=max_new_tokens) for name, history in asked.items()}
    answers = dict.fromkeys(asked, "")
    try:
        while streams:
            for name in list(streams):
                text = next(streams[name], None)
                if text is None:
                    del streams[name]
                else:
                    answers[name] = text
            yield dict(answers)
    finally:
        if any(answers.values()) or not streams:
            for name, answer in answers.items():
                histories[name] = [*asked[name], {"role": "assistant", "content": answer}]


def visible(text: str) -> str:
    """Text that a model cannot steer a terminal with: line breaks and tabs stay, other control characters do not."""
    return printable(text.expandtabs(4))
