"""Strings from outside, made safe to stand in YAML front matter and in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

_PUNCTUATION = re.compile(r"([\\`*_{}\[\]#|!~$@^=]|:(?=//))")
_LINE_START = re.compile(r"^([-+]|\d+(?=[.)]))")
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def one_line(text: object) -> str:
    """Return ``text`` on one line; runs of what does not print (controls, marks that reorder text) become one space."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())


def yaml_string(text: object) -> str:
    """Return ``text`` as a double-quoted YAML scalar on one line (of printable text, JSON's quoting is YAML's)."""
    return json.dumps(one_line(text), ensure_ascii=False)


def plain(text: object) -> str:
    """Return ``text`` as Markdown that renders as itself: no markup, HTML, link or mention."""
    safe = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    safe = _PUNCTUATION.sub(r"\\\1", safe)
    safe = re.sub(r"\bwww\.", r"www\\.", safe, flags=re.IGNORECASE)
    return _LINE_START.sub(lambda match: match[1] + "\\" if match[1].isdigit() else "\\" + match[1], safe)


def code(text: object) -> str:
    """Return ``text`` as a Markdown code span, longer fenced than any run of backticks in it; safe in a table too."""
    safe = one_line(text).replace("|", "\u2223") or "-"
    fence = "`" * (_longest_run(safe) + 1)
    pad = " " if safe.startswith("`") or safe.endswith("`") else ""
    return f"{fence}{pad}{safe}{pad}{fence}"


def fenced(text: object, language: str = "") -> str:
    """Return ``text`` as a fenced code block that nothing in it can close."""
    lines = "\n".join(_printable(line) for line in str(text).splitlines())
    fence = "`" * max(3, _longest_run(lines) + 1)
    return f"{fence}{language}\n{lines}\n{fence}"


def _printable(line: str) -> str:
    """Return one line with its spacing kept and characters that do not print replaced by spaces."""
    return "".join(char if char.isprintable() else " " for char in line)


def hub_id(source: str) -> str | None:
    """Return ``source`` when it is a hub id (``owner/name``), else None."""
    return source if _HUB_ID.fullmatch(source) and ".." not in source and "--" not in source else None


def base_license(readme: str) -> Mapping[str, str]:
    """Return the license keys (``license``, ``license_name``, ``license_link``) of a model card's front matter.

    Reads top-level scalars, and a list of one, line by line: a card is not trusted with a YAML parser. A value that is
    no license id is dropped.
    """
    match = _FRONT_MATTER.match(readme.lstrip("\ufeff"))
    found: dict[str, str] = {}
    if match is None:
        return found
    for key in ("license", "license_name", "license_link"):
        entry = re.search(rf"^{key}:[ \t]*(?:\r?\n[ \t]*-[ \t]+)?(\S[^\r\n]*)$", match[1], re.MULTILINE)
        value = "" if entry is None else one_line(re.sub(r"\s+#.*$", "", entry[1])).strip("\"'")
        if value and (key != "license" or _LICENSE.fullmatch(value)):
            found[key] = value
    return found if "license" in found else {}


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
