"""A training step behind torch's compiler gives the numbers of the step without it, for every method."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from families import build, random_images

from vitadapt.methods import METHODS
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.surgery import adapt, solves_head, towers_of, trainable
from vitadapt.training.loop import loss_of

KINDS = {name: kind() for name, kind in METHODS.items()}
TRAINED = [n for n, m in KINDS.items() if m.trains_head and not solves_head(m) and towers_of(m) != "text"]
QUICK = ["kadaptation"]  # before every change, and without a C++ compiler


def step(model: Classifier, compiled: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = loss_of(compiled(random_images(4)), torch.arange(4) % 3)
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad for name, p in trainable(model).items() if p.grad is not None}}


def same_step(method: str, backend: str) -> None:
    torch.manual_seed(0)
    model = Classifier(adapt(build("clip-like"), METHODS[method]()), Head(48, 3)).train()
    with torch.no_grad():
        for tensor in trainable(model).values():
            tensor.add_(torch.randn_like(tensor), alpha=0.02)
    found = step(model, model)
    torch._dynamo.reset()
    other = step(model, torch.compile(model, backend=backend))
    assert other.keys() == found.keys() and len(found) > 1
    for name, tensor in found.items():
        size = max(1.0, float(tensor.abs().max()))
        assert torch.allclose(other[name], tensor, atol=2e-5 * size, rtol=1e-4), name


@pytest.mark.parametrize("method", QUICK)
def test_a_traced_step_is_the_same(method):
    same_step(method, "aot_eager")


@pytest.mark.skipif("VITADAPT_KILLS" not in os.environ, reason="takes minutes: make test-faults")
@pytest.mark.parametrize("method", TRAINED)
def test_a_compiled_step_is_the_same(method):
    same_step(method, "inductor")
