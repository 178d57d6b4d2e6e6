"""Linear layers on a CPU, from weights that are laid out beforehand as oneDNN multiplies by them.

On a processor with AVX-512 that takes half to three quarters of the time of the plain product, the less the fewer rows
there are (notes/LOG.md). It costs a second copy of the weights. The weights themselves are left as they are.
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
from sombrero.models.memory import free_bytes

PACKED_SHARE = 0.2
"""Of the free memory, what the second copy may take; a model that needs more is multiplied by as it is."""
Product = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def packed_products(model: nn.Module) -> Iterator[None]:
    """While it lasts, the model's linear layers multiply by packed weights, wherever that is faster and memory allows.

    For passes without gradient. Hooks on the layers run as ever. Weights are packed once, and again where they have
    changed. Outcomes differ from those of the plain product by rounding alone.
    """
    packed = {module: layer for module, layer in _products(model).items() if "forward" not in vars(module)}
    for module, layer in packed.items():
        layer.refresh(module)
        module.forward = layer  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for module in packed:
            del module.forward


def product(model: nn.Module, module: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """``x -> x weight^T + bias`` by the same arithmetic as ``module`` of ``model`` under ``packed_products``."""
    if module in _products(model) and weight.dtype == module.weight.dtype:
        return _PackedLinear(weight, bias)
    return lambda x: linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class _PackedLinear:
    """The forward pass of one linear layer."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._pack(weight, bias)

    def refresh(self, module: nn.Linear) -> None:
        """Pack again what is not the weight any more that was packed."""
        if _identity(module.weight) != self._packed_from or module.bias is not self._bias:
            self._pack(module.weight, module.bias)

    def _pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed_from, self._weight, self._bias = _identity(weight), weight, bias
        with torch.no_grad():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight = self._weight
        if torch.is_grad_enabled() or x.dtype != weight.dtype or x.shape[-1] != weight.shape[1] or not x.numel():
            return linear(x, weight, self._bias)
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return result


_known: WeakKeyDictionary[nn.Module, dict[nn.Linear, _PackedLinear]] = WeakKeyDictionary()


def _products(model: nn.Module) -> dict[nn.Linear, _PackedLinear]:
    """The model's layers that are packed, decided once; none where the second copy would take too much memory, as it
    would where some weights stay on disk."""
    if model not in _known:
        on_disk = any(parameter.is_meta for parameter in model.parameters())
        layers = (
            []
            if on_disk
            else [module for module in model.modules() if isinstance(module, nn.Linear) and _is_packable(module)]
        )
        n_bytes = sum(layer.weight.nbytes for layer in layers)
        free = free_bytes(torch.device("cpu")) if layers else None
        fits = free is not None and n_bytes <= PACKED_SHARE * free
        _known[model] = {layer: _PackedLinear(layer.weight, layer.bias) for layer in layers if fits}
    return _known[model]


def _is_packable(module: nn.Linear) -> bool:
    """A plain linear layer in main memory, whose forward pass nobody has replaced, in a dtype that gains."""
    if type(module) is not nn.Linear or "forward" in vars(module):
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


def _identity(weight: torch.Tensor) -> tuple[int, int]:
    """Changes when the numbers of a parameter do."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
