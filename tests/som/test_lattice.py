"""Properties of the grids, and agreement with MiniSom's geometry."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

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


def shortest_ways(lattice: Lattice) -> NDArray[np.float64]:
    """Steps between all units, from adjacency alone (Floyd and Warshall)."""
    ways = np.where(lattice.adjacency, 1.0, np.inf)
    np.fill_diagonal(ways, 0.0)
    for middle in range(lattice.n_units):
        ways = np.minimum(ways, ways[:, [middle]] + ways[[middle]])
    return ways


@pytest.mark.parametrize("toroidal", [False, True])
@pytest.mark.parametrize("name", ["hexagonal", "rectangular"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 2), (1, 7), (2, 1), (2, 2), (4, 1), (4, 5), (6, 3), (8, 7)])
def test_steps_are_the_fewest_between_touching_units(rows: int, columns: int, name: str, toroidal: bool) -> None:
    lattice = Lattice(rows, columns, name, toroidal)
    np.testing.assert_array_equal(lattice.steps, shortest_ways(lattice))


@pytest.mark.parametrize(("name", "touching"), [("hexagonal", 6), ("rectangular", 8)])
def test_a_torus_has_no_border(name: str, touching: int) -> None:
    lattice = Lattice(6, 5, name, toroidal=True)
    assert (lattice.adjacency.sum(axis=1) == touching).all()
    distances = np.sort(lattice.squared_distances, axis=1)
    np.testing.assert_allclose(distances, np.broadcast_to(distances[0], distances.shape), atol=1e-9)
    assert lattice.squared_distances.max() < Lattice(6, 5, name).squared_distances.max()


@pytest.mark.parametrize("name", ["hexagonal", "rectangular"])
def test_distances_on_a_torus_do_not_change_when_all_units_move(name: str) -> None:
    squared = Lattice(4, 5, name, toroidal=True).squared_distances.reshape(4, 5, 4, 5)
    for axis, by in ((0, 2), (1, 1), (1, 3)):  # hexagonal rows repeat every two
        moved = np.roll(np.roll(squared, by, axis=axis), by, axis=axis + 2)
        np.testing.assert_allclose(moved, squared, atol=1e-9)


def test_a_row_closed_to_a_ring_wraps() -> None:
    for name in ("hexagonal", "rectangular"):
        distance = np.sqrt(Lattice(1, 6, name, toroidal=True).squared_distances[0])
        np.testing.assert_allclose(distance, [0, 1, 2, 3, 2, 1])
    assert Lattice(2, 2, "rectangular", toroidal=True).adjacency.sum(axis=1).tolist() == [3] * 4
    assert not Lattice(1, 1, toroidal=True).adjacency.any()


def test_a_hexagonal_torus_needs_even_rows() -> None:
    with pytest.raises(ValueError, match="n_rows is 5; a hexagonal torus needs an even number of rows"):
        Lattice(5, 4, toroidal=True)
    assert Lattice(5, 4, "rectangular", toroidal=True).n_units == 20


@pytest.mark.parametrize(("rows", "columns", "name"), [(0, 4, "hexagonal"), (4, -1, "hexagonal"), (4, 4, "torus")])
def test_impossible_grids_are_refused(rows: int, columns: int, name: str) -> None:
    with pytest.raises(ValueError, match=r"n_rows is 0|n_columns is -1|lattice is 'torus'"):
        Lattice(rows, columns, name)
