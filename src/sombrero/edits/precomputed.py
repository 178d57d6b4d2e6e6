"""What does not change between trials, computed once per writer for whole direction sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from sombrero.edits.balance import BalancedSolution, solve_balanced
from sombrero.edits.contributions import gain
from sombrero.edits.guards import GuardedSolution, solve_guarded
from sombrero.errors import UsageError
from sombrero.models.weights import read_weight
from sombrero.records import DirectionSet, HiddenStates, ModelHandle, Writer

ROWS_IN_BLOCK = 4096
"""Of a weight that is read in float32, so that a large one is never held twice."""


class WriterProducts:
    """Products of the writers' weights and keys with all directions, each made when it is first asked for and kept.

    ``states`` are the state indices, beside the writer's own, whose guarded systems are solved along with its own: they
    share the factorisation. ``kept`` gives the keys of true refusals, guarded beside the harmless ones; then the last
    ``n_answer`` key positions are tokens of an answer. Tensors are float32 on the CPU.
    """

    def __init__(
        self,
        handle: ModelHandle,
        directions: Mapping[str, DirectionSet],
        harmful: HiddenStates,
        harmless: HiddenStates,
        states: Sequence[int] = (),
        kept: HiddenStates | None = None,
        n_answer: int = 0,
    ) -> None:
        self._n_answer = n_answer
        self._model = handle.model
        self._directions = directions
        self._harmful, self._harmless = harmful.writer_inputs, harmless.writer_inputs
        self._kept = None if kept is None else kept.writer_inputs
        self._states = tuple(states)
        self._inputs: dict[tuple[str, str, int], torch.Tensor] = {}
        self._outputs: dict[tuple[str, str, int], torch.Tensor] = {}
        self._row_squares: dict[str, torch.Tensor] = {}
        self._gains: dict[str, torch.Tensor] = {}
        self._means: dict[str, torch.Tensor] = {}
        self._solutions: dict[tuple[str, tuple[int, ...], float], GuardedSolution | BalancedSolution] = {}

    def directions(self, writer: Writer, name: str, index: int) -> torch.Tensor:
        """R ``(d, m)``: what to remove from the writer's output so that the residual stream loses the directions.

        Behind a norm it is ``g * r`` for a direction r: the writer adds ``g * y / rms`` to the stream.
        """
        R = self._directions[name].vectors[index].T
        if not writer.post_norms:
            return R.contiguous()
        if writer.name not in self._gains:
            self._gains[writer.name] = gain(self._model, writer).cpu()
        return R * self._gains[writer.name][:, None]

    def on_inputs(self, writer: Writer, name: str, index: int) -> torch.Tensor:
        """``W^T R`` ``(d_in, m)`` for the direction set ``name`` at the state index."""
        key = (writer.name, name, index)
        if key not in self._inputs:
            weight = self._weight(writer)
            R = self.directions(writer, name, index).to(weight.device)
            parts = zip(weight.split(ROWS_IN_BLOCK), R.split(ROWS_IN_BLOCK), strict=True)
            self._inputs[key] = sum((W.float().T @ r for W, r in parts), torch.zeros((), device=weight.device)).cpu()
        return self._inputs[key]

    def on_outputs(self, writer: Writer, name: str, index: int) -> torch.Tensor:
        """``W W^T R`` ``(d, m)``, for the rule ``norm``."""
        key = (writer.name, name, index)
        if key not in self._outputs:
            weight = self._weight(writer)
            WtR = self.on_inputs(writer, name, index).to(weight.device)
            self._outputs[key] = torch.cat([W.float() @ WtR for W in weight.split(ROWS_IN_BLOCK)]).cpu()
        return self._outputs[key]

    def row_squares(self, writer: Writer) -> torch.Tensor:
        """``|W_i|^2`` ``(d,)``."""
        if writer.name not in self._row_squares:
            parts = [W.float().square().sum(1) for W in self._weight(writer).split(ROWS_IN_BLOCK)]
            self._row_squares[writer.name] = torch.cat(parts).cpu()
        return self._row_squares[writer.name]

    def release_keys(self) -> None:
        """Let go of the writers' inputs: what was computed of them stays, and nothing more can be."""
        self._harmful, self._harmless = {}, {}
        self._kept = None if self._kept is None else {}

    def harmless_mean(self, writer: Writer) -> torch.Tensor:
        """Mean ``(d_in,)`` of the writer's inputs over all harmless keys, at every position that was kept."""
        if writer.name not in self._means:
            self._means[writer.name] = self._keys(writer)[1].to(torch.float32).mean(dim=(0, 1))
        return self._means[writer.name]

    def bias(self, writer: Writer) -> torch.Tensor | None:
        """The writer's bias ``(d,)``, if it has one."""
        if writer.bias_name is None:
            return None
        path = f"{writer.module_path}.{writer.bias_parameter}"
        return read_weight(self._model, path).to("cpu", torch.float32)

    def guarded(
        self, writer: Writer, name: str, index: int, units: Sequence[int], alpha: float, beta: float, gamma: float
    ) -> torch.Tensor:
        """The guarded solution ``(d_in, K)`` for these units of the direction set ``name``."""
        indices = self._solved_together(writer, index)
        if (writer.name, indices, alpha) not in self._solutions:
            self._solutions[writer.name, indices, alpha] = self._solve(writer, indices, alpha)
        widths = [self._directions[other].vectors.shape[1] for other in self._directions]
        before = sum(widths[: list(self._directions).index(name)])
        begin = sum(widths) * indices.index(index) + before
        solution, columns = self._solutions[writer.name, indices, alpha], [begin + unit for unit in units]
        if isinstance(solution, BalancedSolution):
            return solution.at(beta, gamma, columns)
        return solution.at(beta, columns)

    def _solved_together(self, writer: Writer, index: int) -> tuple[int, ...]:
        together = tuple(dict.fromkeys((writer.layer + 1, *self._states)))
        return together if index in together else (index,)

    def _solve(self, writer: Writer, indices: tuple[int, ...], alpha: float) -> GuardedSolution | BalancedSolution:
        harmful, harmless = self._keys(writer)
        n_keys = min(harmful.shape[1], harmless.shape[1])
        if self._kept is not None:
            n_keys = min(n_keys, self._kept[writer.name].shape[1])
        WtR = torch.cat([self.on_inputs(writer, name, index) for index in indices for name in self._directions], dim=1)
        moved, guards = (keys[:, -n_keys:].to(torch.float32) for keys in (harmful, harmless))
        if self._kept is None:
            return solve_guarded(moved, guards, WtR, alpha=alpha, writer=writer.name)
        kept = self._kept[writer.name][:, -n_keys:].to(torch.float32)
        return solve_balanced(moved, guards, kept, WtR, alpha=alpha, writer=writer.name, n_answer=self._n_answer)

    def _keys(self, writer: Writer) -> tuple[torch.Tensor, torch.Tensor]:
        """Harmful and harmless inputs ``(n, P, d_in)`` of the writer."""
        if writer.name not in self._harmful:
            raise UsageError(
                f"there are no inputs of writer {writer.name}: they were not collected, or released after the edits "
                "were prepared; prepare this rule and alpha too"
            )
        return self._harmful[writer.name], self._harmless[writer.name]

    def _weight(self, writer: Writer) -> torch.Tensor:
        """The weight as ``(d, d_in)``, in the model's dtype: of one in memory a view, never a copy."""
        weight = read_weight(self._model, f"{writer.module_path}.{writer.parameter}")
        return weight if writer.layout == "linear" else weight.T
