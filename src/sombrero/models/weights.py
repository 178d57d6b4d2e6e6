"""How one weight of a loaded model is read, wherever it lies and however it is packed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from copy import copy

import torch
from torch import nn

from sombrero.errors import ModelError

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def read_weight(model: nn.Module, path: str) -> torch.Tensor:
    """The parameter at ``path`` as plain floats, wherever it lies, on the device that its module computes on.

    A parameter in memory is given as it is, not copied. One that is offloaded is read for the caller alone: it goes
    when the caller lets go of it. One packed by bitsandbytes or in FP8 with block scales is dequantized, in the dtype
    in which its module computes it. Raises ModelError for another packing.
    """
    owner, _, name = path.rpartition(".")
    module = model.get_submodule(owner)
    with in_place(module):
        parameter = module.get_parameter(name)
        if parameter.dtype in FLOATS:
            return parameter.detach()
        return _unpacked(module, name, parameter, path)


def is_offloaded(module: nn.Module) -> bool:
    """Whether the module's own weights come into memory for each call and leave it again."""
    return bool(getattr(getattr(module, "_hf_hook", None), "offload", False))


def in_place(module: nn.Module) -> AbstractContextManager[None]:
    """The module's own weights are in memory for as long as the context lasts."""
    if not is_offloaded(module):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


def _unpacked(module: nn.Module, name: str, parameter: nn.Parameter, path: str) -> torch.Tensor:
    kind = type(parameter).__name__
    if kind in ("Params4bit", "Int8Params"):
        from bitsandbytes import functional

        if kind == "Params4bit":
            packed, state = parameter.data, parameter.quant_state  # type: ignore[attr-defined]
            if getattr(state, "packing_format_for_cpu", False):
                # After its first pass on a processor with bfloat16 a module's numbers lie as its kernel wants them. The
                # library's way back leaves the scales in the kernel's order, or rounds them: they are put back here.
                state, scales = copy(state), state.absmax.T.reshape(-1).float()
                state.original_nested = False
                packed, state = functional._convert_weight_packed_for_cpu_inverse(packed, state)
                state.absmax = scales
            return functional.dequantize_4bit(packed, state)
        # the scales move from the parameter to the module's state when it is first run
        scales = module.state.SCB if parameter.SCB is None else parameter.SCB  # type: ignore[attr-defined, union-attr]
        return functional.int8_vectorwise_dequant(parameter.data, scales)  # type: ignore[no-any-return, arg-type]
    scales = getattr(module, f"{name}_scale_inv", None)
    if isinstance(scales, torch.Tensor) and parameter.dtype == torch.float8_e4m3fn:
        return dequantize_blocks(parameter.detach(), scales.detach(), getattr(module, "block_size", None))
    raise ModelError(
        f"{path} is packed as {kind} of {parameter.dtype}, which cannot be unpacked; load the checkpoint from before "
        "quantization, or let bitsandbytes quantize it at load"
    )


def dequantize_blocks(
    packed: torch.Tensor, scales: torch.Tensor, block: tuple[int, int] | list[int] | None
) -> torch.Tensor:
    """``(…, rows, columns)`` FP8 times the scale of each block, in bfloat16; blocks at the edge may be smaller.

    scales: float32, or bytes that are exponents of two with bias 127 (E8M0); one for each ``block`` of (rows, columns),
    or one alone.
    """
    factors = (scales.to(torch.float32) - 127).exp2() if scales.dtype == torch.uint8 else scales.to(torch.float32)
    if block is not None and factors.numel() > 1:
        for axis, size in zip((-2, -1), block, strict=True):
            factors = factors.repeat_interleave(size, dim=axis).narrow(axis, 0, packed.shape[axis])
    return (packed.to(torch.float32) * factors).to(torch.bfloat16)
