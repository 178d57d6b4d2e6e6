"""Edits: the kernel, the rules, live hooks, and the proofs of coverage: residual accounting and the leak check."""

from sombrero.edits.balance import GAMMA_RANGE, BalancedSolution, solve_balanced
from sombrero.edits.coverage import account_residuals
from sombrero.edits.guards import BETA_RANGE, GuardedSolution, solve_guarded
from sombrero.edits.kernels import edit_bias, edit_output, edit_weight
from sombrero.edits.leak import check_leak
from sombrero.edits.live import edited, live_edit
from sombrero.edits.planner import EditPlanner
from sombrero.edits.routing import measure_routing
from sombrero.edits.rules import (
    Basis,
    affine,
    bakeable_kinds,
    bakeable_rules,
    compose,
    compose_output,
    guarded,
    norm,
    orthonormal_basis,
    project,
    project_output,
    refused_kinds,
)

__all__ = [
    "BETA_RANGE",
    "GAMMA_RANGE",
    "BalancedSolution",
    "Basis",
    "EditPlanner",
    "GuardedSolution",
    "account_residuals",
    "affine",
    "bakeable_kinds",
    "bakeable_rules",
    "check_leak",
    "compose",
    "compose_output",
    "edit_bias",
    "edit_output",
    "edit_weight",
    "edited",
    "guarded",
    "live_edit",
    "measure_routing",
    "norm",
    "orthonormal_basis",
    "project",
    "project_output",
    "refused_kinds",
    "solve_balanced",
    "solve_guarded",
]
