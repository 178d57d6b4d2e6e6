"""The proofs of every described architecture; the table of them that is committed says what they give."""

from __future__ import annotations

import pytest

from sombrero.architectures import known_classes
from tests.contracts.family_table import DOCUMENT, render_row
from tests.contracts.proofs import ACCOUNTING, LEAK, LIVE_BAKED, N_TOKENS, RULES, prove
from tests.tiny_architectures import TINY

MOVED = 0.05
"""Least change of a log-prob by an edit: less would prove nothing by its agreement."""


@pytest.mark.parametrize("name", TINY)
def test_the_writers_account_for_every_layer(name: str) -> None:
    assert prove(name).accounting <= ACCOUNTING


@pytest.mark.parametrize("name", TINY)
def test_live_equals_baked_by_every_rule_or_the_rule_is_refused_with_a_reason(name: str) -> None:
    proof = prove(name)
    kinds = {writer.kind for writer in proof.writers}
    for rule in RULES:
        found = proof.rules[rule]
        assert set(found.kinds) | set(found.refused) == kinds
        assert all(len(reason) > 20 for reason in found.refused.values())
        if found.kinds:
            assert found.error <= LIVE_BAKED, rule
            assert found.moved > MOVED, rule
    assert set(proof.rules["project"].kinds) == set(proof.rules["compose"].kinds) == kinds


@pytest.mark.parametrize("name", TINY)
def test_nothing_leaks_after_project_at_strength_1(name: str) -> None:
    proof = prove(name)
    assert proof.leak_layers == len({writer.layer for writer in proof.writers})
    assert proof.leak <= LEAK
    assert proof.leak_end_to_end <= LEAK


@pytest.mark.parametrize("name", TINY)
def test_a_reloaded_bake_generates_what_the_live_model_does(name: str) -> None:
    for rule, found in prove(name).rules.items():
        if found.kinds:
            assert found.n_tokens == N_TOKENS, rule
            assert found.same_tokens, rule


@pytest.mark.parametrize("name", TINY)
def test_untouched_tensors_are_there_bit_for_bit(name: str) -> None:
    """``verify_untouched`` raises where one is not; here: that there are some."""
    assert prove(name).untouched > len(prove(name).writers)


@pytest.mark.parametrize("name", TINY)
def test_the_committed_table_says_what_the_proofs_give(name: str) -> None:
    assert render_row(prove(name)) in DOCUMENT.read_text(encoding="utf-8").splitlines(), (
        "write the table again: python -m tests.contracts.family_table"
    )


def test_every_described_class_is_proved() -> None:
    assert {tiny.model for tiny in TINY.values()} == set(known_classes())
