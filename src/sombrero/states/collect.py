"""Collect hidden states and writer inputs at the last token of each prompt, with forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sombrero.architectures import Architecture, get_layers
from sombrero.errors import NumericalError
from sombrero.records import HiddenStates, ModelHandle, RenderedPrompt, Writer


def collect_states(
    handle: ModelHandle,
    architecture: Architecture,
    writers: Sequence[Writer],
    prompts: Sequence[RenderedPrompt],
    *,
    batch_tokens: int = 4096,
    winsorize: float | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> HiddenStates:
    """Run the prompts through the model once and keep what stands at their last token.

    ``batch_tokens`` bounds the tokens of a forward batch, padding included. ``winsorize`` clips each hidden state at
    that quantile of its absolute values. Returns float32 tensors on the CPU, in the order of ``prompts``.

    Raises NumericalError when a state is NaN or infinite, naming the layer and the prompt.
    """
    recorder = _Recorder()
    order: list[int] = []
    with recorder.attached(handle.model, get_layers(handle.model, architecture), writers), torch.inference_mode():
        for batch in batches_by_length([len(p.token_ids) for p in prompts], batch_tokens):
            ids, mask = pad_right([prompts[i].token_ids for i in batch], handle)
            recorder.last = mask.sum(dim=1) - 1
            handle.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
            order.extend(batch)
            if on_progress is not None:
                on_progress(len(batch))
    back = torch.argsort(torch.tensor(order))
    hidden = recorder.hidden(back)
    _require_finite(hidden, prompts)
    if winsorize is not None:
        limit = torch.quantile(hidden.abs(), winsorize, dim=-1, keepdim=True)
        hidden = hidden.clamp(-limit, limit)
    return HiddenStates(tuple(p.prompt.id for p in prompts), hidden, recorder.inputs(back))


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices grouped by similar length, such that rows times the longest length stays within ``batch_tokens``."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pad_right(rows: Sequence[Sequence[int]], handle: ModelHandle) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask ``(rows, longest)`` int64; a causal model's earlier tokens never see the padding."""
    longest = max(len(row) for row in rows)
    pad = handle.tokenizer.pad_token_id or 0
    ids = torch.tensor([[*row, *([pad] * (longest - len(row)))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids.to(handle.device), mask.to(handle.device)


class _Recorder:
    """Keeps, for every layer and writer, the rows that the hooks see at the last token of each prompt."""

    def __init__(self) -> None:
        self.last = torch.zeros(0, dtype=torch.int64)
        self._hidden: dict[int, list[torch.Tensor]] = {}
        self._inputs: dict[str, list[torch.Tensor]] = {}

    @contextmanager
    def attached(self, model: nn.Module, layers: Sequence[nn.Module], writers: Sequence[Writer]) -> Iterator[None]:
        hooks = [layers[0].register_forward_pre_hook(self._keep_embeddings, with_kwargs=True)]
        hooks += [layer.register_forward_hook(self._keep_output(i + 1)) for i, layer in enumerate(layers)]
        for writer in writers:
            module = model.get_submodule(writer.module_path)
            hooks.append(module.register_forward_pre_hook(self._keep_input(writer.name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def hidden(self, order: torch.Tensor) -> torch.Tensor:
        layers = [torch.cat(self._hidden.pop(index)) for index in sorted(self._hidden)]
        return torch.stack(layers, dim=1)[order]

    def inputs(self, order: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: torch.cat(self._inputs.pop(name))[order] for name in list(self._inputs)}

    def _rows(self, tensor: torch.Tensor) -> torch.Tensor:
        picked = tensor[torch.arange(tensor.shape[0], device=tensor.device), self.last.to(tensor.device)]
        return picked.to("cpu", torch.float32)

    def _keep_embeddings(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._hidden.setdefault(0, []).append(self._rows(args[0] if args else kwargs["hidden_states"]))

    def _keep_output(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            self._hidden.setdefault(index, []).append(self._rows(tensor))

        return hook

    def _keep_input(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            self._inputs.setdefault(name, []).append(self._rows(args[0]))

        return hook


def _require_finite(hidden: torch.Tensor, prompts: Sequence[RenderedPrompt]) -> None:
    bad = (~torch.isfinite(hidden)).any(dim=-1).nonzero()
    if len(bad) == 0:
        return
    row, layer = (int(value) for value in min(bad.tolist(), key=lambda pair: pair[1]))
    where = "the embeddings" if layer == 0 else f"layer {layer - 1}"
    raise NumericalError(
        f"{len(bad)} hidden states are NaN or infinite, first after {where}, prompt {prompts[row].prompt.id!r}; "
        "load the model in bfloat16 or float32 (float16 overflows in many models), and check the checkpoint"
    )
