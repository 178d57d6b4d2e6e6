"""Self-organizing maps: a scikit-learn estimator, and maps of many layers at once. Knows nothing of language models."""

from __future__ import annotations

from sombrero.som.estimator import SelfOrganizingMap
from sombrero.som.grid_size import GridSizes, choose_grid_size, grid_shape
from sombrero.som.lattice import Lattice
from sombrero.som.layer_maps import LayerMaps
from sombrero.som.layers import fit_layers
from sombrero.som.picture import component_planes, continuity, trustworthiness, unit_distances
from sombrero.som.stability import MapStability, map_stability

__all__ = [
    "GridSizes",
    "Lattice",
    "LayerMaps",
    "MapStability",
    "SelfOrganizingMap",
    "choose_grid_size",
    "component_planes",
    "continuity",
    "fit_layers",
    "grid_shape",
    "map_stability",
    "trustworthiness",
    "unit_distances",
]
