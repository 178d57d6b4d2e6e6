"""Marked words: what is marked on one side is not on the other, and nothing of the texts is lost."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sombrero.reports.word_changes import Part, word_changes
from sombrero.reports.wording import visible

TEXTS = st.lists(
    st.sampled_from(["red", "green", " ", "\n", ".", "blue", "  ", "é", "<b>", "\u202e"]), max_size=14
).map("".join)


def joined(parts: list[Part]) -> str:
    return "".join(text for text, _ in parts)


def kept(parts: list[Part]) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", "\0".join(text for text, changed in parts if not changed).replace("\0", " "))


@given(TEXTS, TEXTS)
def test_texts_are_whole_and_unmarked_words_are_those_of_both(before: str, after: str) -> None:
    one, other = word_changes(before, after)
    assert joined(one) == visible(before) and joined(other) == visible(after)
    assert kept(one) == kept(other)
    for parts in (one, other):
        assert all(text.strip() == text != "" for text, changed in parts if changed)
        assert all(a[1] != b[1] for a, b in pairwise(parts))


@given(TEXTS)
def test_equal_texts_have_no_marks(text: str) -> None:
    assert word_changes(text, text) == ((parts := [(visible(text), False)] if text else []), parts)


@pytest.mark.parametrize(
    ("before", "after", "gone", "new"),
    [
        ("The art is a skill.", "The art is a craft.", ["skill"], ["craft"]),
        ("I cannot help.", "Use kill.\n\nOr Ctrl.", ["I cannot help"], ["Use kill.", "Or Ctrl"]),
        ("", "All new", [], ["All new"]),
    ],
)
def test_marks(before: str, after: str, gone: list[str], new: list[str]) -> None:
    one, other = word_changes(before, after)
    assert [text for text, changed in one if changed] == gone
    assert [text for text, changed in other if changed] == new
