"""Directions: derived from a map's codebook, ordered by salience, with their geometry and controls."""

from sombrero.directions.controls import single_direction
from sombrero.directions.derive import derive_directions
from sombrero.directions.geometry import cosine_matrix, effective_rank
from sombrero.directions.salience import projection_auroc

__all__ = ["cosine_matrix", "derive_directions", "effective_rank", "projection_auroc", "single_direction"]
