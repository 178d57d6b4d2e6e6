"""Refusals in other languages than English: rules as data (``data/refusals.toml``)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

FILE = "data/refusals.toml"


@dataclass(frozen=True)
class LanguageRules:
    """One language. ``hint``: what a sentence must hold for the rules to be worth trying."""

    language: str
    hint: re.Pattern[str]
    rules: tuple[re.Pattern[str], ...]


@cache
def language_rules() -> tuple[LanguageRules, ...]:
    """The compiled rules, which read one normalised sentence; languages are ISO 639-1 codes."""
    text = files("sombrero.evaluation").joinpath(FILE).read_text(encoding="utf-8")
    return tuple(
        LanguageRules(language, re.compile(entry["hint"]), _compiled(entry))
        for language, entry in tomllib.loads(text).items()
    )


def search_foreign(sentence: str) -> re.Match[str] | None:
    """The first refusal in any of the languages."""
    for entry in language_rules():
        if entry.hint.search(sentence):
            for rule in entry.rules:
                if found := rule.search(sentence):
                    return found
    return None


def _compiled(entry: dict[str, Any]) -> tuple[re.Pattern[str], ...]:
    """Put each piece of the language, its line breaks taken out, where a rule names it in braces."""
    rules: list[str] = entry["rules"]
    for name, piece in entry.get("pieces", {}).items():
        rules = [rule.replace("{" + name + "}", piece.replace("\n", "")) for rule in rules]
    return tuple(re.compile(rule) for rule in rules)
