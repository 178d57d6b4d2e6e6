"""A live edit: forward hooks on the writers. No weight is touched, and leaving the context removes everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sombrero.edits.kernels import edit_output
from sombrero.errors import ArchitectureError
from sombrero.records import LowRankEdit, ModelEdit, ModelHandle, Subject, Writer


@contextmanager
def live_edit(handle: ModelHandle, writers: Sequence[Writer], edit: ModelEdit) -> Iterator[ModelHandle]:
    """The handle, behaving as the edited model for as long as the context lasts.

    Raises ArchitectureError when the edit names a writer that the model does not have.
    """
    by_name = {writer.name: writer for writer in writers}
    unknown = sorted(set(edit) - set(by_name))
    if unknown:
        raise ArchitectureError(f"the edit names writers that the model does not have: {', '.join(unknown[:8])}")
    hooks = []
    try:
        for name, low_rank in edit.items():
            module = handle.model.get_submodule(by_name[name].module_path)
            hooks.append(module.register_forward_hook(_correct(_placed(low_rank, module))))
        yield handle
    finally:
        for hook in hooks:
            hook.remove()


def edited(handle: ModelHandle, writers: Sequence[Writer], edit: ModelEdit) -> Subject:
    """The live-edited model as a subject to measure."""
    return lambda: live_edit(handle, writers, edit)


def _placed(edit: LowRankEdit, module: nn.Module) -> LowRankEdit:
    """The edit's tensors where the module's weight is, in float32: moved once, not at every token."""
    device = next(module.parameters()).device
    c = None if edit.c is None else edit.c.to(device, torch.float32)
    return LowRankEdit(edit.V.to(device, torch.float32), edit.A.to(device, torch.float32), c, edit.strength)


def _correct(edit: LowRankEdit) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor]:
    def hook(_module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return edit_output(output, args[0], edit)

    return hook
