"""Which modules write to the residual stream of a class that nobody described, found by accounting.

Every module of a layer whose output is as wide as the stream is a candidate. The fewest of them whose outputs, each
times one number, sum to what the layer adds are its explanation; one that is no matrix is explained again by what is
inside it. Nothing is taken for true that the numbers do not show, and what they do not show is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sombrero.errors import ArchitectureError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXACT = 1e-5
"""Relative error below which a sum is an explanation: what float32 leaves; a wrong sum is off by a tenth and more."""
MOST_TERMS = 4


@dataclass(frozen=True)
class TracedWriter:
    """A module found to write: ``coefficient * sigmoid(gate) * post_norms(module(x))``, path relative to the layer.

    post_norms: ``(path, offset)``, the innermost first. parameter, bias: the module's own, the latter None without one.
    mixes: whether the part of the layer that it closes reads other tokens than its own (attention, convolution, ...).
    """

    module: str
    layout: str
    parameter: str
    bias: str | None
    coefficient: float = 1.0
    post_norms: tuple[tuple[str, float], ...] = ()
    gate: str | None = None
    mixes: bool = False


@dataclass
class LayerTrace:
    """What was found in one layer: its writers, and what of it remains without explanation."""

    writers: list[TracedWriter] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trace:
    """layers: the path of the list of decoder layers, and what was found in each."""

    path: str
    layers: tuple[LayerTrace, ...]


@dataclass
class _Call:
    """Inputs and output of a module in one forward pass, rows ``(n, width)``; and what it was called with."""

    x: torch.Tensor | None
    y: torch.Tensor | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def trace_writers(model: PreTrainedModel, ids: torch.Tensor) -> Trace:
    """Run the model once on tokens ``ids (1, T)`` and explain what each of its layers adds.

    The model should have random weights: those of a trained one, or an initialization of ones and zeros, may make
    different modules equal. Raises ArchitectureError where no list of layers passes a residual stream on.
    """
    calls: dict[str, _Call] = {}
    with torch.no_grad(), _recording(model, calls):
        model(input_ids=ids, use_cache=False)
        path = _find_layers(model, calls)
        container = model.get_submodule(path)
        return Trace(path, tuple(_trace_layer(layer, f"{path}.{i}", calls) for i, layer in container.named_children()))


@contextmanager
def _recording(model: nn.Module, calls: dict[str, _Call]) -> Iterator[None]:
    hooks = []

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)
            y = output[0] if isinstance(output, tuple) and output else output
            calls[name] = _Call(_rows(x), _rows(y), args, kwargs)

        return hook

    for name, module in model.named_modules():
        hooks.append(module.register_forward_hook(keep(name), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rows(value: Any) -> torch.Tensor | None:
    """``(n, width)``, a copy: what follows may write into the same memory."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim < 2:
        return None
    return value.detach().reshape(-1, value.shape[-1]).to(torch.float64, copy=True)


def _find_layers(model: PreTrainedModel, calls: Mapping[str, _Call]) -> str:
    """The list whose members were called, take the stream and give it on: each one's output is the next one's input."""
    width = model.config.get_text_config(decoder=True).hidden_size
    found = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        inner = [calls.get(f"{name}.{i}") for i in range(len(module))]
        streams = [(c.x, c.y) for c in inner if c is not None and c.x is not None and c.y is not None]
        fits = len(streams) == len(module) and all(x.shape == y.shape and x.shape[1] == width for x, y in streams)
        if fits and all(torch.equal(streams[i][1], streams[i + 1][0]) for i in range(len(streams) - 1)):
            found.append((len(module), name))
    if not found:
        raise ArchitectureError(
            f"{type(model).__name__} has no list of layers that pass one stream of width {width} on; its writers "
            "cannot be traced"
        )
    return str(max(found)[1])


def _trace_layer(layer: nn.Module, path: str, calls: Mapping[str, _Call]) -> LayerTrace:
    whole = calls[path]
    assert whole.x is not None and whole.y is not None
    own = {name: calls[f"{path}.{name}"] for name, _ in layer.named_modules() if name and f"{path}.{name}" in calls}
    trace = LayerTrace()
    _explain(whole.y - whole.x, "", _Layer(layer, own, whole.x), TracedWriter("", "", "", None), trace)
    return trace


@dataclass(frozen=True)
class _Layer:
    module: nn.Module
    calls: Mapping[str, _Call]
    stream: torch.Tensor


