"""The faster product is the product, wherever it is used and wherever it steps aside."""

from __future__ import annotations

from contextvars import ContextVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitadapt.nn.matmul import is_traced, ordinary_products, product, switch_off

WEIGHT = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
X = torch.randn(4, 5, 20, generator=torch.Generator().manual_seed(1))

LAYOUTS = {
    "tokens": (X, WEIGHT),
    "rows of a weight": (X, WEIGHT[3:9]),
    "first token": (X[:, :1], WEIGHT),
    "transposed weight": (X[..., :12], WEIGHT.T),
    "transposed both": (X[0].T, X[1].T),
    "gaps": (X[..., 4:16], WEIGHT.T),
    "no rows": (X[:0], WEIGHT),
    "one number": (X[0, :1, :1], WEIGHT[:1, :1]),
    "double": (X.double(), WEIGHT.double()),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_the_product_in_every_layout(layout: str, bias: bool) -> None:
    x, weight = LAYOUTS[layout]
    shift = weight[:, 0].contiguous() if bias else None
    with torch.no_grad():
        torch.testing.assert_close(product(x, weight, shift), F.linear(x, weight, shift), atol=1e-5, rtol=1e-5)


def test_gradients_reach_whoever_asks_for_them() -> None:
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(product(x, WEIGHT).square().sum(), x)
    torch.testing.assert_close(found, 2 * F.linear(X, WEIGHT) @ WEIGHT)


def test_it_can_be_switched_off() -> None:
    with torch.no_grad(), ordinary_products():
        assert torch.equal(product(X, WEIGHT), F.linear(X, WEIGHT))


def test_it_is_on_again_behind_the_block_and_after_an_error() -> None:
    faster = ContextVar("faster", default=True)
    with pytest.raises(KeyError), switch_off(faster):
        assert not faster.get()
        raise KeyError
    assert faster.get()


def test_an_exporter_meets_the_ordinary_product() -> None:
    class Layer(torch.nn.Module):
        weight: Tensor

        def forward(self, x: Tensor) -> Tensor:
            return product(x, self.weight)

    assert not is_traced()
    layer = Layer()
    layer.register_buffer("weight", WEIGHT)
    with torch.no_grad():
        graph = torch.export.export(layer, (X,)).graph
        traced = torch.jit.trace(layer, (X,)).graph
    assert "mkldnn" not in str(graph) and "mkldnn" not in str(traced)


def test_autocast_is_left_to_torch() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert product(X, WEIGHT).dtype == torch.bfloat16
