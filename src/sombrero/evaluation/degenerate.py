"""Text that is no answer at all: empty, looping, or garbage. Conservative: lists, tables, code and poems pass."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

Fault = Literal["empty", "loop", "repetition", "garbage"]

WORD = re.compile(r"\w+")
LOOP_MIN_CHARACTERS = 60
LOOP_MIN_REPEATS = 4
LOOP_MIN_SHARE = 0.5
REPETITION_MIN_WORDS = 24
REPETITION_MIN_SHARE = 0.65
GARBAGE_MIN_CHARACTERS = 40
GARBAGE_MAX_WORD_SHARE = 0.15
GARBAGE_MIN_BROKEN_SHARE = 0.1


def find_fault(text: str) -> Fault | None:
    """What is wrong with the text as text, or None.

    - ``empty``: no word character.
    - ``loop``: the end of the text repeats one piece at least 4 times over, and these repeats are at least 60
      characters long and at least half of the text.
    - ``repetition``: 24 words or more, of whose 4-grams at least 65% repeat an earlier one.
    - ``garbage``: 40 characters or more besides spaces, fewer than 15% of them word characters, or at least 10% of
      them broken (replacement or control characters).
    """
    if WORD.search(text) is None:
        return "empty"
    if _loops(text):
        return "loop"
    words = WORD.findall(text.casefold())
    if len(words) >= REPETITION_MIN_WORDS and repeated_share(words) >= REPETITION_MIN_SHARE:
        return "repetition"
    return "garbage" if _is_garbage(text) else None


def repeated_share(tokens: list[str] | tuple[int, ...], n: int = 4) -> float:
    """Share of the n-grams that repeat an earlier one: 0 for text without repeats, or shorter than n."""
    grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return 1 - len(grams) / grams.total() if grams else 0.0


def _loops(text: str) -> bool:
    """Whether ``text`` ends in a loop, by the border table of the reversed text (Knuth, Morris and Pratt 1977).

    A prefix of length i with longest border b has the period i - b.
    """
    backwards = " ".join(text.split())[::-1]
    borders = [0] * (len(backwards) + 1)
    border = 0
    for i in range(1, len(backwards)):
        while border and backwards[i] != backwards[border]:
            border = borders[border]
        border += backwards[i] == backwards[border]
        borders[i + 1] = border
        length, period = i + 1, i + 1 - border
        if length >= max(LOOP_MIN_CHARACTERS, LOOP_MIN_SHARE * len(backwards), LOOP_MIN_REPEATS * period):
            return True
    return False


def _is_garbage(text: str) -> bool:
    characters = [c for c in text if not c.isspace()]
    if len(characters) < GARBAGE_MIN_CHARACTERS:
        return False
    words = sum(c.isalnum() for c in characters)
    # Marks carry the vowels of many scripts, so they are no sign of breakage; str.isprintable knows control characters
    broken = sum(c == "\ufffd" or (ord(c) < 0x20) for c in characters)
    return words < GARBAGE_MAX_WORD_SHARE * len(characters) or broken >= GARBAGE_MIN_BROKEN_SHARE * len(characters)