def _explain(target: torch.Tensor, within: str, layer: _Layer, so_far: TracedWriter, trace: LayerTrace) -> None:
    """Add to ``trace`` the writers whose sum is ``target``: modules inside ``within``, themselves under ``so_far``."""
    if float(target.norm()) == 0.0:
        return
    terms = _fewest_terms(target, _candidates(target, within, layer))
    if terms is None:
        trace.unexplained.append(
            f"no sum of up to {MOST_TERMS} modules is what {within or 'the layer'} writes; what is written outside of "
            "modules, or is not linear in them, cannot be described"
        )
        return
    for (module, gate), coefficient in terms:
        if gate is not None and so_far.gate is not None:
            trace.unexplained.append(f"{module} has two gates, {so_far.gate} and {gate}")
        found = replace(so_far, module=module, coefficient=so_far.coefficient * coefficient, gate=gate or so_far.gate)
        _settle(found, layer, trace)


def _settle(found: TracedWriter, layer: _Layer, trace: LayerTrace) -> None:
    """A module that writes: a matrix, a norm behind what writes, or a container of what writes."""
    module, call = layer.module.get_submodule(found.module), layer.calls[found.module]
    matrix = _matrix_of(module, call)
    if matrix is not None:
        layout, parameter, bias = matrix
        mixes = _mixes_tokens(found.module, layer)
        trace.writers.append(replace(found, layout=layout, parameter=parameter, bias=bias, mixes=mixes))
        return
    offset = _norm_offset(module, call)
    if offset is not None:
        assert call.x is not None
        norms = ((found.module, offset), *found.post_norms)
        if found.coefficient != 1.0 or found.gate is not None:
            trace.unexplained.append(f"what {found.module} gives is scaled or gated, after a norm")
        inner = replace(layer, calls={path: other for path, other in layer.calls.items() if path != found.module})
        _explain(call.x, "", inner, TracedWriter("", "", "", None, post_norms=norms), trace)
        return
    if not any(module.children()):
        trace.unexplained.append(f"{found.module} writes, and is neither a matrix nor a norm: {type(module).__name__}")
        return
    assert call.y is not None
    _explain(call.y, found.module, layer, found, trace)


Term = tuple[str, str | None]
"""A module, and the gate that its output is multiplied by, if any."""


def _candidates(target: torch.Tensor, within: str, layer: _Layer) -> dict[Term, torch.Tensor]:
    """Outputs as wide as the target, of modules inside ``within``; of equal ones the deepest, as it has the weights."""
    found: dict[Term, torch.Tensor] = {}
    prefix = f"{within}." if within else ""
    gates: dict[str, torch.Tensor] = {}
    for path, call in layer.calls.items():
        if not path.startswith(prefix) or call.y is None or call.y.shape[0] != target.shape[0]:
            continue
        if call.y.shape[1] == 1:
            gates[path] = call.y.sigmoid()
        if call.y.shape != target.shape or torch.equal(call.y, layer.stream) or float(call.y.norm()) == 0.0:
            continue
        # modules are listed from the outside to the inside; a dropout comes after its matrix and owns nothing
        equal = next((term for term, y in found.items() if torch.equal(y, call.y)), None)
        if equal is not None and not _owns(layer.module.get_submodule(path)):
            continue
        if equal is not None:
            del found[equal]
        found[path, None] = call.y
    for path, gate in gates.items():
        found |= {(module, path): y * gate for (module, _), y in list(found.items())}
    return found


