"""The bar that says what the shades of a plane mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sombrero.reports.colours import shades
from sombrero.reports.figures.canvas import place, write_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAR_HEIGHT = 0.13


def draw_scale(figure: Figure, left: float, top: float, width: float, low: str, high: str) -> None:
    """A bar of shades at a place in inches, the low end's value to its left and the high end's to its right."""
    from matplotlib.colors import ListedColormap

    axes = place(figure, left, top, width, BAR_HEIGHT)
    palette = shades()
    axes.pcolormesh([list(range(len(palette)))], cmap=ListedColormap(palette), rasterized=True)
    axes.set_axis_off()
    middle = top + BAR_HEIGHT / 2
    write_at(figure, left - 0.08, middle, low, ha="right")
    write_at(figure, left + width + 0.08, middle, high, ha="left")
