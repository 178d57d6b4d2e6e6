"""Which state indices a small strip shows, where there is no room for all."""

from __future__ import annotations


def strip_states(n_states: int, most: int) -> list[int]:
    """At most ``most`` evenly spaced state indices, the first and the last among them."""
    shown = min(most, n_states)
    return sorted({round(i * (n_states - 1) / max(1, shown - 1)) for i in range(shown)})
