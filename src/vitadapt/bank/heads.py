"""Heads of many adapters at once: those of one kind share a template with room for the largest number of classes."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError, WeightsError
from ..head import Head
from .calls import Call
from .layout import Layout


@dataclass(frozen=True, eq=False)
class HeadFamily:
    """Heads that compute the same of features of the same kind; `layout` has `room` for more classes than most have."""

    key: Hashable
    layout: Layout
    call: Call
    projected: bool

    def alone(self, classes: int) -> Head:
        """A head of this kind for so many classes, with any numbers."""
        return _resized(cast(Head, self.call.module), classes)


def _resized(head: Head, classes: int) -> Head:
    found, weight = copy.deepcopy(head), head.linear.weight
    found.linear = nn.Linear(head.linear.in_features, classes, device=weight.device, dtype=weight.dtype)
    return found.requires_grad_(False).eval()


def room(classes: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ...: heads of near sizes are computed together, and half is wasted at most.

    >>> [room(n) for n in (1, 5, 10, 100)]
    [1, 6, 12, 128]
    """
    power = 1 << max(classes - 1, 0).bit_length()
    return power * 3 // 4 if power > 2 and classes <= power * 3 // 4 else power


def dissect_head(head: nn.Module, features: int, projected: bool) -> tuple[HeadFamily, dict[str, Tensor]]:
    """The family of a classifier's head, and the head's tensors. Raises ConfigError, WeightsError."""
    if not isinstance(head, Head):
        raise ConfigError(f"has a head of type {type(head).__name__}; a bank answers with those of vitadapt.Head")
    if head.linear.in_features != features:
        raise WeightsError(f"its head takes {head.linear.in_features} features, and the backbone gives {features}")
    own = {name: t.detach() for name, t in head.state_dict().items() if t.is_floating_point()}
    template = _resized(head, room(head.linear.out_features))
    places = {name: t for name, t in template.state_dict().items() if name in own}
    layout = Layout.of(cast(dict[str, Tensor], places))
    key = (projected, head.spec.length, head.channels is not None, layout)
    return HeadFamily(key, layout, Call(template, {name: name for name in own}), projected), own


def gathered(features: Tensor, images: list[int]) -> Tensor:
    """Rows of features (B, E); those of a whole batch in its order are not copied."""
    if images == list(range(len(features))):
        return features
    return features[torch.tensor(images, device=features.device)]
