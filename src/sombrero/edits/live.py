"""A live edit: forward hooks on the writers. No weight is touched, and leaving the context removes everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from sombrero.edits.kernels import edit_bias, edit_output, edit_weight
from sombrero.errors import ArchitectureError
from sombrero.models.products import Product, linear_like
from sombrero.models.weights import in_place, is_offloaded, read_weight
from sombrero.records import LowRankEdit, ModelEdit, ModelHandle, Subject, Writer, execution_device

Hook = Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor]


@contextmanager
def live_edit(
    handle: ModelHandle, writers: Sequence[Writer], edit: ModelEdit, *, rounded: bool = False
) -> Iterator[ModelHandle]:
    """The handle, behaving as the edited model for as long as the context lasts.

    ``rounded`` makes it behave as the baked checkpoint will, to the bit: each edited writer runs with its edited weight
    rounded to the checkpoint's dtype, as the bake stores it. That holds a copy of these weights for as long as it
    lasts, two where the model's own are packed for its passes; without it, the edit is two thin products beside the
    writer, exact in float32, and nothing is copied.

    Raises ArchitectureError when the edit names a writer that the model does not have, or, with ``rounded``, moves a
    bias of one that has none.
    """
    by_name = {writer.name: writer for writer in writers}
    unknown = sorted(set(edit) - set(by_name))
    if unknown:
        raise ArchitectureError(f"the edit names writers that the model does not have: {', '.join(unknown[:8])}")
    with ExitStack() as stack:
        for name, low_rank in edit.items():
            writer = by_name[name]
            module = handle.model.get_submodule(writer.module_path)
            if rounded and writer.n_experts is not None:
                if is_offloaded(module):
                    hook = _exchanging(low_rank, writer, handle.stored_dtype)
                    stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
                else:
                    stack.enter_context(_exchanged(low_rank, module, writer, handle.stored_dtype))
                continue
            if rounded:
                hook = _replace(low_rank, handle.model, module, writer, handle.stored_dtype)
            else:
                hook = _correct(_placed(low_rank, module))
            stack.callback(module.register_forward_hook(hook).remove)
        yield handle


def edited(handle: ModelHandle, writers: Sequence[Writer], edit: ModelEdit, *, rounded: bool = False) -> Subject:
    """The live-edited model as a subject to measure; see :func:`live_edit`."""
    return lambda: live_edit(handle, writers, edit, rounded=rounded)


def _placed(edit: LowRankEdit, module: nn.Module) -> LowRankEdit:
    """The edit's tensors where the module's weight is, in float32: moved once, not at every token."""
    device = execution_device(module)
    A, c, row_scale, U = (
        None if part is None else part.to(device, torch.float32) for part in (edit.A, edit.c, edit.row_scale, edit.U)
    )
    return LowRankEdit(edit.V.to(device, torch.float32), A, c, edit.strength, row_scale, U)


def _correct(edit: LowRankEdit) -> Hook:
    def hook(_module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return edit_output(output, args[0] if args else None, edit)

    return hook


@contextmanager
def _exchanged(
    edit: LowRankEdit, module: nn.Module, writer: Writer, stored_dtype: torch.dtype | None
) -> Iterator[None]:
    """Experts' tensors edited in place for as long as the context lasts: which expert writes what, only they know."""
    names = [writer.parameter, *([writer.bias_parameter] if writer.bias_name is not None else [])]
    parameters = [module.get_parameter(name) for name in names]
    old = [parameter.data for parameter in parameters]
    for name, parameter, loaded in zip(names, parameters, old, strict=True):
        stored = stored_dtype or loaded.dtype
        wide, is_weight = _wide(loaded, stored), name == writer.parameter
        edited = edit_weight(wide, edit, writer.layout) if is_weight else edit_bias(wide, edit)
        parameter.data = edited.to(stored).to(loaded.dtype)
    try:
        yield
    finally:
        for parameter, loaded in zip(parameters, old, strict=True):
            parameter.data = loaded


def _exchanging(edit: LowRankEdit, writer: Writer, stored_dtype: torch.dtype | None) -> Callable[..., Any]:
    """The same for experts whose tensors are in memory during a call alone: they run again, edited."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> Any:
        with in_place(module), _exchanged(edit, module, writer, stored_dtype):
            # accelerate keeps the class's own forward there
            return module._old_forward(*args, **kwargs)  # type: ignore[operator]

    return hook


def _wide(loaded: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    """Numbers as a bake reads them: those of a packed weight can be finer than what its edit is stored in."""
    return loaded.to(torch.promote_types(loaded.dtype, stored))


def _replace(
    edit: LowRankEdit, model: nn.Module, module: nn.Module, writer: Writer, stored_dtype: torch.dtype | None
) -> Hook:
    has_bias = isinstance(module.bias, torch.Tensor)
    if not has_bias and edit.c is not None and edit.c.any():
        raise ArchitectureError(
            f"the edit of {writer.name} moves a bias (c is not zero), and {writer.module_path} has none: no checkpoint "
            "of this architecture can hold it; take a rule without c"
        )

    def edited_product() -> Product:
        loaded = read_weight(module, "weight")
        dtype, stored = loaded.dtype, stored_dtype or loaded.dtype
        weight = edit_weight(_wide(loaded, stored), edit, writer.layout).to(stored).to(dtype)
        rows = weight if writer.layout == "linear" else weight.T
        bias = _wide(read_weight(module, "bias"), stored) if has_bias else None
        return linear_like(model, module, rows, None if bias is None else edit_bias(bias, edit).to(stored).to(dtype))

    # weights that are offloaded are not to be held: each call reads and edits them again
    held = None if is_offloaded(module) else edited_product()
    device = execution_device(module)

    def hook(_module: nn.Module, args: tuple[Any, ...], _output: torch.Tensor) -> torch.Tensor:
        return (held or edited_product())(args[0].to(device))

    return hook
