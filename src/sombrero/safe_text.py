"""Foreign text on its way to a terminal or a file: what a model generates may hold control characters."""

from __future__ import annotations

import json
import re

_SUSPECT = re.compile(r"[^\x20-\x7e\n]")


def printable(text: str) -> str:
    """Text whose control characters, direction marks and lone surrogates are shown as ``\\xNN`` or ``\\uNNNN``.

    Line feeds stay. So nothing in it can move a cursor, change a title, or fail to be encoded.
    """
    return _SUSPECT.sub(lambda found: _shown(found[0]), text)


def json_text(value: object) -> str:
    """Indented JSON that is readable where it can be, with JSON's own escape for everything that is not printable.

    What JSON does not know (paths) is written as text. Only strings hold such characters, so the value is the same.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    return _SUSPECT.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"
