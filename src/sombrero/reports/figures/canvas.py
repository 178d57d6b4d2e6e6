"""Paper for still pictures: a style that no machine's settings reach, PNG and SVG with the same bytes every time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sombrero.reports.lattice_drawing import FAINT, INK, PAPER, RULE
from sombrero.reports.wording import clipped, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"
"""It comes with matplotlib: the same letters everywhere."""

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": FAINT,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "font.family": [FONT, "sans-serif"],
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and edited
    "svg.hashsalt": "sombrero",
    "text.color": INK,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "text.usetex": False,
    "xtick.color": FAINT,
    "xtick.labelsize": 9,
    "ytick.color": FAINT,
    "ytick.labelsize": 9,
}
DPI = 150
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes what begins with one of them for a formula."""

Cell = str | int | float | None


@dataclass(frozen=True)
class Picture:
    """A figure and the numbers in it, as a table."""

    figure: Figure
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]


@contextmanager
def drawing_style() -> Iterator[None]:
    """The house's style and nothing else, whatever a ``matplotlibrc`` says; the old settings are back afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for name, value in STYLE.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        yield


def sheet(width: float, height: float, title: str, subtitle: str = "") -> Figure:
    """An empty figure of this size in inches, with a title and a line below it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    text: dict[str, Any] = {"ha": "left", "va": "baseline"}
    figure.text(0.36 / width, 1 - 0.42 / height, title, fontsize=15, weight="bold", color=INK, **text)
    figure.text(0.36 / width, 1 - 0.70 / height, subtitle, fontsize=10.5, color=FAINT, **text)
    return figure


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches, counted from the upper left corner as one reads."""
    wide, high = figure.get_figwidth(), figure.get_figheight()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def write_at(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    """Text at a place in inches, counted from the upper left corner."""
    x, y = left / figure.get_figwidth(), 1 - top / figure.get_figheight()
    look: dict[str, Any] = {"fontsize": 9, "color": FAINT, "va": "center"}
    figure.text(x, y, text, **(look | style))


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG, without a word of when and with what it was made."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG, its texts as text, without a date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def csv_bytes(picture: Picture) -> bytes:
    """The figure's numbers as CSV, UTF-8; a text that a spreadsheet would run is kept from it by an apostrophe."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(picture.columns)
    writer.writerows([_cell(value) for value in row] for row in picture.rows)
    return buffer.getvalue().encode()


def drawable(text: str, limit: int = 60) -> str:
    """Foreign text of one line that the font can draw: signs that it lacks, and hidden ones, are shown as such."""
    shown = "".join(c if ord(c) in _signs() else "?" for c in visible(" ".join(text.split())))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


@cache
def _signs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(FONT)).get_charmap())


def _cell(value: Cell) -> Cell:
    if not isinstance(value, str):
        return "" if value is None else value
    text = visible(clipped(value))
    return f"'{text}" if text.startswith(FORMULA_SIGNS) else text
