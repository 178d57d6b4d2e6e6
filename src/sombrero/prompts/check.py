"""Proof that two prompt sets share no request: what is measured must not have been mapped or searched on."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import combinations

from sombrero.errors import PromptError
from sombrero.records import Prompt

N_EXAMPLES = 3


def normalised(text: str) -> str:
    """``text`` as it is compared: NFKC, casefolded, without punctuation, every run of whitespace one space.

    Dashes separate words ("stand-up" equals "stand up"). A text of nothing but punctuation keeps it, so that two such
    texts stay different.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept: list[str] = []
    for character in folded:
        category = unicodedata.category(character)
        if category == "Pd":
            kept.append(" ")
        elif not category.startswith("P"):
            kept.append(character)
    return " ".join("".join(kept).split()) or " ".join(folded.split())


def check_disjoint(sets: Mapping[str, Sequence[Prompt]]) -> None:
    """Raise when any two of ``sets`` (name -> prompts) hold the same request, compared by :func:`normalised`.

    Raises PromptError with, for every two sets that overlap: their names, the number of shared requests, and the ids
    of up to three of them.
    """
    ids = {name: _ids_by_text(prompts) for name, prompts in sets.items()}
    overlaps = [_overlap(first, ids[first], second, ids[second]) for first, second in combinations(ids, 2)]
    found = [overlap for overlap in overlaps if overlap is not None]
    if found:
        raise PromptError("; ".join(found) + "; take the shared prompts out of one of the two, or use other splits")


def _ids_by_text(prompts: Sequence[Prompt]) -> dict[str, str]:
    first_ids: dict[str, str] = {}
    for prompt in prompts:
        first_ids.setdefault(normalised(prompt.text), prompt.id)
    return first_ids


def _overlap(first: str, first_ids: Mapping[str, str], second: str, second_ids: Mapping[str, str]) -> str | None:
    shared = [text for text in first_ids if text in second_ids]
    if not shared:
        return None
    examples = ", ".join(f"{first_ids[text]} = {second_ids[text]}" for text in shared[:N_EXAMPLES])
    return f"the prompt sets {first!r} and {second!r} overlap in {len(shared)} ({examples})"
