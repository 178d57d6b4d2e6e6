"""Residual accounting: do the covered writers explain what each layer adds to the residual stream?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from sombrero.architectures import Architecture, get_layers, layer_scale
from sombrero.edits.contributions import watched
from sombrero.errors import CoverageError
from sombrero.records import LayerAccounting, ModelHandle, RenderedPrompt, Writer

# A layer adds in the model's dtype, so the change that we see carries the rounding of the two sums h + y: up to
# eps * |h| each. The allowance grows with |h| / |change|, which is large where the stream carries massive activations.
ROUNDINGS = 4.0
TOLERANCE = 1e-4


def account_residuals(
    handle: ModelHandle,
    architecture: Architecture,
    writers: Sequence[Writer],
    prompts: Sequence[RenderedPrompt],
) -> tuple[LayerAccounting, ...]:
    """Compare, on a probe of prompts, the sum of what the writers add with ``h_{l+1} - h_l`` for every layer.

    Where the layer multiplies all that it returns by a number, ``h_{l+1}`` is taken before that. Raises CoverageError
    naming the layers whose change the writers do not explain, and the writer that is to blame, where one alone is.
    """
    layers = get_layers(handle.model, architecture)
    ledgers = [_Ledger(layer_scale(layer, architecture)) for layer in layers]

    def receive(contributions: Mapping[str, torch.Tensor]) -> None:
        layer = layer_of[next(iter(contributions))]
        ledgers[layer].written = contributions

    layer_of = {writer.name: writer.layer for writer in writers}
    with ExitStack() as stack:
        stack.enter_context(watched(handle.model, layers, writers, receive))
        for layer, ledger in zip(layers, ledgers, strict=True):
            stack.callback(layer.register_forward_pre_hook(ledger.before, with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(ledger.after).remove)
        with torch.inference_mode():
            for prompt in prompts:
                handle.model(input_ids=torch.tensor([prompt.token_ids], device=handle.device), use_cache=False)
    result = tuple(
        LayerAccounting(index, ledger.relative_error, tuple(w.name for w in writers if w.layer == index))
        for index, ledger in enumerate(ledgers)
    )
    wrong = [entry for entry, ledger in zip(result, ledgers, strict=True) if entry.relative_error > ledger.allowance]
    if wrong:
        worst = max(wrong, key=lambda entry: entry.relative_error)
        blamed = [ledgers[worst.layer].blamed, *(ledgers[entry.layer].blamed for entry in wrong)]
        culprit = next((name for name in blamed if name is not None), None)
        cause = (
            "misses a writer or names a wrong module" if culprit is None else f"claims {culprit}, which is no writer"
        )
        raise CoverageError(
            f"the writers of {len(wrong)} of {len(layers)} layers do not account for what the layer adds to the "
            f"residual stream; worst: layer {worst.layer}, relative error {worst.relative_error:.3g}, writers "
            f"{', '.join(worst.writers) or 'none'}. The architecture file {cause}"
        )
    return result


class _Ledger:
    """Sums over the probe, for one layer: the squared error, the squared change, the rounding that is allowed.

    ``written`` is what its writers added in the forward pass that goes on.
    """

    def __init__(self, scale: float) -> None:
        self.written: Mapping[str, torch.Tensor] = {}
        self._scale = scale
        self._entry = torch.zeros(0)
        self._error = self._change = self._stream = self._eps = 0.0
        self._without: dict[str, float] = {}

    @property
    def relative_error(self) -> float:
        return self._relative(self._error)

    @property
    def allowance(self) -> float:
        return float(TOLERANCE + ROUNDINGS * self._eps * self._relative(self._stream))

    @property
    def blamed(self) -> str | None:
        """The writer without which the others account for the layer; None when there is no such."""
        fitting = [name for name, error in self._without.items() if self._relative(error) <= self.allowance]
        return fitting[0] if len(fitting) == 1 else None

    def before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._entry = args[0] if args else kwargs["hidden_states"]
        self.written = {}

    def after(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        result = output[0] if isinstance(output, tuple) else output
        change = result.to(torch.float32) / self._scale - self._entry.to(torch.float32)
        left = sum(self.written.values(), torch.zeros((), device=change.device)) - change
        self._error += float(left.square().sum())
        for name, contribution in self.written.items():
            self._without[name] = self._without.get(name, 0.0) + float((left - contribution).square().sum())
        self._change += float(change.square().sum())
        self._stream += float(result.to(torch.float32).square().sum())
        self._eps = torch.finfo(result.dtype).eps

    def _relative(self, squares: float) -> float:
        return float((squares / max(self._change, 1e-30)) ** 0.5)