def _owns(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _fewest_terms(target: torch.Tensor, candidates: Mapping[Term, torch.Tensor]) -> list[tuple[Term, float]] | None:
    """The smallest set of candidates of which the target is a linear combination, with its coefficients."""
    terms = list(candidates)
    if not terms:
        return None
    Y = torch.stack([candidates[term].flatten() for term in terms])
    norms = Y.norm(dim=1)
    Y = Y / norms[:, None]
    t = target.flatten() / target.norm()
    gram, product = Y @ Y.T, Y @ t
    for size in range(1, min(MOST_TERMS, len(terms)) + 1):
        for chosen in combinations(range(len(terms)), size):
            index = torch.tensor(chosen)
            solution, info = torch.linalg.solve_ex(gram[index][:, index], product[index])
            if int(info) or 1.0 - float(product[index] @ solution) > 1e-3:
                continue
            residual = float((t - solution @ Y[index]).norm())
            if residual < EXACT:
                scaled = solution * target.norm() / norms[index]
                return [(terms[i], _rounded(float(c))) for i, c in zip(chosen, scaled, strict=True)]
    return None


def _rounded(coefficient: float) -> float:
    """To what float32 shows of it, so that all layers have the same."""
    return float(f"{coefficient:.4g}")


def _matrix_of(module: nn.Module, call: _Call) -> tuple[str, str, str | None] | None:
    """Layout, parameter and bias of a module that is ``W x + b``, or a routed sum of such; None for any other."""
    own = dict(module.named_parameters(recurse=False))
    if call.y is None:
        return None
    for name, weight in own.items():
        if weight.ndim == 2 and call.x is not None:
            rest = [other for other in own if other != name]
            bias = rest[0] if len(rest) == 1 and own[rest[0]].shape == (call.y.shape[1],) else None
            for layout, W in (("linear", weight), ("conv1d", weight.T)):
                if W.shape == (call.y.shape[1], call.x.shape[1]) and len(rest) == (bias is not None):
                    y = call.x @ W.double().T + (0 if bias is None else own[bias].double())
                    if float((y - call.y).norm()) < EXACT * float(call.y.norm()):
                        return layout, name, bias
    experts = {name: weight for name, weight in own.items() if weight.ndim == 3 and call.y.shape[1] in weight.shape[1:]}
    linear = [name for name, weight in experts.items() if _is_linear_in(module, weight, call)]
    if len(linear) != 1:
        return None
    weight = experts[linear[0]]
    d = call.y.shape[1]
    if weight.shape[1] == weight.shape[2]:
        return None
    shape = (weight.shape[0], d)
    biases = [n for n, b in own.items() if tuple(b.shape) == shape and _is_linear_in(module, b, call)]
    layout = "experts_out_in" if weight.shape[1] == d else "experts_in_out"
    return layout, linear[0], biases[0] if len(biases) == 1 else None


def _is_linear_in(module: nn.Module, parameter: nn.Parameter, call: _Call) -> bool:
    """Whether the output is affine in the parameter: its values at 0, 1 and 2 times the parameter lie on a line."""
    kept, outputs = parameter.data, []
    for factor in (0.0, 1.0, 2.0):
        parameter.data = factor * kept
        y = module.forward(*call.args, **call.kwargs)
        rows = _rows(y[0] if isinstance(y, tuple) else y)
        assert rows is not None
        outputs.append(rows)
    parameter.data = kept
    zero, once, twice = outputs
    return float((twice - 2 * once + zero).norm()) < EXACT * float((twice - zero).norm())


def _norm_offset(module: nn.Module, call: _Call) -> float | None:
    """For an RMS norm ``(weight + offset) * x / rms(x)``, its offset: 0 or 1. None for any other module."""
    own = dict(module.named_parameters(recurse=False))
    if list(own) != ["weight"] or own["weight"].ndim != 1 or call.x is None or call.y is None:
        return None
    if call.x.shape != call.y.shape or own["weight"].shape[0] != call.x.shape[1]:
        return None
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None)) or 0.0
    plain = call.x * (call.x.square().mean(dim=1, keepdim=True) + epsilon).rsqrt()
    for offset in (0.0, 1.0):
        y = plain * (own["weight"].double() + offset)
        # many norms compute in float32
        if float((y - call.y).norm()) < 1e-3 * float(call.y.norm()):
            return offset
    return None


def _mixes_tokens(path: str, layer: _Layer) -> bool:
    """Whether the outermost module around ``path`` gives other tokens something else when the first is changed."""
    parts = path.split(".")
    outer = next(p for p in (".".join(parts[: i + 1]) for i in range(len(parts))) if p in layer.calls)
    call, module = layer.calls[outer], layer.module.get_submodule(outer)
    changed = False

    def change(value: Any) -> Any:
        nonlocal changed
        if changed or not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        changed = True
        other = value.clone()
        (other[0] if other.ndim > 2 else other)[0] += 1.0
        return other

    args = [change(value) for value in call.args]  # before the keywords: the hidden states come first
    y = module.forward(*args, **{name: change(value) for name, value in call.kwargs.items()})
    rows = _rows(y[0] if isinstance(y, tuple) else y)
    assert rows is not None and call.y is not None
    return float((rows[1:] - call.y[1:]).norm()) > EXACT * float(call.y[1:].norm())


def used_in(trace: Trace) -> dict[TracedWriter, list[int]]:
    """Each writer, as it stands relative to its layer, and the layers that have it."""
    found: dict[TracedWriter, list[int]] = {}
    for index, layer in enumerate(trace.layers):
        for writer in layer.writers:
            found.setdefault(writer, []).append(index)
    return found


def unexplained(trace: Trace) -> Sequence[str]:
    """Sentences, each with its layers in front."""
    found: dict[str, list[int]] = {}
    for index, layer in enumerate(trace.layers):
        for sentence in layer.unexplained:
            found.setdefault(sentence, []).append(index)
    return [f"layers {', '.join(map(str, layers))}: {sentence}" for sentence, layers in found.items()]
