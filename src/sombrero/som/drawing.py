"""A fitted map as a picture for a notebook: a cell for each unit, its hits, how far it lies from those it touches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sombrero.som.lattice import Lattice

_SCALE = 48.0
"""Pixels between neighbours in a row."""
_LIGHT, _DARK = (244, 239, 226), (23, 45, 84)
_INK, _PAPER = "#1d1d1f", "#ffffff"
_GAP = 0.96
"""Size of a cell over the room that it has."""


@dataclass(frozen=True)
class MapPicture:
    """An SVG image. Notebooks show it; ``save`` writes it to a file.

    svg: the whole document. It needs no other file and holds no script.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Write the image, UTF-8. Returns the path."""
        target = Path(path)
        partial = target.with_name(f"{target.name}.partial")
        partial.write_text(self.svg, encoding="utf-8")
        return partial.replace(target)


def draw_units(lattice: Lattice, distances: NDArray[np.floating], hit_counts: NDArray[np.integer]) -> MapPicture:
    """Cells of the lattice: darker the farther a unit is from those that it touches, with the number of its samples.

    distances ``(m,)``: the U-matrix. hit_counts ``(m,)``.
    """
    corners = _corners(lattice)
    centres = lattice.coordinates * _SCALE
    low = centres.min(axis=0) + corners.min(axis=0)
    width, height = centres.max(axis=0) + corners.max(axis=0) - low
    spread = float(np.ptp(distances))
    shades = (distances - distances.min()) / spread if spread else np.zeros(len(distances))
    cells = [
        _cell(centre - low, corners, shade, int(hits), float(distance))
        for centre, shade, hits, distance in zip(centres, shades.tolist(), hit_counts, distances, strict=True)
    ]
    about = (
        f"Self-organizing map, {lattice.n_rows} by {lattice.n_columns} units, {int(hit_counts.sum())} samples. "
        "Numbers: samples of each unit. Darker: farther from the units beside it."
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.1f}" height="{height:.1f}" '
        f'viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{about}" font-family="sans-serif">'
    )
    return MapPicture("\n".join([head, f"<title>{about}</title>", *cells, "</svg>"]))


def _corners(lattice: Lattice) -> NDArray[np.float64]:
    """Corners of a cell around its centre, in pixels, ``(6, 2)`` or ``(4, 2)``."""
    hexagonal = lattice.name == "hexagonal"
    turns = np.pi * ((np.arange(6) + 0.5) / 3 if hexagonal else (np.arange(4) + 0.5) / 2)
    radius = 1 / np.sqrt(3) if hexagonal else 1 / np.sqrt(2)
    return np.asarray(np.stack([np.cos(turns), np.sin(turns)], axis=1) * (radius * _SCALE * _GAP), dtype=np.float64)


def _cell(centre: NDArray[np.float64], corners: NDArray[np.float64], shade: float, hits: int, distance: float) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in centre + corners)
    colour = "#" + "".join(f"{round(a + (b - a) * shade):02x}" for a, b in zip(_LIGHT, _DARK, strict=True))
    polygon = (
        f'<polygon points="{points}" fill="{colour}"><title>{hits} samples, distance {distance:.4g}</title></polygon>'
    )
    if not hits:
        return polygon
    x, y = centre
    ink = _PAPER if shade > 0.5 else _INK
    return (
        f'{polygon}<text x="{x:.1f}" y="{y:.1f}" fill="{ink}" font-size="{_SCALE / 3:.0f}" text-anchor="middle" '
        f'dominant-baseline="central" pointer-events="none">{hits}</text>'
    )
