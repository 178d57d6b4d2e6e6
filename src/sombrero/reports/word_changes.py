"""Which words of an answer changed: two texts side by side, cut where they differ."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from sombrero.reports.wording import visible

Part = tuple[str, bool]
"""A piece of text, and whether the other text does not have it."""

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")


def word_changes(before: str, after: str) -> tuple[list[Part], list[Part]]:
    """Both texts as pieces, in order. Joined they are the texts, made visible; equal texts are one unchanged piece.

    Compared word by word (Ratcliff & Obershelp's longest matching blocks). White space alone between two changed words
    counts as changed: what it joins was not kept.
    """
    one, other = _TOKEN.findall(visible(before)), _TOKEN.findall(visible(after))
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    kept_one, kept_other = [False] * len(one), [False] * len(other)
    for block in blocks:
        if "".join(one[block.a : block.a + block.size]).strip() or block.size in (len(one), len(other)):
            kept_one[block.a : block.a + block.size] = [True] * block.size
            kept_other[block.b : block.b + block.size] = [True] * block.size
    return _parts(one, kept_one), _parts(other, kept_other)


def _parts(tokens: list[str], kept: list[bool]) -> list[Part]:
    parts: list[Part] = []
    for token, same in zip(tokens, kept, strict=True):
        if parts and parts[-1][1] is not same:
            parts[-1] = (parts[-1][0] + token, not same)
        else:
            parts.append((token, not same))
    return parts
