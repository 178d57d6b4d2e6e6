"""Directions: derived from a codebook, ordered by salience, with their geometry, their layer and their controls."""

from sombrero.directions.codebook import Codebook
from sombrero.directions.controls import (
    kmeans_codebook,
    pca_codebook,
    permute_labels,
    random_codebook,
    single_codebook,
    single_direction,
)
from sombrero.directions.curves import LayerFigures, layer_curves
from sombrero.directions.derive import derive_directions, direction_vectors
from sombrero.directions.geometry import cosine_matrix, effective_rank, principal_angles, span_angles
from sombrero.directions.layers import LayerChoice, ablation_candidates, choose_by_auroc, choose_by_log_odds
from sombrero.directions.manifold import principal_plane, scaled_plane
from sombrero.directions.profiles import unit_profiles
from sombrero.directions.salience import mean_log_odds, projection_auroc, separation

__all__ = [
    "Codebook",
    "LayerChoice",
    "LayerFigures",
    "ablation_candidates",
    "choose_by_auroc",
    "choose_by_log_odds",
    "cosine_matrix",
    "derive_directions",
    "direction_vectors",
    "effective_rank",
    "kmeans_codebook",
    "layer_curves",
    "mean_log_odds",
    "pca_codebook",
    "permute_labels",
    "principal_angles",
    "principal_plane",
    "projection_auroc",
    "random_codebook",
    "scaled_plane",
    "separation",
    "single_codebook",
    "single_direction",
    "span_angles",
    "unit_profiles",
]
