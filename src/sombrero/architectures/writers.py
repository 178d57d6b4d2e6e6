"""One writer: on which layers it is, and its record."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from sombrero.architectures.spec import Condition, StoredSpec, WriterSpec
from sombrero.errors import ArchitectureError
from sombrero.records import Layout, PostNorm, StoredTensors, Writer

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig


def holds(condition: Condition, config: PreTrainedConfig, layer: nn.Module, index: int) -> bool:
    """Whether the layer ``index`` fulfils the condition.

    Raises ArchitectureError when a key that should say something of this layer does not.
    """
    if condition.key is None:
        return has_module(layer, str(condition.module)) == condition.present
    value = getattr(config, condition.key, None)
    if isinstance(value, list | tuple):
        if index >= len(value):
            raise ArchitectureError(
                f"the configuration's {condition.key} has {len(value)} entries and says nothing of layer {index}"
            )
        value = value[index]
    found = value in condition.values if condition.values else bool(value)
    return found == condition.present


def has_module(layer: nn.Module, path: str) -> bool:
    """Whether the layer has a module of that path, which is not None."""
    try:
        return layer.get_submodule(path) is not None
    except AttributeError:
        return False


def make_writer(
    spec: WriterSpec, index: int, path: str, module: nn.Module, config: PreTrainedConfig, stored: Sequence[str]
) -> Writer:
    """The record of a writer of layer ``index``, which lies at ``path``.

    ``stored`` are the prefixes that the text model's tensors may have. Raises ArchitectureError for a weight of another
    form than the layout says, or a bias or a scale that is not as described.
    """
    where = f"{path}.{spec.module}"
    has_bias = getattr(module, spec.bias_parameter, None) is not None
    if has_bias and spec.bias is None:
        raise ArchitectureError(f"{where} has a bias, but its architecture file names no bias tensor; add it there")
    n_experts, d_out, d_in = _sizes(spec, module, where)
    tensors = _stored(spec, index, stored, has_bias)
    return Writer(
        name=f"{index}.{spec.label}",
        layer=index,
        kind=spec.kind,
        module_path=where,
        weight_name=tensors[0].weight,
        bias_name=tensors[0].bias,
        layout=spec.layout,
        d_in=d_in,
        d_out=d_out,
        parameter=spec.parameter,
        bias_parameter=spec.bias_parameter,
        n_experts=n_experts,
        stored=tensors,
        post_norms=tuple(PostNorm(f"{path}.{norm.module}", norm.offset) for norm in spec.post_norms),
        scale=1.0 if spec.scale is None else _number(config, spec.scale),
        gate_path=None if spec.gate is None else f"{path}.{spec.gate}",
        router_path=None if spec.router is None else f"{path}.{spec.router}",
    )


def _sizes(spec: WriterSpec, module: nn.Module, where: str) -> tuple[int | None, int, int]:
    """Number of experts, outputs and inputs. A quantized linear layer says them, its packed weight does not."""
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if spec.layout == "linear" and isinstance(inputs, int) and isinstance(outputs, int):
        return None, outputs, inputs
    shape = tuple(getattr(module, spec.parameter).shape)
    experts, sizes = (shape[:1], shape[1:]) if spec.router is not None else ((), shape)
    if len(sizes) != 2:
        raise ArchitectureError(
            f"{where}.{spec.parameter} has shape {shape}, which is no weight laid out {spec.layout}"
        )
    d_out, d_in = sizes if spec.layout in ("linear", "experts_out_in") else sizes[::-1]
    return (experts[0] if experts else None), d_out, d_in


def _stored(spec: WriterSpec, index: int, bases: Sequence[str], has_bias: bool) -> tuple[StoredTensors, ...]:
    """Every way in which a checkpoint may hold the tensors, the usual one first."""
    layout: Layout = "linear" if "{expert}" in spec.weight else spec.layout
    usual = StoredSpec(weight=spec.weight, bias=spec.bias, layout=layout)

    def named(name: str, base: str) -> str:
        return name.replace("{base}", base).replace("{layer}", str(index)).removeprefix(".")

    return tuple(
        StoredTensors(
            named(way.weight, base), named(way.bias, base) if way.bias is not None and has_bias else None, way.layout
        )
        for way, base in product((usual, *spec.also_stored), bases)
    )


def _number(config: PreTrainedConfig, path: str) -> float:
    key, _, place = path.partition(".")
    value: Any = getattr(config, key, None)
    if place and isinstance(value, list | tuple) and int(place) < len(value):
        value = value[int(place)]
    if not isinstance(value, int | float):
        raise ArchitectureError(f"the configuration has no number at {path}, which scales a writer; it has {value!r}")
    return float(value)
