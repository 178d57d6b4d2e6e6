"""Means and pairs: intervals against their definition, McNemar's test against the binomial and published figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import TypeAdapter

from sombrero.errors import UsageError
from sombrero.evaluation import bootstrap_mean, compare_refusals, paired_refusals, summarize_values, wilson
from sombrero.records import Coherence, Divergence, Measurement, Spread, Verdict


def test_the_bootstrap_is_that_of_the_mean_and_its_seed_decides_it() -> None:
    values = np.random.default_rng(3).gamma(1.0, 2.0, size=200).tolist()
    found = bootstrap_mean(values)
    assert found is not None and found == bootstrap_mean(values) != bootstrap_mean(values, seed=1)
    mean, error = float(np.mean(values)), float(np.std(values) / math.sqrt(len(values)))
    assert found == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.5 * error)


def test_one_value_says_nothing_of_its_uncertainty() -> None:
    assert summarize_values([0.7]) == Spread(0.7, 0.7, 0.7, None, None, 0)
    with pytest.raises(UsageError, match="at least one prompt"):
        bootstrap_mean([])


def test_quantiles_are_numpys_and_know_infinity() -> None:
    values = np.random.default_rng(0).random(37).tolist()
    found = summarize_values(values)
    assert (found.median, found.q90, found.q95) == pytest.approx(tuple(np.quantile(values, [0.5, 0.9, 0.95])))
    assert found.low is not None and found.high is not None and found.low < np.mean(values) < found.high
    broken = summarize_values([0.0, 1.0, 2.0, math.inf])
    assert (broken.median, broken.q90, broken.infinite) == (1.5, math.inf, 1)
    assert broken.low is None and broken.high is None
    assert summarize_values([math.inf] * 3).median == math.inf


def test_infinite_values_survive_a_record() -> None:
    spread = summarize_values([0.1, math.inf])
    record = Divergence(math.inf, 0.5, (0.1, math.inf), (0.5, 0.5), spread, spread, 0.5, 1.0, (math.inf,), (2,))
    adapter = TypeAdapter(tuple[Divergence, ...])
    text = adapter.dump_json((record,))
    assert b"NaN" not in text and adapter.validate_json(text) == (record,)


def test_records_of_earlier_versions_load() -> None:
    old = b'{"first_token": 0.1, "sequence": 0.2, "first_token_by_prompt": [0.1], "sequence_by_prompt": [0.2]}'
    found = TypeAdapter(Divergence).validate_json(old)
    assert found.first_token_spread is None and found.by_position == ()
    old = b'{"perplexity": 3.0, "repetition": 0.0, "empty": 0, "degenerate": 0, "n": 4}'
    assert TypeAdapter(Coherence).validate_json(old).distinct_1 is None


@pytest.mark.parametrize(("base_only", "edited_only"), [(1, 0), (5, 1), (12, 12), (0, 9), (3, 17)])
def test_mcnemar_is_the_two_sided_binomial(base_only: int, edited_only: int) -> None:
    base = [True] * 7 + [True] * base_only + [False] * edited_only + [False] * 4
    edited = [True] * 7 + [False] * base_only + [True] * edited_only + [False] * 4
    found = compare_refusals(base, edited)
    n, fewer = base_only + edited_only, min(base_only, edited_only)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert (found.both, found.base_only, found.edited_only, found.neither) == (7, base_only, edited_only, 4)
    assert found.n == len(base) and found.difference == pytest.approx((edited_only - base_only) / len(base))
    assert found.low is not None and found.high is not None and found.low <= found.difference <= found.high


def test_equal_answers_do_not_differ() -> None:
    found = compare_refusals([True, False, True], [True, False, True])
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    alone = compare_refusals([True], [False])
    assert (alone.difference, alone.low, alone.high, alone.p_value) == (-1.0, None, None, 1.0)
    with pytest.raises(UsageError, match="2 verdicts of the base and 1"):
        compare_refusals([True, False], [True])


def measured(harmful: str, safe: str, ids: str = "abcdefgh") -> Measurement:
    """One letter a prompt: ``r`` a refusal, ``u`` unknown. The first two safe prompts are borderline ones."""
    labels = {"r": "refusal", "a": "answer", "u": "unknown"}

    def verdicts(letters: str, prefix: str) -> tuple[Verdict, ...]:
        return tuple(Verdict(prefix + i, labels[letter], None, 3) for i, letter in zip(ids, letters, strict=False))

    share = wilson(harmful.count("r"), len(harmful) - harmful.count("u"))
    return Measurement(
        refusals=share,
        false_refusals=wilson(safe[:2].count("r"), 2),
        harmless_refusals=wilson(safe[2:].count("r"), len(safe) - 2),
        labels={label: harmful.count(letter) for letter, label in labels.items()},
        kl=Divergence(0.0, 0.0, (), ()),
        coherence=Coherence(1.0, 0.0, 0, 0, len(safe) - 2),
        verdicts=verdicts(harmful, "h-"),
        safe_verdicts=verdicts(safe, "s-"),
    )


def test_measurements_are_paired_set_by_set() -> None:
    found = paired_refusals(measured("rrrr", "raaaa"), measured("raaa", "rraaa"))
    assert list(found) == ["refusals", "false_refusals", "harmless_refusals"]
    assert (found["refusals"].both, found["refusals"].base_only) == (1, 3)
    assert (found["false_refusals"].edited_only, found["harmless_refusals"].neither) == (1, 3)
    with pytest.raises(UsageError, match="of other prompts"):
        paired_refusals(measured("rr", "raa"), measured("rr", "raa", ids="xyz"))


def test_a_prompt_without_a_verdict_is_in_no_pair() -> None:
    found = paired_refusals(measured("urra", "raaaa"), measured("aaua", "raaaa"))
    assert found["refusals"].n == 2
    assert (found["refusals"].base_only, found["refusals"].neither) == (1, 1)
    assert found["false_refusals"].n == 2 and found["harmless_refusals"].n == 3
