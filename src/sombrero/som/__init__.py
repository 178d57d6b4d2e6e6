"""Self-organizing maps: a scikit-learn estimator, and maps of many layers at once. Knows nothing of language models."""

from __future__ import annotations

from sombrero.som.estimator import SelfOrganizingMap
from sombrero.som.lattice import Lattice
from sombrero.som.layer_maps import LayerMaps
from sombrero.som.layers import fit_layers

__all__ = ["Lattice", "LayerMaps", "SelfOrganizingMap", "fit_layers"]
