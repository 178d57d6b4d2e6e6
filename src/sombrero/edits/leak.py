"""The leak check: how much of the component along an edit's directions the edited layers still write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from sombrero.architectures import Architecture, get_layers
from sombrero.edits.contributions import in_stream, watched
from sombrero.edits.live import live_edit
from sombrero.edits.rules import orthonormal_basis
from sombrero.errors import UsageError
from sombrero.records import LayerLeak, ModelEdit, ModelHandle, RenderedPrompt, Writer


def check_leak(
    handle: ModelHandle,
    architecture: Architecture,
    writers: Sequence[Writer],
    edit: ModelEdit,
    prompts: Sequence[RenderedPrompt],
    *,
    rounded: bool = False,
) -> tuple[LayerLeak, ...]:
    """For each edited layer, the component that its writers write along the edit's directions there, after over before.

    Measured at the last token of the prompts, in three passes: the untouched model; the live-edited model, with every
    layer entered with the untouched model's residual stream; the live-edited model as it runs. After ``project`` at
    strength 1 of all writers both ratios are rounding. The component is counted from zero: a rule that moves it to the
    harmless mean (``affine``, ``guarded``) or keeps a part (``norm``, ``compose``, another strength) leaves that.
    ``rounded`` checks the edit as a checkpoint stores it (:func:`sombrero.edits.live_edit`).

    Raises UsageError when there is no prompt.
    """
    if not prompts:
        raise UsageError("the leak check got no prompts; give it a few harmful ones")
    layers = get_layers(handle.model, architecture)
    bases = {
        layer: orthonormal_basis(torch.cat(list(directions), dim=1)).V.to(handle.device)
        for layer, directions in _directions(handle.model, writers, edit).items()
    }
    before, same_stream, end_to_end = (dict.fromkeys(bases, 0.0) for _ in range(3))
    for prompt in prompts:
        streams: list[torch.Tensor] = []
        with _keeping(layers, streams), _metered(handle, layers, writers, bases, before):
            _run(handle, prompt)
        with live_edit(handle, writers, edit, rounded=rounded):
            with _metered(handle, layers, writers, bases, same_stream), _entering(layers, streams):
                _run(handle, prompt)
            with _metered(handle, layers, writers, bases, end_to_end):
                _run(handle, prompt)
    return tuple(
        LayerLeak(
            layer=layer,
            writers=tuple(w.name for w in writers if w.layer == layer and w.name in edit),
            written=(before[layer] / len(prompts)) ** 0.5,
            ratio=_ratio(same_stream[layer], before[layer]),
            end_to_end=_ratio(end_to_end[layer], before[layer]),
        )
        for layer in sorted(bases)
    )


def _directions(model: nn.Module, writers: Sequence[Writer], edit: ModelEdit) -> Mapping[int, list[torch.Tensor]]:
    """Layer -> directions of the stream that its edited writers lose, each once: they mostly share theirs."""
    found: dict[int, dict[int, torch.Tensor]] = {}
    for writer in writers:
        if writer.name in edit:
            V = edit[writer.name].V
            found.setdefault(writer.layer, {})[id(V)] = in_stream(V, model, writer)
    return {layer: list(directions.values()) for layer, directions in found.items()}


def _run(handle: ModelHandle, prompt: RenderedPrompt) -> None:
    with torch.inference_mode():
        handle.model(input_ids=torch.tensor([prompt.token_ids], device=handle.device), use_cache=False)


def _ratio(after: float, before: float) -> float:
    return float((after / max(before, 1e-30)) ** 0.5)


@contextmanager
def _metered(
    handle: ModelHandle,
    layers: Sequence[nn.Module],
    writers: Sequence[Writer],
    bases: Mapping[int, torch.Tensor],
    squares: dict[int, float],
) -> Iterator[None]:
    """Add to ``squares``, squared, what all writers of a layer together write along its basis at the last token."""
    layer_of = {writer.name: writer.layer for writer in writers}

    def receive(contributions: Mapping[str, torch.Tensor]) -> None:
        V = bases[layer_of[next(iter(contributions))]]
        written = torch.stack([added[0, -1].to(V.device) for added in contributions.values()]).sum(0)
        squares[layer_of[next(iter(contributions))]] += float((written @ V).square().sum())

    with watched(handle.model, layers, [writer for writer in writers if writer.layer in bases], receive):
        yield


@contextmanager
def _keeping(layers: Sequence[nn.Module], streams: list[torch.Tensor]) -> Iterator[None]:
    """Keep the residual stream that enters each layer."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        streams.append(args[0] if args else kwargs["hidden_states"])

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


@contextmanager
def _entering(layers: Sequence[nn.Module], streams: Sequence[torch.Tensor]) -> Iterator[None]:
    """Every layer is entered with the stream that was kept, whatever the layers before it gave."""

    def enter(stream: torch.Tensor) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
        def hook(
            _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

        return hook

    with ExitStack() as stack:
        for layer, stream in zip(layers, streams, strict=True):
            stack.callback(layer.register_forward_pre_hook(enter(stream), with_kwargs=True).remove)
        yield
