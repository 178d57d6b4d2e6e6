"""Residual accounting: do the covered writers explain what each layer adds to the residual stream?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from sombrero.architectures import Architecture, get_layers
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
    """Compare, on a probe of prompts, the sum of the writers' outputs with ``h_{l+1} - h_l`` for every layer.

    Raises CoverageError naming the layers whose change the writers do not explain.
    """
    layers = get_layers(handle.model, architecture)
    ledgers = [_Ledger() for _ in layers]
    hooks: list[Any] = []
    for layer, ledger in zip(layers, ledgers, strict=True):
        hooks.append(layer.register_forward_pre_hook(ledger.before, with_kwargs=True))
        hooks.append(layer.register_forward_hook(ledger.after))
    for writer in writers:
        module = handle.model.get_submodule(writer.module_path)
        hooks.append(module.register_forward_hook(ledgers[writer.layer].contribution()))
    try:
        with torch.inference_mode():
            for prompt in prompts:
                handle.model(input_ids=torch.tensor([prompt.token_ids], device=handle.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    result = tuple(
        LayerAccounting(index, ledger.relative_error, tuple(w.name for w in writers if w.layer == index))
        for index, ledger in enumerate(ledgers)
    )
    wrong = [entry for entry, ledger in zip(result, ledgers, strict=True) if entry.relative_error > ledger.allowance]
    if wrong:
        worst = max(wrong, key=lambda entry: entry.relative_error)
        raise CoverageError(
            f"the writers of {len(wrong)} of {len(layers)} layers do not account for what the layer adds to the "
            f"residual stream; worst: layer {worst.layer}, relative error {worst.relative_error:.3g}, writers "
            f"{', '.join(worst.writers) or 'none'}. The architecture file misses a writer or names a wrong module"
        )
    return result


class _Ledger:
    """Sums over the probe, for one layer: the squared error, the squared change, the rounding that is allowed."""

    def __init__(self) -> None:
        self._entry = torch.zeros(0)
        self._written = torch.zeros(())
        self._error = self._change = self._stream = self._eps = 0.0

    @property
    def relative_error(self) -> float:
        return float((self._error / max(self._change, 1e-30)) ** 0.5)

    @property
    def allowance(self) -> float:
        return float(TOLERANCE + ROUNDINGS * self._eps * (self._stream / max(self._change, 1e-30)) ** 0.5)

    def before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._entry = args[0] if args else kwargs["hidden_states"]
        self._written = torch.zeros((), device=self._entry.device)

    def contribution(self) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], None]:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: torch.Tensor) -> None:
            self._written = self._written + output.to(torch.float32)

        return hook

    def after(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        result = output[0] if isinstance(output, tuple) else output
        change = result.to(torch.float32) - self._entry.to(torch.float32)
        self._error += float((self._written - change).square().sum())
        self._change += float(change.square().sum())
        self._stream += float(result.to(torch.float32).square().sum())
        self._eps = torch.finfo(result.dtype).eps
