"""Numbers as people read them, and foreign text made safe to show."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

from markupsafe import Markup

from sombrero.records import EditParameters, Proportion

NOTHING = "–"
LONGEST_TEXT = 1500
"""Characters of one foreign text that a report shows."""

_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_SPACING = {"\n", "\t"}
_JOINERS = {"\u200c", "\u200d", "\ufe0f"}  # emoji and several scripts are written with them
_SCRIPT_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def visible(text: str) -> str:
    """Text with every control, direction mark and lone surrogate shown by its number; line feeds and tabs stay."""
    return "".join(map(_sign, text.replace("\r\n", "\n")))


def clipped(text: str, limit: int = LONGEST_TEXT) -> str:
    """Text of at most ``limit`` characters, saying how much was left out."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


def script_json(value: Any) -> Markup:
    """JSON that nothing in it can end the script element around it: ASCII alone, with <, > and & escaped."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char, escape in _SCRIPT_ESCAPES.items():
        text = text.replace(char, escape)
    return Markup(text)  # made safe above


def finite(value: float | None, digits: int = 4) -> float | None:
    """A number for JSON, at ``digits`` significant digits; None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def number(value: float | None, digits: int = 3) -> str:
    """A number with ``digits`` significant digits, a true minus, and no exponent between 0.001 and a million."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
        return f"{value:,.{decimals}f}".replace("-", "−")
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def percent(rate: float) -> str:
    """A share as a percentage: one decimal where it is not whole."""
    return f"{100 * rate:.1f}".removesuffix(".0") + "%"


def interval(value: Proportion) -> str:
    """The Wilson 95% interval."""
    return f"{100 * value.low:.1f}–{100 * value.high:.1f}%"


def count(value: Proportion) -> str:
    """``4/96 (4.2%; 95% interval 1.6–10.2%)``."""
    if value.n == 0:
        return "0/0"
    return f"{value.count}/{value.n} ({percent(value.rate)}; 95% interval {interval(value)})"


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds, or hours and minutes."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def state_name(index: int) -> str:
    """What a state index is: 0 the embeddings, ``l + 1`` the residual stream after layer ``l``."""
    return "state 0, the embeddings" if index == 0 else f"state {index}, after layer {index - 1}"


def directions_name(parameters: EditParameters) -> str:
    """``single direction``, or the salience ranks of the map's units (1 is the most salient)."""
    if parameters.directions == "single":
        return "single direction"
    ranks = ", ".join(str(unit + 1) for unit in parameters.units)
    name = "map unit" if parameters.directions == "som" else f"{parameters.directions} unit"
    return f"{name} of salience {ranks}" if len(parameters.units) == 1 else f"{name}s of salience {ranks}"


def source_state(parameters: EditParameters) -> str:
    """Where the directions come from."""
    return "each layer's own state" if parameters.map_layer is None else f"state {parameters.map_layer}"


def profiles_name(parameters: EditParameters) -> str:
    """``attention 1.8 on layers 10–29, mlp 0.4 on layers 10–29``."""
    return ", ".join(
        f"{kind} {number(profile.strength)} on layers {profile.first}–{profile.last}"
        for kind, profile in parameters.profiles.items()
    )


def _sign(char: str) -> str:
    if char in _SPACING or char in _JOINERS or unicodedata.category(char) not in _HIDDEN_CATEGORIES:
        return char
    return f"⟨U+{ord(char):04X}⟩"
