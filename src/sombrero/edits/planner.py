"""Build the edit of a trial from its parameters, with everything that does not change between trials computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from sombrero.edits.balance import GAMMA_RANGE
from sombrero.edits.guards import BETA_RANGE
from sombrero.edits.precomputed import WriterProducts
from sombrero.edits.rules import (
    Basis,
    affine,
    bakeable_kinds,
    compose,
    compose_output,
    guarded,
    norm,
    orthonormal_basis,
    project,
    project_output,
    refused_kinds,
)
from sombrero.errors import UsageError
from sombrero.records import (
    DirectionSet,
    EditParameters,
    HiddenStates,
    LowRankEdit,
    ModelEdit,
    ModelHandle,
    RuleName,
    Writer,
)

ALPHA = 0.01
MAX_STRENGTH = 10.0


class EditPlanner:
    """Turns :class:`EditParameters` into a :class:`ModelEdit` for one model.

    ``directions`` maps a name to a direction set; ``harmful`` and ``harmless`` give the keys of the ``guarded`` rule,
    the harmless ones also the mean of ``affine``. With ``kept``, the keys of true refusals are guarded too, with weight
    gamma, and ``harmful`` are the keys to be moved: those of false refusals; then the last ``n_answer`` key positions
    are tokens of an answer. ``states`` are the state indices that
    edits will ask for beside each layer's own (``map_layer``). Whatever an edit needs of the weights and keys is
    computed for whole direction sets when it is first asked for, or by :meth:`prepare`; then an edit costs a few small
    matrix products, and no weight is read.
    """

    def __init__(
        self,
        handle: ModelHandle,
        writers: Sequence[Writer],
        directions: Mapping[str, DirectionSet],
        harmful: HiddenStates,
        harmless: HiddenStates,
        states: Sequence[int] = (),
        kept: HiddenStates | None = None,
        n_answer: int = 0,
    ) -> None:
        self.writers = tuple(writers)
        self._directions = directions
        self._states = tuple(states)
        self._products = WriterProducts(handle, directions, harmful, harmless, states, kept, n_answer)

    def prepare(
        self, rules: Sequence[RuleName], *, alpha: float = ALPHA, on_writer: Callable[[int], None] | None = None
    ) -> None:
        """Compute now what edits by these rules need, writer by writer; ``on_writer`` is told of each one.

        Raises NumericalError when a guarded system is singular.
        """
        taking = {rule: bakeable_kinds(rule, self.writers) for rule in rules}
        for writer in self.writers:
            wanted = {rule for rule in rules if writer.kind in taking[rule]}
            if writer.n_experts is None:
                self._prepare_writer(writer, wanted, alpha)
            if on_writer is not None:
                on_writer(1)

    def _prepare_writer(self, writer: Writer, rules: set[RuleName], alpha: float) -> None:
        for index in dict.fromkeys((writer.layer + 1, *self._states)):
            for name in self._directions:
                self._products.on_inputs(writer, name, index)
                if "norm" in rules:
                    self._products.on_outputs(writer, name, index)
                if "guarded" in rules:
                    self._products.guarded(writer, name, index, [0], alpha, 1.0, 1.0)
        if "norm" in rules:
            self._products.row_squares(writer)
        if "affine" in rules:
            self._products.harmless_mean(writer)

    def release_keys(self) -> None:
        """Let go of the keys, which are the largest thing here: what :meth:`prepare` was asked for can be built."""
        self._products.release_keys()

    def build(self, parameters: EditParameters) -> ModelEdit:
        """The edit that the parameters describe; writers of strength 0 are left out.

        Raises UsageError for an unknown direction set, unit or state index, layers that are none, a strength, alpha or
        beta out of range, or a rule that cannot be baked into one of the writers; NumericalError for a singular solve.
        """
        self._validated(parameters)
        bases: dict[tuple[int, str | None], tuple[torch.Tensor, Basis]] = {}
        edit: dict[str, LowRankEdit] = {}
        for writer in self.writers:
            profile = parameters.profiles.get(writer.kind)
            strength = 0.0 if profile is None else profile.at(writer.layer)
            if strength == 0.0:
                continue
            index = writer.layer + 1 if parameters.map_layer is None else parameters.map_layer
            key = (index, writer.name if writer.post_norms else None)
            if key not in bases:
                R = self._products.directions(writer, parameters.directions, index)[:, list(parameters.units)]
                bases[key] = (R, orthonormal_basis(R))
            edit[writer.name] = self._edit_writer(writer, parameters, index, *bases[key], strength)
        return edit

    def _edit_writer(
        self, writer: Writer, parameters: EditParameters, index: int, R: torch.Tensor, basis: Basis, strength: float
    ) -> LowRankEdit:
        products, name, units = self._products, parameters.directions, list(parameters.units)
        if writer.n_experts is not None:
            if parameters.rule == "compose":
                return compose_output(R, basis, strength)
            return project_output(basis, strength)
        if parameters.rule == "guarded":
            solution = products.guarded(writer, name, index, units, parameters.alpha, parameters.beta, parameters.gamma)
            return guarded(basis, solution, strength)
        WtR, bias = products.on_inputs(writer, name, index)[:, units], products.bias(writer)
        if parameters.rule == "compose":
            return compose(R, basis, WtR, bias, strength)
        if parameters.rule == "affine":
            return affine(basis, WtR, products.harmless_mean(writer), strength)
        if parameters.rule == "norm":
            WWtR, row_squares = products.on_outputs(writer, name, index)[:, units], products.row_squares(writer)
            return norm(basis, WtR, WWtR, row_squares, bias, strength, writer=writer.name)
        return project(basis, WtR, bias, strength)

    def _validated(self, parameters: EditParameters) -> None:
        chosen = self._directions.get(parameters.directions)
        if chosen is None:
            raise UsageError(
                f"no direction set {parameters.directions!r}; there are {', '.join(sorted(self._directions))}"
            )
        n_states, n_units = chosen.vectors.shape[:2]
        units = parameters.units
        if not units or not set(units) <= set(range(n_units)) or len(set(units)) < len(units):
            raise UsageError(
                f"units {units} are not among the {n_units} of {parameters.directions!r}, each at most once"
            )
        if parameters.map_layer is not None and parameters.map_layer not in range(n_states):
            raise UsageError(f"map layer {parameters.map_layer} is not a state index of 0..{n_states - 1}")
        for kind, profile in parameters.profiles.items():
            if not 0.0 <= profile.strength <= MAX_STRENGTH:
                raise UsageError(f"the strength {profile.strength} of {kind} writers is not in 0..{MAX_STRENGTH:g}")
            if profile.first > profile.last:
                raise UsageError(f"the layers {profile.first}..{profile.last} of {kind} writers are none; swap them")
        if parameters.rule == "guarded":
            _require_guards(parameters)
        self._require_bakeable(parameters)

    def _require_bakeable(self, parameters: EditParameters) -> None:
        asked = {kind for kind, profile in parameters.profiles.items() if profile.strength > 0}
        reasons = {kind: why for kind, why in refused_kinds(parameters.rule, self.writers).items() if kind in asked}
        if reasons:
            raise UsageError(
                f"{'; '.join(reasons.values())}; give {' and '.join(sorted(reasons))} writers strength 0, or take "
                "another rule"
            )


def _require_guards(parameters: EditParameters) -> None:
    low, high = BETA_RANGE
    if not low <= parameters.beta <= high:
        raise UsageError(
            f"beta {parameters.beta} is not in {low:g}..{high:g}, the weights of the guards that are solved for"
        )
    low, high = GAMMA_RANGE
    if not low <= parameters.gamma <= high:
        raise UsageError(
            f"gamma {parameters.gamma} is not in {low:g}..{high:g}, the weights of the guards on true refusals"
        )
    if not 0.0 < parameters.alpha < math.inf:
        raise UsageError(
            f"alpha {parameters.alpha} is not above 0 and finite; it is the ridge's share, for example {ALPHA}"
        )
