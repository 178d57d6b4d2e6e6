"""Overlap between prompt sets is found whatever the typing, and is named."""

from __future__ import annotations

import pytest

from sombrero.errors import PromptError
from sombrero.prompts import check_disjoint, normalised
from sombrero.records import Prompt


def prompts(prefix: str, *texts: str) -> tuple[Prompt, ...]:
    return tuple(Prompt(id=f"{prefix}-{n}", text=text) for n, text in enumerate(texts, 1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I bake?", "how do i  bake"),
        ("It’s a \tstand-up show!", "its a stand up show"),
        ("STRASSE", "straße"),
        ("ｆｕｌｌ width", "full width"),
    ],
)
def test_the_same_request_typed_otherwise(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(("one", "other"), [("?", "!"), ("What is C++?", "What is C?"), ("a b", "ab"), ("2+2", "2-2")])
def test_different_requests_stay_different(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_disjoint_sets_pass() -> None:
    check_disjoint({"map": prompts("m", "a", "b"), "search": prompts("s", "c"), "report": ()})
    check_disjoint({})
    check_disjoint({"map": prompts("m", "a", "a")})


def test_overlap_names_sets_count_and_three_ids() -> None:
    sets = {
        "map": prompts("m", "a", "b", "c", "d", "e"),
        "search": prompts("s", "z"),
        "report": prompts("r", "E!", "d", "c.", "B", "y"),
    }
    with pytest.raises(PromptError) as caught:
        check_disjoint(sets)
    message = str(caught.value)
    assert "'map' and 'report' overlap in 4 (m-2 = r-4, m-3 = r-3, m-4 = r-2)" in message
    assert "search" not in message and "m-5" not in message


def test_every_overlap_is_named() -> None:
    with pytest.raises(PromptError) as caught:
        check_disjoint({"map": prompts("m", "a"), "search": prompts("s", "a"), "report": prompts("r", "a")})
    for names in ("'map' and 'search'", "'map' and 'report'", "'search' and 'report'"):
        assert names in str(caught.value)
