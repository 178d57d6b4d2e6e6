"""Properties of the grids, and agreement with MiniSom's geometry."""

from __future__ import annotations

import numpy as np
import pytest

from sombrero.som import Lattice

SHAPES = [(1, 1), (1, 5), (4, 4), (3, 5), (5, 2)]


@pytest.mark.parametrize("name", ["hexagonal", "rectangular"])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_neighbours_in_a_row_are_one_apart(rows: int, columns: int, name: str) -> None:
    lattice = Lattice(rows, columns, name)
    assert lattice.coordinates.shape == (rows * columns, 2)
    distance = np.sqrt(lattice.squared_distances).reshape(rows, columns, rows, columns)
    for row in range(rows):
        np.testing.assert_allclose(np.diagonal(distance[row, :, row, :], offset=1), 1.0)


@pytest.mark.parametrize(("name", "touching"), [("hexagonal", 6), ("rectangular", 8)])
def test_inner_units_touch_all_their_neighbours(name: str, touching: int) -> None:
    lattice = Lattice(5, 6, name)
    degree = lattice.adjacency.sum(axis=1).reshape(5, 6)
    assert (degree[1:-1, 1:-1] == touching).all()
    assert (lattice.adjacency == lattice.adjacency.T).all()
    assert not lattice.adjacency.diagonal().any()


def test_hexagonal_neighbours_are_equally_far() -> None:
    lattice = Lattice(5, 6)
    np.testing.assert_allclose(lattice.squared_distances[lattice.adjacency], 1.0)


@pytest.mark.parametrize("name", ["hexagonal", "rectangular"])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_geometry_is_that_of_minisom(rows: int, columns: int, name: str) -> None:
    minisom = pytest.importorskip("minisom")
    x, y = minisom.MiniSom(columns, rows, 2, topology=name, sigma=0.3).get_euclidean_coordinates()  # (columns, rows)
    theirs = np.stack([x.T.ravel(), y.T.ravel()], axis=1)
    expected = ((theirs[:, None] - theirs[None]) ** 2).sum(axis=-1)
    np.testing.assert_allclose(Lattice(rows, columns, name).squared_distances, expected, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns", "name"), [(0, 4, "hexagonal"), (4, -1, "hexagonal"), (4, 4, "torus")])
def test_impossible_grids_are_refused(rows: int, columns: int, name: str) -> None:
    with pytest.raises(ValueError, match=r"n_rows is 0|n_columns is -1|lattice is 'torus'"):
        Lattice(rows, columns, name)
