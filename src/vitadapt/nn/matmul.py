"""Matrix products with a weight, by the faster of the two libraries in torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b without gradients: (..., D_in), (D_out, D_in) -> (..., D_out). The weight may be a transposed view.

    On a CPU torch multiplies fp32 matrices with MKL, which on other makers' processors is slower than the oneDNN that
    torch has on board for convolutions, and slower on any for a few rows (docs/speed.md). oneDNN's product is the
    operator that torch's own compiler calls; where it is missing or switched off (`torch.backends.mkldnn`), or where
    somebody differentiates, traces or compiles, it is the ordinary product.
    """
    if not _onednn_takes(x, weight, bias):
        return F.linear(x, weight, bias)
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


def _onednn_takes(*tensors: Tensor | None) -> bool:
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        not is_traced()  # first: compilers of older torch cannot even read a context variable
        and _FASTER.get()
        and not torch.is_grad_enabled()
        and all(type(t) in _PLAIN and t.dtype == torch.float32 and t.device.type == "cpu" and _dense(t) for t in given)
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


def _dense(tensor: Tensor) -> bool:
    """Contiguous, or a matrix that is when transposed; with gaps between the rows oneDNN is a thousand times slower."""
    return tensor.is_contiguous() or (tensor.ndim == 2 and tensor.T.is_contiguous())


def is_traced() -> bool:
    """Does a compiler, an exporter or a tracer follow? It must meet nothing but operators that it can write down."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def is_autocast(device: str) -> bool:
    """Is autocast on there? Shapes without numbers ("meta") know none, and torch refuses the question."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def full_precision(device: str) -> AbstractContextManager[None]:
    """Within the block autocast is off there."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


_PLAIN = (Tensor, torch.nn.Parameter)
_FASTER = ContextVar("faster", default=True)


@contextmanager
def switch_off(faster: ContextVar[bool]) -> Iterator[None]:
    """Within the block a faster way is not taken."""
    token = faster.set(False)
    try:
        yield
    finally:
        faster.reset(token)


def ordinary_products() -> AbstractContextManager[None]:
    """Within the block every product is torch's ordinary one: what `product` is held to."""
    return switch_off(_FASTER)
