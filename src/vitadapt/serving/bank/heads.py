"""Heads of many adapters at once: those of one kind are computed together, whatever their numbers of classes."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...nn.head import Head
from ...utils.errors import ConfigError, NotApplicable, WeightsError
from .calls import Call, Layout, TensorNames

WEIGHT, BIAS = "linear.weight", "linear.bias"
_SMALL = 64  # classes; heads with no more are computed together, larger ones with those of up to twice their size


class LinearPerImage(nn.Linear):
    """A linear layer that also takes a weight and a bias per image: (k, 1, E) with (k, C, E) and (k, 1, C)."""

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        return super().forward(x) if weight.ndim == 2 else torch.baddbmm(self.bias, x, weight.mT)


@dataclass(frozen=True, eq=False)
class HeadFamily:
    """Heads that compute the same of features of the same kind.

    A row has the tensors that are no class's own, by `layout`, and then weights and bias of class after class.
    template: such a head. projected: does it take the features behind the backbone's output projection?
    """

    key: Hashable
    layout: Layout
    template: Head
    call: Call
    projected: bool

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The row (P + C (E + 1),) of a head."""
        classes = torch.cat([tensors[WEIGHT], tensors[BIAS].unsqueeze(1)], dim=1).detach().cpu()  # (C, E + 1)
        return torch.cat([self.layout.pack(tensors), classes.flatten().to(self.layout.dtype)])

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows (..., P + C (E + 1)) -> name -> tensors (..., *shape)."""
        linear, fixed = self.template.linear, self.layout.size
        classes = rows[..., fixed:].unflatten(-1, (-1, linear.in_features + 1)).to(linear.weight.dtype)
        return self.layout.views(rows[..., :fixed]) | {WEIGHT: classes[..., :-1], BIAS: classes[..., -1]}

    def logits(self, packed: Sequence[Tensor], features: Tensor) -> Tensor:
        """The row of the head of each image and the features (k, E) -> logits (k, C), C the largest of them all."""
        single = all(row is packed[0] for row in packed)
        own = self.views(packed[0] if single else pad_sequence(list(packed), batch_first=True))
        if single or self.template.channels is not None:
            return cast(Tensor, self.call(own, single, features))
        # all else in a head is by feature or by class, and needs no more than a place for the one row of an image
        own = {name: t.reshape(len(t), -1, t.shape[-1] if t.ndim > 1 else 1) for name, t in own.items()}
        return cast(Tensor, self.call(own, True, features.unsqueeze(1))).squeeze(1)  # (k, 1, E) -> (k, 1, C)

    def alone(self, row: Tensor) -> Head:
        """The head whose row it is."""
        with self.call.names.lock:
            head = copy.deepcopy(self.template)
        tensors = self.views(row)
        head.linear = nn.Linear(head.linear.in_features, len(tensors[BIAS]))
        for name, tensor in (dict(head.named_parameters()) | dict(head.named_buffers())).items():
            if name in tensors:
                tensor.data = tensors[name].clone()
        return head.requires_grad_(False).eval()


def dissect_head(head: nn.Module, features: int, projected: bool) -> tuple[HeadFamily, dict[str, Tensor]]:
    """The family of a classifier's head, and the head's tensors. Raises ConfigError, WeightsError."""
    if not isinstance(head, Head):
        raise ConfigError(f"has a head of type {type(head).__name__}; a bank answers with those of vitadapt.Head")
    if head.spec.learnt == "keys":
        raise NotApplicable("has a head of keys, as many as it had images; serve it as a model of its own")
    if head.linear.in_features != features:
        raise WeightsError(f"its head takes {head.linear.in_features} features, and the backbone gives {features}")
    own = {name: t for name, t in head.own_state().items() if t.is_floating_point()}
    layout = Layout.of({name: t for name, t in own.items() if name not in (WEIGHT, BIAS)})
    template = copy.deepcopy(head).requires_grad_(False).eval()
    dtype = head.linear.weight.dtype
    template.linear = LinearPerImage(features, 1, device=head.linear.weight.device, dtype=dtype)
    places = dict(template.named_parameters()) | dict(template.named_buffers())
    names = TensorNames({id(places[name]): name for name in own})
    key = (projected, head.spec.length, head.channels is not None, features, layout, dtype)
    return HeadFamily(key, layout, template, Call.of(template, names), projected), own


def padded_size(classes: int) -> int:
    """Heads of the same number are computed together; half of it at most, or little, is filled up with zeros."""
    return max(_SMALL, 1 << (classes - 1).bit_length())
