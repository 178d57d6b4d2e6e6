"""Packed products: the same numbers as the plain ones, in every state that a model's weights can be in."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from sombrero.models import products
from sombrero.models.products import linear_like, packed_products

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
HALVES = torch.bfloat16 in products._gaining_dtypes()


@pytest.fixture(autouse=True)
def gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing is tested on every processor, faster or not."""
    dtypes = (torch.float32, torch.bfloat16) if HALVES else (torch.float32,)
    monkeypatch.setattr(products, "_gaining_dtypes", lambda: dtypes)


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
            assert "forward" in vars(model[0])
            torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-5)
        assert torch.equal(model(x), plain)


def test_rows_that_are_not_contiguous() -> None:
    model, x = network(), torch.randn(48, 6).T
    with torch.inference_mode():
        plain = model(x)
        with packed_products(model):
            torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not HALVES, reason="this processor has no arithmetic for bfloat16")
def test_halves() -> None:
    model, x = network(torch.bfloat16), torch.randn(9, 48, dtype=torch.bfloat16)
    with torch.inference_mode():
        plain = model(x)
        with packed_products(model):
            torch.testing.assert_close(model(x), plain, rtol=2e-2, atol=2e-2)


def test_layers_are_packed_for_as_long_as_the_context_lasts() -> None:
    model = network()
    assert packed_layers(model) == [model[0], model[2]]
    assert not any("forward" in vars(module) for module in model.modules())
    with pytest.raises(RuntimeError, match="shapes"), packed_products(model), torch.inference_mode():
        model(torch.randn(2, 47))
    assert not any("forward" in vars(module) for module in model.modules())


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


def test_what_is_not_a_plain_layer_in_memory_is_left_alone() -> None:
    special, double, wrapped, plain = _Special(8, 8), nn.Linear(8, 8).double(), nn.Linear(8, 8), nn.Linear(8, 8)
    wrapped.forward = lambda x: x  # as accelerate does
    model = nn.ModuleList([special, double, wrapped, plain])
    assert packed_layers(model) == [wrapped, plain]
    assert wrapped.forward(1) == 1
    assert packed_layers(nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8, device="meta")])) == []  # the rest is on disk


def test_no_second_copy_without_the_memory_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    n_bytes = sum(layer.weight.nbytes for layer in (network()[0], network()[2]))
    for share, packed in ((0.99, 0), (1.01, 2)):
        monkeypatch.setattr(products, "total_bytes", lambda s=share: s * n_bytes / products.PACKED_SHARE)
        assert len(packed_layers(network())) == packed
    monkeypatch.setattr(products, "total_bytes", lambda: None)
    assert not packed_layers(network())


def test_a_product_by_another_weight_is_that_of_a_layer_with_it() -> None:
    model, other, x = network(), network(), torch.randn(5, 48)
    with torch.no_grad():
        other[0].weight.add_(0.1)
    with torch.inference_mode():
        product = linear_like(model, model[0], other[0].weight, other[0].bias)
        assert torch.equal(product(x), other[0](x))
        with packed_products(model), packed_products(other):
            assert torch.equal(product(x), other[0](x))


def test_what_an_interrupt_left_behind_is_cleared_by_the_next_pass() -> None:
    model, x = network(), torch.randn(2, 48)
    context = packed_products(model)
    context.__enter__()  # as if the pass had never come to its end
    with torch.no_grad():
        model[0].weight.mul_(2.0)
    with torch.inference_mode(), packed_products(model):
        torch.testing.assert_close(model[0](x), linear(x, model[0].weight, model[0].bias), rtol=1e-5, atol=1e-5)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_that_was_cast_is_packed_anew_or_not_at_all() -> None:
    model = network()
    packed_layers(model)
    with torch.inference_mode():
        for dtype in (torch.float64, torch.float32):
            model, x = model.to(dtype), torch.randn(3, 48, dtype=dtype)
            plain = model(x)
            with packed_products(model):
                assert ("forward" in vars(model[0])) == (dtype == torch.float32)
                torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-5)


def test_numbers_that_take_the_place_of_others_are_packed() -> None:
    model, x = network(), torch.randn(3, 48)
    packed_layers(model)
    for _ in range(20):  # memory that is let go of is given to the next
        model[0].weight.data = torch.randn(96, 48)
        with torch.inference_mode(), packed_products(model):
            torch.testing.assert_close(model[0](x), linear(x, model[0].weight, model[0].bias), rtol=1e-5, atol=1e-5)


def test_a_model_that_nobody_has_is_let_go_of() -> None:
    model = network()
    packed_layers(model)
    watched = weakref.ref(model)
    del model
    gc.collect()
    assert watched() is None
