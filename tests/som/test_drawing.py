"""The picture of a fitted map: one cell a unit, all samples counted, a document that any reader takes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from sombrero import SelfOrganizingMap

NAMESPACE = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(("lattice", "corners"), [("hexagonal", 6), ("rectangular", 4)])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 4)])
@pytest.mark.parametrize("toroidal", [False, True])
def test_every_unit_is_a_cell_and_every_sample_is_counted(
    lattice: str, corners: int, shape: tuple[int, int], toroidal: bool
) -> None:
    samples = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    fitted = SelfOrganizingMap(*shape, lattice=lattice, toroidal=toroidal, random_state=0).fit(samples)
    root = ElementTree.fromstring(fitted.picture()._repr_svg_())
    cells = root.findall(f"{NAMESPACE}polygon")
    assert len(cells) == shape[0] * shape[1]
    points = [[tuple(map(float, p.split(","))) for p in cell.attrib["points"].split()] for cell in cells]
    assert {len(p) for p in points} == {corners}
    flat = np.array([p for cell in points for p in cell])
    assert (flat >= 0).all() and (flat <= [float(root.attrib["width"]), float(root.attrib["height"])]).all()
    assert sum(int(text.text or 0) for text in root.findall(f"{NAMESPACE}text")) == 60


def test_a_unit_far_from_the_others_is_the_darkest() -> None:
    random = np.random.default_rng(0)
    samples = np.concatenate([random.normal(size=(50, 3)), random.normal(size=(10, 3)) + 40.0])
    fitted = SelfOrganizingMap(1, 4, random_state=0).fit(samples)
    root = ElementTree.fromstring(fitted.picture().svg)
    light = [sum(bytes.fromhex(cell.attrib["fill"][1:])) for cell in root.findall(f"{NAMESPACE}polygon")]
    far = fitted.codebook_.mean(axis=1) > 20
    assert 0 < far.sum() < 4
    beside = np.flatnonzero(far[:-1] != far[1:])
    assert int(np.argmin(light)) in {int(i) for i in beside} | {int(i) + 1 for i in beside}


def test_the_picture_is_saved_and_sklearn_keeps_its_repr(tmp_path: Path) -> None:
    fitted = SelfOrganizingMap(2, 2, random_state=0)
    with pytest.raises(NotFittedError):
        fitted.picture()
    assert repr(fitted) == "SelfOrganizingMap(n_columns=2, n_rows=2, random_state=0)"
    fitted.fit(np.random.default_rng(0).normal(size=(20, 3)))
    path = fitted.picture().save(tmp_path / "map.svg")
    assert path.read_text(encoding="utf-8") == fitted.picture().svg
