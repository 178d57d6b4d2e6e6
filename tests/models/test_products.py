"""Packed products: the same numbers as the plain ones, in every state that a model's weights can be in."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from sombrero.models import products
from sombrero.models.products import packed_products, product

HAVE = bool(products._gaining_dtypes())
needs_packing = pytest.mark.skipif(not HAVE, reason="packed products are no faster on this processor")


def network(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96, bias=bias), nn.GELU(), nn.Linear(96, 40, bias=bias)).to(dtype)


def packed_layers(model: nn.Module) -> list[nn.Module]:
    with packed_products(model):
        return [module for module in model.modules() if "forward" in vars(module)]


@pytest.mark.parametrize("shape", [(1, 48), (7, 48), (3, 5, 48), (0, 48), (2, 0, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_layers(shape: tuple[int, ...], bias: bool) -> None:
    model, x = network(bias=bias), torch.randn(shape)
    with torch.inference_mode():
        plain = model(x)
        with packed_products(model):
            torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-5)
        assert torch.equal(model(x), plain)


def test_rows_that_are_not_contiguous() -> None:
    model, x = network(), torch.randn(48, 6).T
    with torch.inference_mode():
        plain = model(x)
        with packed_products(model):
            torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-5)


def test_halves() -> None:
    model, x = network(torch.bfloat16), torch.randn(9, 48, dtype=torch.bfloat16)
    with torch.inference_mode():
        plain = model(x)
        with packed_products(model):
            torch.testing.assert_close(model(x), plain, rtol=2e-2, atol=2e-2)


@needs_packing
def test_layers_are_packed_for_as_long_as_the_context_lasts() -> None:
    model = network()
    assert packed_layers(model) == [model[0], model[2]]
    assert not any("forward" in vars(module) for module in model.modules())
    with pytest.raises(RuntimeError, match="shapes"), packed_products(model), torch.inference_mode():
        model(torch.randn(2, 47))
    assert not any("forward" in vars(module) for module in model.modules())


@needs_packing
def test_a_changed_weight_is_packed_again() -> None:
    model, x = network(), torch.randn(4, 48)
    with torch.inference_mode(), packed_products(model):
        before = model(x)
    with torch.no_grad():
        model[0].weight.mul_(-1.0)
        model[2].weight = nn.Parameter(torch.randn(40, 96))
        model[2].bias = None
    with torch.inference_mode():
        plain = model(x)
        with packed_products(model):
            now = model(x)
    torch.testing.assert_close(now, plain, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(now, before, atol=1e-2)


@needs_packing
def test_hooks_and_gradients_are_those_of_the_layers() -> None:
    model, x, seen = network(), torch.randn(4, 48), []
    handle = model[0].register_forward_hook(lambda _module, _args, output: seen.append(output) or 2.0 * output)
    with packed_products(model), torch.inference_mode():
        model(x)
    torch.testing.assert_close(seen[0], linear(x, model[0].weight, model[0].bias), rtol=1e-5, atol=1e-5)
    handle.remove()
    with packed_products(model):
        model(x).sum().backward()
    assert model[0].weight.grad is not None and bool(model[0].weight.grad.any())


class _Special(nn.Linear):
    """Stands for layers with products of their own: packed weights, adapters."""


@needs_packing
def test_what_is_not_a_plain_layer_in_memory_is_left_alone() -> None:
    special, double, wrapped, plain = _Special(8, 8), nn.Linear(8, 8).double(), nn.Linear(8, 8), nn.Linear(8, 8)
    wrapped.forward = lambda x: x  # as accelerate does
    model = nn.ModuleList([special, double, wrapped, plain])
    assert packed_layers(model) == [wrapped, plain]
    assert wrapped.forward(1) == 1
    assert packed_layers(nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8, device="meta")])) == []  # the rest is on disk


@needs_packing
def test_no_second_copy_without_the_memory_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    n_bytes = sum(layer.weight.nbytes for layer in (network()[0], network()[2]))
    for share, packed in ((0.99, 0), (1.01, 2)):
        monkeypatch.setattr(products, "free_bytes", lambda _device, s=share: s * n_bytes / products.PACKED_SHARE)
        assert len(packed_layers(network())) == packed
    monkeypatch.setattr(products, "free_bytes", lambda _device: None)
    assert not packed_layers(network())


def test_a_product_by_another_weight_is_that_of_a_layer_with_it() -> None:
    model, other, x = network(), network(), torch.randn(5, 48)
    with torch.no_grad():
        other[0].weight.add_(0.1)
    with torch.inference_mode(), packed_products(other):
        assert torch.equal(product(model, model[0], other[0].weight, other[0].bias)(x), other[0](x))


def test_a_model_that_nobody_has_is_let_go_of() -> None:
    model = network()
    packed_layers(model)
    watched = weakref.ref(model)
    del model
    gc.collect()
    assert watched() is None
