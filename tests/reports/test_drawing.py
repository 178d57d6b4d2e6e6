"""Cells and colours: hexagons that touch, six neighbours, shades whose order survives a black-and-white printer."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from sombrero.reports.colours import (
    CATEGORY_FILLS,
    OTHER_CATEGORY,
    UNKNOWN,
    category_fill,
    contrast,
    fills,
    ink,
    luminance,
    shades,
)
from sombrero.reports.figures.canvas import drawable, drawing_style, png_bytes, sheet, svg_bytes
from sombrero.reports.figures.strip import strip_columns
from sombrero.reports.lattice_drawing import MOST_VECTOR_CELLS, draw_cells, frame, label_size
from sombrero.reports.lattice_shapes import between, centres, extent, neighbours, outline
from sombrero.som.lattice import Lattice

SHAPES = [(1, 1), (1, 5), (4, 1), (3, 4), (4, 4), (5, 6)]


@pytest.mark.parametrize("lattice", ["hexagonal", "rectangular"])
@pytest.mark.parametrize("shape", SHAPES)
def test_neighbours_are_those_of_the_map(lattice: str, shape: tuple[int, int]) -> None:
    touching = Lattice(*shape, lattice).adjacency
    assert sorted(neighbours(*shape, lattice)) == [(i, j) for i, j in np.argwhere(touching).tolist() if i < j]


def test_an_inner_hexagon_shares_an_edge_with_six_others() -> None:
    pairs = neighbours(5, 5, "hexagonal")
    around = {a + b - 12 for a, b in pairs if 12 in (a, b)}
    assert len(around) == 6
    points, corners = np.array(centres(5, 5, "hexagonal")), np.array(outline("hexagonal"))
    for other in around:
        distances = np.linalg.norm((points[12] + corners)[:, None] - (points[other] + corners)[None], axis=-1)
        assert (distances < 1e-9).sum() == 2  # two corners in common: an edge


@pytest.mark.parametrize("shape", [(3, 4), (4, 4), (5, 6)])
@pytest.mark.parametrize("lattice", ["hexagonal", "rectangular"])
def test_a_u_matrix_has_no_holes_and_no_overlaps(lattice: str, shape: tuple[int, int]) -> None:
    cells = np.array([*centres(*shape, lattice), *(point for point, _ in between(*shape, lattice))])
    distances = np.linalg.norm(cells[:, None] - cells[None], axis=-1) + 9 * np.eye(len(cells))
    assert distances.min() == pytest.approx(0.5)
    n_rows, n_columns = shape
    assert len(cells) == (2 * n_rows - 1) * (2 * n_columns - 1)
    shown = [pair for _, pairs in between(*shape, lattice) for pair in pairs]
    assert sorted(shown) == sorted(neighbours(*shape, lattice))


def test_darker_is_more_and_evenly_so() -> None:
    lightness = [luminance(shade) for shade in shades()]
    assert lightness == sorted(lightness, reverse=True) and len(set(lightness)) == len(lightness)
    painted = fills([0.0, 0.1, 0.5, 0.9, 1.0, None, float("nan")], 0.0, 1.0)
    assert painted[:5] == sorted(painted[:5], key=luminance, reverse=True)
    assert painted[5:] == [UNKNOWN, UNKNOWN] and UNKNOWN not in shades()
    assert fills([3.0, 3.0], 3.0, 3.0) == [shades()[16]] * 2


@pytest.mark.parametrize("fill", [*shades(), *CATEGORY_FILLS, OTHER_CATEGORY, UNKNOWN])
def test_numbers_are_readable_on_every_fill(fill: str) -> None:
    assert contrast(fill, ink(fill)) >= 4.5


def test_categories_have_a_colour_each() -> None:
    assert len({category_fill(letter) for letter in "ABCDEFG…"}) == 8 and category_fill("") == UNKNOWN


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("lattice", ["hexagonal", "rectangular"])
def test_cells_fill_the_paper(lattice: str) -> None:
    """Drawn at full size, cells leave no paper between them: what is painted is their area."""
    from PIL import Image

    with drawing_style():
        figure = sheet(4, 4, "")
        axes = figure.add_axes((0, 0, 1, 1))
        points = centres(4, 4, lattice)
        draw_cells(axes, points, lattice, ["#123456"] * 16, 1.0)
        frame(axes, (4, 4, lattice))
        image = np.asarray(Image.open(io.BytesIO(png_bytes(figure))).convert("RGB"))
    width, height = extent(4, 4, lattice)[2:]
    painted = (image.astype(int).sum(axis=2) < 600).sum()
    pixels_per_unit = image.shape[1] / max(width, height)
    area = 16 * (1.0 if lattice == "rectangular" else np.sqrt(3) / 2)
    assert painted == pytest.approx(area * pixels_per_unit**2, rel=0.02)


def test_very_many_cells_become_an_image() -> None:
    with drawing_style():
        figure = sheet(4, 4, "")
        axes = figure.add_axes((0, 0, 1, 1))
        n = MOST_VECTOR_CELLS + 1
        draw_cells(axes, [(float(i), 0.0) for i in range(n)], "hexagonal", ["#123456"] * n)
        axes.set_xlim(0, n)
        svg = svg_bytes(figure)
    assert b"data:image/png" in svg and len(svg) < 100_000


def test_labels_shrink_with_the_cells() -> None:
    with drawing_style():
        axes = sheet(4, 4, "").add_axes((0, 0, 1, 1))
        sizes = [label_size(axes, (n, n, "hexagonal")) for n in (2, 4, 8, 16, 32)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 15.0 and sizes[-1] < 5.0


@pytest.mark.parametrize("n_states", [1, 2, 13, 31, 81, 129])
def test_a_strip_is_wider_than_high(n_states: int) -> None:
    columns = strip_columns(n_states)
    rows = -(-n_states // columns)
    assert 1 <= columns <= max(3, n_states) and rows <= columns + 1
    assert rows * columns - n_states < columns


def test_foreign_text_is_drawn_as_far_as_the_font_has_it() -> None:
    assert drawable("naïve Привет") == "naïve Привет"
    assert drawable("模型\u202e $x$\n</text>") == "??⟨U+202E⟩ $x$ </text>".replace("⟨", drawable("⟨")).replace(
        "⟩", drawable("⟩")
    )
    assert drawable("x" * 100, 20) == "x" * 19 + "…"


def test_style_comes_from_the_house_and_stays_there(tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 31.0, "text.usetex": True, "svg.fonttype": "path"}):
        with drawing_style():
            figure = sheet(3, 2, "a $title$")
            inside = svg_bytes(figure)
        assert matplotlib.rcParams["font.size"] == 31.0 and matplotlib.rcParams["text.usetex"]
    with drawing_style():
        assert svg_bytes(sheet(3, 2, "a $title$")) == inside
    assert b">a $title$</text>" in inside  # and not typeset as a formula
