"""Classifiers on one backbone, answered together: a bank of adapters, and apart from it what cannot share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ...nn.backbone import Backbone
from ...nn.head import Classifier
from ...nn.setting import Setting
from ...nn.vit import ViT
from ...training.adapter_file import AdapterInfo, load_adapter
from ...utils.errors import NotApplicable
from ..bank import Bank


class Pool(Protocol):
    """Named classifiers; one name per image."""

    def add(self, name: str, source: Classifier) -> None: ...

    def remove(self, name: str) -> None: ...

    def classifier(self, name: str) -> Classifier: ...

    def logits(self, images: Tensor, names: Sequence[str]) -> list[Tensor]: ...


class Apart:
    """Classifiers that are computed one after the other: other networks than a ViT, and weights trained as a whole."""

    def __init__(self) -> None:
        self._known: dict[str, Classifier] = {}

    def add(self, name: str, source: Classifier) -> None:
        self._known = {**self._known, name: source}

    def classifier(self, name: str) -> Classifier:
        return self._known[name]

    def remove(self, name: str) -> None:
        self._known = {known: model for known, model in self._known.items() if known != name}

    def logits(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Per image of (B, 3, S, S) its classifier's logits (C,)."""
        known: dict[str, Classifier] = self._known
        found: dict[int, Tensor] = {}
        for name in dict.fromkeys(names):
            rows = [row for row, own in enumerate(names) if own == name]
            found |= dict(zip(rows, known[name](images[rows]), strict=True))
        return [found[row] for row in range(len(names))]


@dataclass(eq=False)
class Group:
    """A backbone, its digest, and the pools of the adapters on it."""

    backbone: Backbone
    base: str
    setting: Setting
    resident: int | None = None
    _bank: Bank | None = None
    _apart: Apart = field(default_factory=Apart)

    def add(self, name: str, file: str, data: bytes) -> Pool:
        """The pool that took the adapter in `data`, the content of `file`. Raises WeightsError when it does not fit."""
        source = load_adapter(file, self.backbone, self.base, data)
        if isinstance(self.backbone, ViT):
            if self._bank is None:
                self._bank = Bank(self.backbone, resident=self.resident)
            try:
                self._bank.add(name, source)
                return self._bank
            except NotApplicable:
                pass  # nothing of it can be shared
        self._apart.add(name, source)
        return self._apart


def look_at(pool: Pool, setting: Setting, squares: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """Per square uint8 (3, S, S) the logits (C,) of the classifier of its name, in fp32 on the CPU."""
    images = torch.stack(list(squares)).to(setting.device, non_blocking=True)
    with torch.inference_mode(), setting.autocast():
        return [logits.float().cpu() for logits in pool.logits(images, names)]


def kind_of(info: AdapterInfo) -> tuple[object, ...]:
    """Equal for adapters that can share a backbone: its weights, how it computes, and how images become numbers.

    How they become squares may differ (`squash`): each is decoded for its own adapter.
    """
    preprocess = tuple((name, str(value)) for name, value in sorted(info.preprocess.items()) if name != "squash")
    return info.base, info.image_size, info.activation, preprocess
