"""The rules: how an edit follows from a writer's weight and the chosen directions (DESIGN §2).

All are pure and exact in low-rank form. ``R`` ``(d, K)`` holds the chosen directions as columns, ``WtR`` ``(d_in, K)``
is ``W^T R``: computed once per writer, it serves every subset and strength. Which rules a model can hold once they are
baked is said in :func:`refused_kinds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from sombrero.errors import NumericalError
from sombrero.records import LowRankEdit, RuleName, Writer, WriterKind

PARALLEL = 1e-4
"""Directions whose span has a singular value below this share of the largest are counted as parallel."""
MAX_ROW_SCALE = 100.0
"""``norm`` is refused where a row would have to grow by more than this: so little of it is left that it is rounding."""


@dataclass(frozen=True)
class Basis:
    """Orthonormal basis of the chosen directions. V ``(d, k)``; combine ``(K, k)`` with ``V = R @ combine``."""

    V: torch.Tensor
    combine: torch.Tensor


def orthonormal_basis(R: torch.Tensor) -> Basis:
    """Basis of the span of R ``(d, K)`` float32 by singular value decomposition; parallel directions are merged.

    Raises NumericalError when every direction is zero or one is not finite.
    """
    norms = R.norm(dim=0)
    if not bool(torch.isfinite(norms).all()) or float(norms.max()) == 0.0:
        raise NumericalError(f"the chosen directions have norms {norms.tolist()}: nothing to remove along")
    scale = torch.where(norms > 0, 1 / norms.clamp_min(torch.finfo(R.dtype).tiny), torch.zeros_like(norms))
    left, values, right = torch.linalg.svd(R * scale, full_matrices=False)
    keep = values > PARALLEL * values[0]
    return Basis(left[:, keep], scale[:, None] * right.T[:, keep] / values[keep])


def project(basis: Basis, WtR: torch.Tensor, bias: torch.Tensor | None, strength: float) -> LowRankEdit:
    """Remove the component of y in the span (Arditi et al. 2024, eq. 4, for a span): ``A = W^T V``, ``c = V^T b``."""
    c = None if bias is None else basis.V.T @ bias
    return LowRankEdit(basis.V, WtR @ basis.combine, c, strength)


def compose(
    R: torch.Tensor, basis: Basis, WtR: torch.Tensor, bias: torch.Tensor | None, strength: float
) -> LowRankEdit:
    """One rank-one projection after the other, on r_1 first (Piras et al. 2026): ``y' = prod_j (I - s r_j r_j^T) y``.

    Inside the span the product is a k by k matrix ``I - N``, so ``A = W^T V N^T`` and ``c = N V^T b``. The strength
    acts in each factor, hence the edit itself has strength 1.
    """
    removed = _removed(R, basis, strength)
    c = None if bias is None else removed @ (basis.V.T @ bias)
    return LowRankEdit(basis.V, WtR @ basis.combine @ removed.T, c, 1.0)


def _removed(R: torch.Tensor, basis: Basis, strength: float) -> torch.Tensor:
    """N ``(k, k)``: what composed projections remove, in coordinates of the basis."""
    coordinates = torch.nn.functional.normalize(basis.V.T @ R, dim=0)
    identity = torch.eye(basis.V.shape[1], dtype=R.dtype, device=R.device)
    remaining = identity
    for g in coordinates.T:
        remaining = remaining - strength * torch.outer(g, g @ remaining)
    return identity - remaining


def project_output(basis: Basis, strength: float) -> LowRankEdit:
    """As :func:`project`, read off the output: ``U = V``. Exact for all experts at once, and no weight is needed."""
    return LowRankEdit(basis.V, None, None, strength, U=basis.V)


def compose_output(R: torch.Tensor, basis: Basis, strength: float) -> LowRankEdit:
    """As :func:`compose`, read off the output: ``U = V N^T``."""
    return LowRankEdit(basis.V, None, None, 1.0, U=basis.V @ _removed(R, basis, strength).T)


def affine(basis: Basis, WtR: torch.Tensor, harmless_mean: torch.Tensor, strength: float) -> LowRankEdit:
    """Move the component of y in the span to its mean over harmless keys (Marshall et al. 2024, arXiv 2411.09003):

    ``y' = y - s V (V^T y - m)`` with ``m = mean V^T y = A^T x_g + V^T b`` for ``harmless_mean`` ``x_g`` ``(d_in,)``,
    the mean of the writer's harmless inputs. The writer's own bias cancels: ``A = W^T V``, ``c = -A^T x_g``.
    """
    A = WtR @ basis.combine
    return LowRankEdit(basis.V, A, -(A.T @ harmless_mean), strength)


def norm(
    basis: Basis,
    WtR: torch.Tensor,
    WWtR: torch.Tensor,
    row_squares: torch.Tensor,
    bias: torch.Tensor | None,
    strength: float,
    *,
    writer: str,
) -> LowRankEdit:
    """As :func:`project`, then every row of W rescaled to the norm it had (grimjim; Heretic's full row normalization).

    ``W' = D (W - s V A^T)`` with ``D_i = |W_i| / |W_i - s V_i A^T|``. The norms need no copy of W: with
    ``U = W A = W W^T V`` and ``G = A^T A = V^T U``,

        ``|W_i - s V_i A^T|^2 = |W_i|^2 - 2 s V_i . U_i + s^2 V_i G V_i^T``.

    WWtR ``(d, K)`` is ``W W^T R``, row_squares ``(d,)`` are ``|W_i|^2``. A bias is the weight of one more input, which
    is always 1: it counts in the norm of its row and is rescaled with it, so one D serves the output, the weight and
    the bias. D puts some of the component back: unlike ``project``, this rule leaves a part of it at any strength.

    Raises NumericalError naming the writer where hardly anything of a row is left to rescale.
    """
    A, c = WtR @ basis.combine, None if bias is None else basis.V.T @ bias
    V, U, before = basis.V.double(), (WWtR @ basis.combine).double(), row_squares.double()
    if bias is not None and c is not None:
        U, before = U + torch.outer(bias, c), before + bias.double().square()
    G = V.T @ U
    left = before - 2 * strength * (V * U).sum(1) + strength**2 * ((V @ G) * V).sum(1)
    scale = torch.where(left > 0, before / left.clamp_min(torch.finfo(torch.float64).tiny), torch.inf).sqrt()
    # a row of zeros stays one, whatever is added to it
    scale = torch.where(before > 0, scale, torch.where(left > 0, 0.0, 1.0))
    if float(scale.max()) > MAX_ROW_SCALE:
        row = int(scale.argmax())
        raise NumericalError(
            f"the rule norm at strength {strength:g} leaves writer {writer} less than 1/{MAX_ROW_SCALE:g} of the norm "
            f"of its row {row} (condition number {float(scale.max()):.3g}): rescaling it would blow up rounding; take "
            "the rule project, other units, or a strength further from 1"
        )
    return LowRankEdit(basis.V, A, c, strength, scale.to(basis.V.dtype))


def guarded(basis: Basis, solution: torch.Tensor, strength: float) -> LowRankEdit:
    """Move harmful keys by their measured excess over the harmless mean, and hold harmless keys still.

    ``solution`` ``(d_in, K)`` is that of :func:`sombrero.edits.solve_guarded` for the chosen directions; it is linear
    in them. The bias cancels in the excess, so the edit has no c.
    """
    return LowRankEdit(basis.V, solution @ basis.combine, None, strength)


OUTPUT_SIDE: tuple[RuleName, ...] = ("project", "compose")
"""Rules that act on a writer's output alone, whatever its weight and inputs are."""


def refused_kinds(rule: RuleName, writers: Sequence[Writer]) -> dict[WriterKind, str]:
    """The kinds of writers that cannot take the rule, and why.

    ``affine`` adds a constant to the output, which only a bias can hold: a kind must have one at every writer. The
    constant can be folded into nothing else: it lies in the span of V, and at strength 1 the edited weight writes
    nothing there, whatever its input is shifted by. Experts that are held by one module take the rules that act on the
    output alone: the others need each expert's inputs, which are not seen from outside, or its rows' norms.
    """
    kinds = dict.fromkeys(writer.kind for writer in writers)
    reasons = {kind: _refusal(rule, [writer for writer in writers if writer.kind == kind]) for kind in kinds}
    return {kind: why for kind, why in reasons.items() if why}


def _refusal(rule: RuleName, writers: Sequence[Writer]) -> str:
    """Why these writers cannot take the rule; empty when they can."""
    fused = [writer for writer in writers if writer.n_experts is not None]
    if rule in OUTPUT_SIDE or not (fused or rule == "affine"):
        return ""
    reasons = []
    if fused:
        reasons.append(
            f"the rule {rule} needs the inputs or the rows of every single expert, and {len(fused)} of {len(writers)} "
            f"writers hold their experts in one module (the first is {fused[0].module_path}); "
            f"{' and '.join(OUTPUT_SIDE)} act on what all of them write, and are exact"
        )
    lacking = [writer for writer in writers if writer.bias_name is None]
    if rule == "affine" and lacking:
        reasons.append(
            f"the rule {rule} adds a constant to what a writer writes, and {len(lacking)} of {len(writers)} writers "
            f"have no bias tensor to bake it into (the first is {lacking[0].module_path})"
        )
    return "; ".join(reasons)


def bakeable_kinds(rule: RuleName, writers: Sequence[Writer]) -> frozenset[WriterKind]:
    """The kinds of writers into whose tensors the rule can be baked; see :func:`refused_kinds`."""
    return frozenset(writer.kind for writer in writers) - set(refused_kinds(rule, writers))


def bakeable_rules(
    rules: Iterable[RuleName], writers: Sequence[Writer]
) -> tuple[tuple[RuleName, ...], dict[RuleName, str]]:
    """The rules of a search that this model can hold, and of the others the reason why it cannot."""
    kept, refused = [], {}
    for rule in rules:
        if bakeable_kinds(rule, writers):
            kept.append(rule)
        else:
            refused[rule] = _refusal(rule, writers)
    return tuple(kept), refused
