"""What each writer adds to the residual stream: its output, behind its gate, its norms and its scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from sombrero.models.weights import read_weight
from sombrero.records import Writer

Receiver = Callable[[Mapping[str, torch.Tensor]], None]
"""Takes what the writers of a layer add: writer name -> ``(n, tokens, d)`` float32."""


def gain(model: nn.Module, writer: Writer) -> torch.Tensor:
    """g ``(d,)`` float32: what the norms behind the writer multiply its output by, beside their division by the rms."""
    product = torch.ones(writer.d_out)
    for norm in writer.post_norms:
        weight = read_weight(model, f"{norm.module_path}.weight")
        product = product.to(weight.device) * (weight.to(torch.float32) + norm.offset)
    return product


def in_stream(V: torch.Tensor, model: nn.Module, writer: Writer) -> torch.Tensor:
    """Directions V ``(d, K)`` of a writer's output as directions of the residual stream: ``V / g`` behind norms."""
    if not writer.post_norms:
        return V
    g = gain(model, writer).to(V.device)[:, None]
    return torch.where(g == 0, torch.zeros_like(V), V / g)


@contextmanager
def watched(
    model: nn.Module, layers: Sequence[nn.Module], writers: Sequence[Writer], receive: Receiver
) -> Iterator[None]:
    """For as long as the context lasts, ``receive`` is called at the end of each layer with what its writers added.

    Layers without one of these writers are not reported.
    """
    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            own = [writer for writer in writers if writer.layer == index]
            if own:
                _Watch(model, own, receive).attach(layer, stack)
        yield


class _Watch:
    """One layer: keeps what its writers, gates and norms gave, until the layer ends."""

    def __init__(self, model: nn.Module, writers: Sequence[Writer], receive: Receiver) -> None:
        self._model = model
        self._writers = writers
        self._receive = receive
        self._seen: dict[str, torch.Tensor] = {}

    def attach(self, layer: nn.Module, stack: ExitStack) -> None:
        gates = {writer.gate_path for writer in self._writers if writer.gate_path is not None}
        for path in {writer.module_path for writer in self._writers} | gates:
            stack.callback(self._model.get_submodule(path).register_forward_hook(self._keep(path)).remove)
        for path, offset in {(norm.module_path, norm.offset) for writer in self._writers for norm in writer.post_norms}:
            module = self._model.get_submodule(path)
            stack.callback(module.register_forward_hook(self._keep_factor(path, offset)).remove)
        stack.callback(layer.register_forward_hook(self._finish).remove)

    def _keep(self, path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: torch.Tensor) -> None:
            self._seen[path] = output.detach().to(torch.float32)

        return hook

    def _keep_factor(self, path: str, offset: float) -> Callable[..., None]:
        """Keep, of a norm, ``g / rms``: what it multiplied each token by."""

        def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            g = read_weight(module, "weight").to(torch.float32) + offset
            scaled = g * args[0].to(torch.float32)
            squares = scaled.square().sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            per_token = (output.to(torch.float32) * scaled).sum(-1, keepdim=True) / squares
            self._seen[path] = per_token * g

        return hook

    def _finish(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        result = output[0] if isinstance(output, tuple) else output
        self._receive({writer.name: self._contribution(writer, result) for writer in self._writers})
        self._seen.clear()

    def _contribution(self, writer: Writer, result: torch.Tensor) -> torch.Tensor:
        written = writer.scale * self._seen[writer.module_path].reshape(result.shape)
        if writer.gate_path is not None:
            written = written * self._seen[writer.gate_path].sigmoid().reshape(*result.shape[:-1], 1)
        for norm in writer.post_norms:
            written = written * self._seen[norm.module_path].reshape(result.shape)
        return written.to(result.device)
