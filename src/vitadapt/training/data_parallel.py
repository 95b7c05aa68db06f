"""One training by several processes, which `torchrun` starts: each computes its part of every batch.

Every process draws the same batch and computes the backbone on its own part of it. The features of all parts are put
together, and head, loss and optimiser see the whole batch in every process, batch norm and mixed images included. So
the numbers are those of one process but for the order of additions; dropout and noise within the backbone, which every
process draws for its own part, are others. The first process alone decides and writes: its scores and losses are sent
to the others. In a single process all of this does nothing.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..nn.surgery import trainable

T = TypeVar("T")


def asked() -> bool:
    """Did torchrun start several processes, of which this is one?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Is this one of them, and not the first?"""
    return asked() and os.environ.get("RANK", "0") != "0"


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def join(device: str) -> str:
    """Meet the other processes: gloo between CPUs, NCCL between GPUs -> the device of this process."""
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device


def shared(value: T) -> T:
    """What the first process has of it."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


class _Whole(torch.autograd.Function):
    """Rows (b, E) of this process, the first at `start` -> those of all processes (B, E). Backward: the own rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, start: int, stop: int, count: int) -> Tensor:
        ctx.place = (start, stop, len(own))
        whole = own.new_zeros(count, *own.shape[1:])
        whole[start:stop] = own[: stop - start]
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        start, stop, rows = ctx.place
        own = gradients[0].new_zeros(rows, *gradients[0].shape[1:])
        own[: stop - start] = gradients[0][start:stop] * world()  # `add_gradients` takes means
        return own, None, None, None


def logits_of(model: Any, batch: Tensor) -> Tensor:
    """model(batch): (B, ...) -> (B, C). Of a classifier each process computes the features of its part."""
    if world() == 1 or not hasattr(model, "features"):
        return cast(Tensor, model(batch))
    start, stop = (len(batch) * part // world() for part in (rank(), rank() + 1))
    own = batch[start:stop] if stop > start else batch[:1]  # so that every tensor has a gradient, if only of zeros
    features = model.features(own).float()
    return cast(Tensor, model.head(_Whole.apply(features, start, stop, len(batch))))


def add_gradients(model: nn.Module) -> None:
    """The mean over all processes, in one message. For head and texts they found the same, but for rounding; for the
    backbone each a part of the sum, times their number (`_Whole`). A tensor may get both.
    """
    if world() == 1:
        return
    tensors = [p for p in trainable(model).values() if p.grad is not None]
    flat = torch.cat([cast(Tensor, p.grad).flatten() for p in tensors]) / world()
    dist.all_reduce(flat)
    for parameter, part in zip(tensors, flat.split([p.numel() for p in tensors]), strict=True):
        cast(Tensor, parameter.grad).copy_(part.view_as(parameter))
