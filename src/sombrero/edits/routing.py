"""Routing: which experts prompts reach, and how far an edit moves the routers' logits and choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sombrero.edits.live import live_edit
from sombrero.errors import ArchitectureError, UsageError
from sombrero.records import LayerRouting, ModelEdit, ModelHandle, RenderedPrompt, Writer

Seen = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Writer name -> logits ``(tokens, experts)`` float32, and the experts chosen ``(tokens, chosen)``."""


def measure_routing(
    handle: ModelHandle, writers: Sequence[Writer], edit: ModelEdit, prompts: Sequence[RenderedPrompt]
) -> tuple[LayerRouting, ...]:
    """For each writer that holds experts: those that the prompts reach, and the router before and after the edit.

    Every prompt is run twice, by itself. Empty for a model without experts. Raises UsageError when there is no prompt,
    ArchitectureError when a router does not give logits for each expert and the experts it chose.
    """
    routed = [writer for writer in writers if writer.n_experts is not None]
    if not routed:
        return ()
    if not prompts:
        raise UsageError("the routers are measured on prompts, and there are none; give a few that were mapped")
    sums = {writer.name: _Sums(torch.zeros(writer.n_experts or 0, dtype=torch.bool)) for writer in routed}
    for prompt in prompts:
        before = _route(handle, routed, prompt)
        with live_edit(handle, writers, edit):
            after = _route(handle, routed, prompt)
        for name, own in sums.items():
            own.add(*before[name], *after[name])
    return tuple(sums[writer.name].result(writer) for writer in routed)


@dataclass
class _Sums:
    """Of one router over the prompts."""

    reached: torch.Tensor
    change: float = 0.0
    logits: float = 0.0
    switched: int = 0
    chosen: int = 0

    def add(self, logits: torch.Tensor, chosen: torch.Tensor, new_logits: torch.Tensor, new: torch.Tensor) -> None:
        self.reached[chosen.flatten()] = True
        self.change += float((new_logits - logits).square().sum())
        self.logits += float(logits.square().sum())
        self.switched += int((new[:, :, None] != chosen[:, None, :]).all(dim=-1).sum())
        self.chosen += new.numel()

    def result(self, writer: Writer) -> LayerRouting:
        return LayerRouting(
            layer=writer.layer,
            writer=writer.name,
            experts=writer.n_experts or 0,
            reached=int(self.reached.sum()),
            logit_change=(self.change / max(self.logits, 1e-30)) ** 0.5,
            switched=self.switched / max(self.chosen, 1),
        )


def _route(handle: ModelHandle, routed: Sequence[Writer], prompt: RenderedPrompt) -> Seen:
    seen: Seen = {}
    with _listening(handle.model, routed, seen), torch.inference_mode():
        handle.model(input_ids=torch.tensor([prompt.token_ids], device=handle.device), use_cache=False)
    return seen


@contextmanager
def _listening(model: nn.Module, routed: Sequence[Writer], seen: Seen) -> Iterator[None]:
    with ExitStack() as stack:
        for writer in routed:
            router = model.get_submodule(str(writer.router_path))
            stack.callback(router.register_forward_hook(_listen(writer, seen)).remove)
        yield


def _listen(writer: Writer, seen: Seen) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        parts = output if isinstance(output, tuple) else (output,)
        whole = [part for part in parts if isinstance(part, torch.Tensor) and not part.is_floating_point()]
        if parts[0].shape[-1] != writer.n_experts or len(whole) != 1:
            raise ArchitectureError(
                f"the router {writer.router_path} does not give logits for {writer.n_experts} experts and the experts "
                f"that it chose; correct the router of {writer.name} in its architecture file"
            )
        logits, chosen = parts[0].detach().to("cpu", torch.float32), whole[0].detach().cpu()
        seen[writer.name] = logits.flatten(0, -2), chosen.flatten(0, -2)

    return hook
