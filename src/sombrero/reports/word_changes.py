"""Which words of an answer changed: two texts side by side, cut where they differ."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import groupby

from sombrero.reports.wording import visible

Part = tuple[str, bool]
"""A piece of text, and whether the other text does not have it."""

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_EDGES = re.compile(r"(^\s+|\s+$|\s*\n\s*)")


def word_changes(before: str, after: str) -> tuple[list[Part], list[Part]]:
    """Both texts as pieces, in order. Joined they are the texts, made visible; equal texts are one unchanged piece.

    Compared word by word (Ratcliff & Obershelp's longest matching blocks). White space between two changed words
    belongs to the change; at its edges and line feeds it does not, so that nothing empty is marked.
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
    runs = groupby(zip(tokens, kept, strict=True), _is_kept)
    pieces = [("".join(token for token, _ in run), same) for same, run in runs]
    parts: list[Part] = []
    for text, same in pieces:
        found = [(text, False)] if same else [(cut, bool(cut.strip())) for cut in _EDGES.split(text) if cut]
        for cut, changed in found:
            if parts and parts[-1][1] is changed:
                parts[-1] = (parts[-1][0] + cut, changed)
            else:
                parts.append((cut, changed))
    return parts


def _is_kept(entry: tuple[str, bool]) -> bool:
    return entry[1]
