"""Build the edit of a trial from its parameters, with everything that does not change between trials computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from sombrero.edits.rules import Basis, compose, guarded, orthonormal_basis, project, solve_guarded
from sombrero.errors import UsageError
from sombrero.records import (
    DirectionSet,
    EditParameters,
    HiddenStates,
    LowRankEdit,
    ModelEdit,
    ModelHandle,
    Writer,
)


class EditPlanner:
    """Turns :class:`EditParameters` into a :class:`ModelEdit` for one model.

    ``directions`` maps a name to a direction set; ``harmful`` and ``harmless`` give the keys of the ``guarded`` rule.
    ``betas`` are those that a search will ask for. Products with the weights and solutions of the guarded systems are
    kept for whole direction sets, so that a further trial costs a few small matrix products.
    """

    def __init__(
        self,
        handle: ModelHandle,
        writers: Sequence[Writer],
        directions: Mapping[str, DirectionSet],
        harmful: HiddenStates,
        harmless: HiddenStates,
        betas: Sequence[float] = (),
    ) -> None:
        self.writers = tuple(writers)
        self._model = handle.model
        self._directions = directions
        self._harmful = harmful.writer_inputs
        self._harmless = harmless.writer_inputs
        self._products: dict[tuple[str, str, int], torch.Tensor] = {}
        self._betas = tuple(betas)
        self._solutions: dict[tuple[str, int, float, float], dict[str, torch.Tensor]] = {}

    def build(self, parameters: EditParameters) -> ModelEdit:
        """The edit that the parameters describe; writers of strength 0 are left out.

        Raises UsageError for an unknown direction set, unit or state index, or a strength that is not finite;
        NumericalError for a singular solve.
        """
        chosen = self._validated(parameters)
        bases: dict[int, tuple[torch.Tensor, Basis]] = {}
        edit: dict[str, LowRankEdit] = {}
        for writer in self.writers:
            profile = parameters.profiles.get(writer.kind)
            strength = 0.0 if profile is None else profile.at(writer.layer)
            if strength == 0.0:
                continue
            index = writer.layer + 1 if parameters.map_layer is None else parameters.map_layer
            if index not in bases:
                R = chosen.vectors[index, list(parameters.units)].T.contiguous()
                bases[index] = (R, orthonormal_basis(R))
            edit[writer.name] = self._edit_writer(writer, parameters, index, *bases[index], strength)
        return edit

    def _edit_writer(
        self, writer: Writer, parameters: EditParameters, index: int, R: torch.Tensor, basis: Basis, strength: float
    ) -> LowRankEdit:
        units = list(parameters.units)
        if parameters.rule == "guarded":
            solution = self._solution(writer, index, parameters.alpha, parameters.beta)[parameters.directions]
            return guarded(basis, solution[:, units], strength)
        WtR = self._product(writer, parameters.directions, index)[:, units]
        bias = self._bias(writer)
        if parameters.rule == "compose":
            return compose(R, basis, WtR, bias, strength)
        return project(basis, WtR, bias, strength)

    def _validated(self, parameters: EditParameters) -> DirectionSet:
        chosen = self._directions.get(parameters.directions)
        if chosen is None:
            raise UsageError(
                f"no direction set {parameters.directions!r}; there are {', '.join(sorted(self._directions))}"
            )
        n_states, n_units = chosen.vectors.shape[:2]
        if not parameters.units or not set(parameters.units) <= set(range(n_units)):
            raise UsageError(f"units {parameters.units} are not among the {n_units} of {parameters.directions!r}")
        if parameters.map_layer is not None and parameters.map_layer not in range(n_states):
            raise UsageError(f"map layer {parameters.map_layer} is not a state index of 0..{n_states - 1}")
        for kind, profile in parameters.profiles.items():
            if not 0.0 <= profile.strength <= 10.0:
                raise UsageError(f"the strength {profile.strength} of {kind} writers is not in 0..10")
        return chosen

    def _product(self, writer: Writer, name: str, index: int) -> torch.Tensor:
        """``W^T R`` ``(d_in, m)`` for all directions of the set at the state index, float32 on the CPU."""
        key = (writer.name, name, index)
        if key not in self._products:
            weight = self._model.get_parameter(f"{writer.module_path}.weight")
            R = self._directions[name].vectors[index].T.to(weight.device)
            W = weight.to(torch.float32)
            self._products[key] = ((W.T if writer.layout == "linear" else W) @ R).cpu()
        return self._products[key]

    def _solution(self, writer: Writer, index: int, alpha: float, beta: float) -> dict[str, torch.Tensor]:
        """Solutions ``(d_in, m)`` of the guarded system, for every direction set; the moments serve all betas."""
        if (writer.name, index, alpha, beta) not in self._solutions:
            products = [self._product(writer, name, index) for name in self._directions]
            harmful, harmless = self._harmful[writer.name], self._harmless[writer.name]
            n_keys = min(harmful.shape[1], harmless.shape[1])
            solved = solve_guarded(
                harmful[:, -n_keys:].to(torch.float32),
                harmless[:, -n_keys:].to(torch.float32),
                torch.cat(products, dim=1),
                alpha=alpha,
                betas={beta, *self._betas},
                writer=writer.name,
            )
            widths = [product.shape[1] for product in products]
            for value, solution in solved.items():
                parts = dict(zip(self._directions, solution.split(widths, dim=1), strict=True))
                self._solutions[writer.name, index, alpha, value] = parts
        return self._solutions[writer.name, index, alpha, beta]

    def _bias(self, writer: Writer) -> torch.Tensor | None:
        if writer.bias_name is None:
            return None
        return self._model.get_parameter(f"{writer.module_path}.bias").to("cpu", torch.float32)
