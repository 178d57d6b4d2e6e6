"""Linear layers on a CPU, from weights that are laid out beforehand as oneDNN multiplies by them.

On a processor with AVX-512 that takes 0.4 to 0.75 of the time of the plain product in float32, 0.55 to 0.95 in
bfloat16, the less the fewer rows there are (notes/LOG.md). It costs a second copy of the weights. The weights
themselves are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.functional import linear

from sombrero.models.load import computing_dtype
from sombrero.models.memory import total_bytes

PACKED_SHARE = 0.1
"""Of the machine's memory, what the second copy may take; a model that needs more is multiplied by as it is. Of all
memory, not of what is free just now: the same model on the same machine has the same sums in every process."""
Product = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def packed_products(model: nn.Module) -> Iterator[None]:
    """While it lasts, the model's linear layers multiply by packed weights, wherever that is faster and memory allows.

    For passes without gradient. Hooks on the layers run as ever. Weights are packed once, and again where they have
    changed; only a change in place through ``.data``, which PyTorch itself does not count, is not seen. Outcomes
    differ from those of the plain product by rounding alone.
    """
    layers = {module: packed for module, packed in _packed_layers(model).items() if _is_packable(module)}
    try:
        for module, packed in layers.items():
            packed.refresh(module)
            module.forward = packed  # type: ignore[method-assign, assignment]
        yield
    finally:
        for module, packed in layers.items():
            if vars(module).get("forward") is packed:
                del module.forward


def linear_like(model: nn.Module, module: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """``x (..., d_in) -> x weight^T + bias (..., d_out)`` in x's dtype, by the arithmetic of ``module`` of ``model``.

    Packed for as long as the module is, for weights of its dtype; else the plain product.
    """
    same = module in _packed_layers(model) and weight.dtype == module.weight.dtype
    packed = _PackedLinear(weight, bias) if same else None

    def product(x: torch.Tensor) -> torch.Tensor:
        if packed is not None and isinstance(vars(module).get("forward"), _PackedLinear):
            return packed(x)
        return linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    return product


class _PackedLinear:
    """The forward pass of one linear layer."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._pack(weight, bias)

    def refresh(self, module: nn.Linear) -> None:
        """Pack again what is not the weight any more that was packed."""
        weight, packed_from = module.weight, self._packed_from
        moved = weight.data_ptr() != packed_from.data_ptr() or weight.dtype != packed_from.dtype
        if moved or _version(weight) != self._version or module.bias is not self._bias:
            self._pack(weight, module.bias)

    def _pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        # the detached tensor keeps its memory: no other weight can come to lie at this address
        self._packed_from, self._version = weight.detach(), _version(weight)
        self._weight, self._bias = weight, bias
        with torch.no_grad():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._packed_from, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight = self._weight
        if torch.is_grad_enabled() or x.dtype != weight.dtype or x.shape[-1] != weight.shape[1] or not x.numel():
            return linear(x, weight, self._bias)
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return result


_packed_by_model: WeakKeyDictionary[nn.Module, dict[nn.Linear, _PackedLinear]] = WeakKeyDictionary()


def _packed_layers(model: nn.Module) -> dict[nn.Linear, _PackedLinear]:
    """The model's layers that are packed, decided once; none where the second copy would take too much memory, as it
    would where some weights stay on disk."""
    if model not in _packed_by_model:
        on_disk = any(parameter.is_meta for parameter in model.parameters())
        plain = [] if on_disk else [m for m in model.modules() if isinstance(m, nn.Linear) and _is_packable(m)]
        total = total_bytes() if plain else None
        fits = total is not None and sum(module.weight.nbytes for module in plain) <= PACKED_SHARE * total
        _packed_by_model[model] = {module: _PackedLinear(module.weight, module.bias) for module in plain if fits}
    return _packed_by_model[model]


def _is_packable(module: nn.Linear) -> bool:
    """A plain linear layer in main memory, whose forward pass nobody else has replaced, in a dtype that gains."""
    if type(module) is not nn.Linear or not isinstance(vars(module).get("forward"), _PackedLinear | None):
        return False
    weight = module.weight
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype in _gaining_dtypes()


@cache
def _gaining_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes in which packed weights are faster on this processor."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return ()
    halves = computing_dtype(torch.bfloat16, torch.device("cpu")) == torch.bfloat16
    return (torch.float32, torch.bfloat16) if halves else (torch.float32,)


def _version(weight: torch.Tensor) -> int:
    """How often the numbers of a tensor were changed in place; 0 for one that does not count, made for inference."""
    return 0 if weight.is_inference() else weight._version
