"""Edits: the kernel, the rules, live hooks and the coverage proof."""

from sombrero.edits.coverage import account_residuals
from sombrero.edits.kernels import edit_bias, edit_output, edit_weight
from sombrero.edits.live import edited, live_edit
from sombrero.edits.planner import EditPlanner
from sombrero.edits.rules import Basis, compose, guarded, orthonormal_basis, project, solve_guarded

__all__ = [
    "Basis",
    "EditPlanner",
    "account_residuals",
    "compose",
    "edit_bias",
    "edit_output",
    "edit_weight",
    "edited",
    "guarded",
    "live_edit",
    "orthonormal_basis",
    "project",
    "solve_guarded",
]
