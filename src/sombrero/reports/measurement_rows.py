"""Rows that the page of a measurement and the report of a run share: paired tests, and how a divergence is spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sombrero.reports.wording import NOTHING, number, percent

PAIR_COLUMNS = ("Both", "Base alone", "This model alone", "Neither", "Difference", "p")
SPREAD_COLUMNS = ("Mean", "Interval", "Median", "90%", "95%", "Infinite", "Same top token")
KINDS = (("first_token", "First token"), ("sequence", "Along the base's answer, per token"))


def pair_row(pair: Mapping[str, Any]) -> tuple[str, ...]:
    """Refusals of two models on the same prompts, in the order of PAIR_COLUMNS."""
    known = pair["low"] is not None
    interval = f" ({points(pair['low'])} to {points(pair['high'])})" if known else ""
    counts = (number(pair[name]) for name in ("both", "base_only", "edited_only", "neither"))
    return (*counts, f"{points(pair['difference'])}{interval}", number(pair["p_value"], 2))


def spread_row(kl: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    """One kind of divergence, in the order of SPREAD_COLUMNS; of an old record that has no spread the mean alone."""
    spread, same = kl.get(f"{kind}_spread"), kl.get(f"{kind}_agreement")
    if spread is None or same is None:
        return (nats(kl[kind]), *[NOTHING] * (len(SPREAD_COLUMNS) - 1))
    low, high = spread["low"], spread["high"]
    return (
        nats(kl[kind]),
        NOTHING if low is None else f"{number(low)} to {number(high)}",
        *(nats(spread[name]) for name in ("median", "q90", "q95")),
        number(spread["infinite"]),
        percent(same),
    )


def nats(value: float | None) -> str:
    """A divergence; what is infinite is null in JSON."""
    return "∞" if value is None else number(value)


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    sign = "+" if share > 0 else ""
    return f"{sign}{100 * share:.1f}".replace("-", "−")
