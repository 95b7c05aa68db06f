"""Models that stand on one backbone and are computed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ...nn.backbone import Backbone
from ...nn.head import Classifier
from ...nn.novelty import Novelty
from ...nn.setting import Setting
from ...nn.vit import ViT
from ...training.adapter_file import AdapterInfo, load_adapter
from ...utils.errors import NotApplicable
from ..bank import Bank


class ModelGroup:
    """A backbone and the models on it: a bank of adapters, and classifiers that have nothing to share with others.

    base: the digest of the backbone. A model is known by a `key`. One thread adds and removes at a time.
    """

    def __init__(self, backbone: Backbone, base: str, setting: Setting, resident: int | None = None) -> None:
        self.backbone, self.base, self.setting = backbone, base, setting
        self._bank = Bank(backbone, resident=resident) if isinstance(backbone, ViT) else None
        self._novelty: dict[str, Novelty] = {}
        self._separate: dict[str, Classifier] = {}  # networks that are no ViT, and weights trained as a whole

    def add(self, key: str, file: str, data: bytes) -> None:
        """Add the adapter in `data`, the content of a file called `file`. Raises WeightsError when it does not fit."""
        model = load_adapter(file, self.backbone, self.base, data)
        if model.novelty is not None:
            self._novelty[key] = model.novelty
        if self._bank is not None:
            try:
                self._bank.add(key, model)
                return
            except NotApplicable:  # nothing of it can be shared
                pass
        self._separate[key] = model

    def remove(self, key: str) -> None:
        """Raises UnknownName."""
        self._novelty.pop(key, None)
        if self._separate.pop(key, None) is None:
            cast(Bank, self._bank).remove(key)

    def classifier(self, key: str) -> Classifier:
        """One model by itself, for its gradients. Raises UnknownName."""
        return self._separate[key] if key in self._separate else cast(Bank, self._bank).classifier(key)

    def novelty(self, key: str) -> Novelty | None:
        """What tells the model of this key images that are unlike its training images."""
        return self._novelty.get(key)

    def answers(self, squares: Sequence[Tensor], keys: Sequence[str]) -> list[tuple[Tensor, float | None]]:
        """Per square uint8 (3, S, S) the logits (C,) of the model of its key, in fp32 on the CPU, and the novelty."""
        images = torch.stack(list(squares)).to(self.setting.device, non_blocking=True)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        with torch.inference_mode(), self.setting.autocast():
            shared = [i for i, key in enumerate(keys) if key not in self._separate]
            if shared:
                pairs = cast(Bank, self._bank).logits_and_features(images[shared], [keys[i] for i in shared])
                found |= dict(zip(shared, pairs, strict=True))
            for key in dict.fromkeys(key for key in keys if key in self._separate):
                places, model = [i for i, other in enumerate(keys) if other == key], self._separate[key]
                features = model.backbone(images[places])
                found |= dict(zip(places, zip(model.head(features), features, strict=True), strict=True))
            answers = []
            for i, key in enumerate(keys):
                (logits, features), novelty = found[i], self._novelty.get(key)
                answers.append((logits.float().cpu(), None if novelty is None else float(novelty(features[None]))))
        return answers


def group_key(info: AdapterInfo) -> tuple[object, ...]:
    """Equal for adapters that can share a backbone: its weights, how it computes, and how images become numbers.

    How images become squares (`squash`) may differ: each image is decoded for its own model.
    """
    preprocess = tuple((name, str(value)) for name, value in sorted(info.preprocess.items()) if name != "squash")
    return info.base, info.image_size, info.activation, preprocess
