"""Colours of fills. One rule for all planes of a map: darker is more, in colour, in grey and to the colour-blind."""

from __future__ import annotations

import math
from collections.abc import Sequence

SHADES = 33
"""Steps of the palette: more than an eye tells apart on one map."""

LIGHT_INK, DARK_INK = "#ffffff", "#000000"
UNKNOWN = "#d9dce1"
"""Fill of what was not measured: outside the palette, whose steps are all more yellow or more blue."""

CATEGORY_FILLS = ("#0072b2", "#e69f00", "#56b4e9", "#d55e00", "#f0e442", "#009e73", "#cc79a7")
"""Okabe & Ito's qualitative palette. A letter always stands beside it: seven hues are too many in grey."""

OTHER_LETTER, OTHER_CATEGORY = "…", "#b8bec7"
"""A category that has no letter of its own."""

MOST_CATEGORIES = len(CATEGORY_FILLS)


def shades() -> list[str]:
    """The cividis palette (Nuñez et al. 2018) from light to dark: its lightness falls evenly."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    palette = colormaps["cividis_r"]
    return [to_hex(palette(i / (SHADES - 1))) for i in range(SHADES)]


def shade_index(value: float | None, low: float, high: float) -> int | None:
    """Place of a value in the palette; the middle when all values are equal, None where there is no value."""
    if value is None or not math.isfinite(value):
        return None
    share = (value - low) / (high - low) if high > low else 0.5
    return round(min(1.0, max(0.0, share)) * (SHADES - 1))


def fills(values: Sequence[float | None], low: float, high: float) -> list[str]:
    """The colour of every value on a scale from ``low`` to ``high``."""
    palette = shades()
    places = [shade_index(value, low, high) for value in values]
    return [UNKNOWN if place is None else palette[place] for place in places]


def category_fill(letter: str) -> str:
    """The colour of a category by its letter, A to G; no letter: nothing is known."""
    if letter == OTHER_LETTER:
        return OTHER_CATEGORY
    return CATEGORY_FILLS[ord(letter) - ord("A")] if letter else UNKNOWN


def spread(values: Sequence[float | None]) -> tuple[float, float]:
    """Smallest and largest of the values that are there; (0, 0) when none is."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    return (min(there), max(there)) if there else (0.0, 0.0)


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, 0 to 1 (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def ink(fill: str) -> str:
    """Black or white, whichever reads better on this fill: at least 4.5 to 1 on any."""
    return max((DARK_INK, LIGHT_INK), key=lambda colour: contrast(fill, colour))
