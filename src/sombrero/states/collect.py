"""Collect hidden states and writer inputs at the end of each prompt, with forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sombrero.architectures import Architecture, get_layers
from sombrero.errors import NumericalError
from sombrero.models.batches import Forward, common_suffix, prepare_batch, token_batches
from sombrero.records import HiddenStates, ModelHandle, RenderedPrompt, Writer


def collect_states(
    handle: ModelHandle,
    architecture: Architecture,
    writers: Sequence[Writer],
    prompts: Sequence[RenderedPrompt],
    *,
    batch_tokens: int = 4096,
    key_positions: int = 1,
    openings: Sequence[Sequence[int]] = (),
    winsorize: float | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> HiddenStates:
    """Run the prompts through the model once and keep what stands at their end.

    Hidden states are those at the last token of the prompt. Writer inputs are kept at ``key_positions`` tokens, but at
    no more than all prompts have in common at their end: the template's tail. Those of experts in one module are not
    kept. ``openings``, of one length, are answers that the prompts are continued with, one for each; writer inputs are
    kept at all their tokens too. ``batch_tokens`` bounds the tokens of a forward batch, padding included.
    ``winsorize`` clips each hidden state at that quantile of its absolute values. Returns tensors on the CPU, in the
    order of ``prompts``.

    Raises NumericalError when a state is NaN or infinite, naming the layer and the prompt.
    """
    rows = [prompt.token_ids for prompt in prompts]
    n_keys = max(1, common_suffix(rows, min(key_positions, min(map(len, rows)) - 1)))
    n_answer = len(openings[0]) if openings else 0
    if openings:
        rows = [(*row, *opening) for row, opening in zip(rows, openings, strict=True)]
    recorder = _Recorder(len(rows), n_keys + n_answer, n_answer)
    forward, layers = Forward(handle.model), get_layers(handle.model, architecture)
    with torch.inference_mode():
        for indices in token_batches([len(row) for row in rows], batch_tokens):
            batch = prepare_batch(handle, [rows[i] for i in indices], n_last=n_keys + n_answer)
            with recorder.attached(handle.model, layers, writers, indices):
                forward.last_logits(batch, 1)
            if on_progress is not None:
                on_progress(len(indices))
    hidden = recorder.hidden
    _require_finite(hidden, prompts)
    if winsorize is not None:
        limit = torch.quantile(hidden.abs(), winsorize, dim=-1, keepdim=True)
        hidden = hidden.clamp(-limit, limit)
    return HiddenStates(tuple(p.prompt.id for p in prompts), hidden, recorder.inputs)


class _Recorder:
    """Keeps, for every layer and writer, the rows that the hooks see at the end of each prompt.

    Each is written where it belongs in a tensor for all prompts: parts that are joined later would need their memory
    twice. Rows are padded on the left, and openings are of one length, so all prompts end in the same columns.
    """

    def __init__(self, n_prompts: int, n_keys: int, n_answer: int) -> None:
        self._n_prompts = n_prompts
        self._n_keys = n_keys
        self._last = -1 - n_answer
        self.hidden = torch.empty(0)
        self.inputs: dict[str, torch.Tensor] = {}

    @contextmanager
    def attached(
        self, model: nn.Module, layers: Sequence[nn.Module], writers: Sequence[Writer], indices: Sequence[int]
    ) -> Iterator[None]:
        """Record what a forward pass of the prompts ``indices`` brings."""
        rows = torch.tensor(indices)
        n_states = len(layers) + 1
        hooks = [layers[0].register_forward_pre_hook(self._keep_embeddings(n_states, rows), with_kwargs=True)]
        hooks += [
            layer.register_forward_hook(self._keep_output(n_states, i + 1, rows)) for i, layer in enumerate(layers)
        ]
        for writer in writers:
            if writer.n_experts is None:
                module = model.get_submodule(writer.module_path)
                hooks.append(module.register_forward_pre_hook(self._keep_input(writer.name, rows)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _keep_state(self, n_states: int, index: int, rows: torch.Tensor, states: torch.Tensor) -> None:
        if self.hidden.numel() == 0:
            self.hidden = _empty(torch.float32, self._n_prompts, n_states, states.shape[-1])
        self.hidden[rows, index] = states[:, self._last].to("cpu", torch.float32)

    def _keep_embeddings(self, n_states: int, rows: torch.Tensor) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep_state(n_states, 0, rows, args[0] if args else kwargs["hidden_states"])

        return hook

    def _keep_output(self, n_states: int, index: int, rows: torch.Tensor) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._keep_state(n_states, index, rows, output[0] if isinstance(output, tuple) else output)

        return hook

    def _keep_input(self, name: str, rows: torch.Tensor) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            keys = args[0].reshape(len(rows), -1, args[0].shape[-1])  # beside a router, rows are joined
            keys = keys[:, -self._n_keys :].to("cpu")
            if name not in self.inputs:
                self.inputs[name] = _empty(keys.dtype, self._n_prompts, *keys.shape[1:])
            self.inputs[name][rows] = keys

        return hook


def _empty(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """A tensor to fill under ``inference_mode`` that may be used outside of it like any other."""
    with torch.inference_mode(False):
        return torch.empty(*shape, dtype=dtype)


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
