"""What is shipped: a trained classifier with the backbone it stands on, and the parts that other programs know."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...data.images import Geometry
from ...nn.backbone import Backbone
from ...nn.head import Classifier, Head, backbone_of, key_logits
from ...nn.surgery import merge, towers_of
from ...nn.vit import ViT
from ...text import TextTower
from ...training.adapter_file import AdapterInfo, adapted_text_tower
from ...training.features import cached_backbone, geometry_of
from ...utils.errors import NotApplicable, NotMergeable
from ..model import load_model


@dataclass(frozen=True)
class TrainedModel:
    """A trained classifier, in eval mode and not merged, and the frozen backbone that it changes.

    folder: where it was read from. adapter: the file.
    """

    classifier: Classifier
    base: Backbone
    info: AdapterInfo
    folder: Path | None = None
    adapter: Path | None = None

    @cached_property
    def text_tower(self) -> TextTower | None:
        """The text tower, adapted and not merged; None where the method does not act on it. Raises as its loader."""
        if self.adapter is None or towers_of(self.info.method) == "image":
            return None
        return adapted_text_tower(self.adapter, self.base)

    @property
    def image_size(self) -> int:
        return self.info.image_size

    @property
    def geometry(self) -> Geometry:
        """How images become squares."""
        return geometry_of(self.base, self.info.squash)

    @property
    def shorter_side(self) -> int:
        """Pixels of the shorter side, or of both where the geometry says so, before the centre crop."""
        return self.geometry.side


class PlainHead(nn.Module):
    """features (B, E) -> logits (B, C): W g + b with g = (f - centre) / spread, divided by its length if `unit`.

    The same numbers as a `Head` in eval mode, from four tensors that any program can read; and three more for a head
    with keys, whose logits are added.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.unit = head.spec.length == "unit"
        plain = head.linear if self.unit else head.to_linear()
        centre, spread = torch.zeros(plain.in_features), torch.ones(plain.in_features)
        scale = torch.ones(())
        if self.unit:
            norm = head.channels
            known = (norm.running_mean, norm.running_var) if norm else (head.centre, head.spread)
            centre, spread = cast(Tensor, known[0]), cast(Tensor, known[1])
            spread = (spread + norm.eps).sqrt() if norm else spread.expand(plain.in_features)
            scale = head.scale.detach()
        tensors = {"weight": scale * plain.weight, "bias": scale * plain.bias, "centre": centre, "spread": spread}
        if head.spec.learnt == "keys":
            tensors |= {"keys": head.keys, "values": head.values, "sharpness": cast(Tensor, head.sharpness)}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().float().cpu().clone())

    def forward(self, features: Tensor) -> Tensor:
        return plain_logits(dict(self.named_buffers()), features, self.unit)

    def linear(self) -> tuple[Tensor, Tensor]:
        """W (C, E) and b (C,) of the plain linear layer. Raises NotMergeable for a head that is none."""
        if self.unit:
            raise NotMergeable(
                "the head compares directions (its features are brought to unit length), which a plain linear "
                "classifier cannot; export --to onnx, torch-export or open_clip, which keep it"
            )
        return cast(Tensor, self.weight), cast(Tensor, self.bias)


def plain_logits(t: Mapping[str, Tensor], features: Tensor, unit: bool) -> Tensor:
    """Logits (B, C) of features (B, E) by the tensors of a `PlainHead`."""
    scaled = (features - t["centre"]) / t["spread"]
    g = F.normalize(scaled, dim=-1) if unit else scaled
    logits = F.linear(g, t["weight"], t["bias"])
    return logits + key_logits(g, t["keys"], t["values"], t["sharpness"]) if "keys" in t else logits


class DeployedModel(nn.Module):
    """uint8 images (B, 3, S, S), or floats in 0..1 -> logits (B, C): normalisation, network and head as one module."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.backbone, self.head = merged_if_possible(trained), PlainHead(trained.classifier.head)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.backbone(images)))


def load_trained(path: Path | str, backbone: str | None = None) -> TrainedModel:
    """The model in a folder made by `fit`, or in an adapter file. Arguments and errors: see `load_model`."""
    model = load_model(path, backbone=backbone)
    info = model.info
    plain, _ = cached_backbone(info.backbone, info.image_size, "cpu")
    return TrainedModel(model.classifier, backbone_of(plain, info.head), info, model.path.parent, model.path)


def plain_vit(backbone: nn.Module, trained: TrainedModel, what: str) -> ViT:
    """`backbone` itself. Raises NotApplicable when it is no plain ViT with the features of its last block alone."""
    if not isinstance(backbone, ViT):
        raise NotApplicable(f"{what} needs a plain vision transformer, and {trained.info.backbone} is none; use onnx")
    if backbone.config.pooled_blocks > 1 or backbone.config.mirror:
        raise NotApplicable(f"{what} has no place for features of several blocks or of the mirror image; use onnx")
    return backbone


def merged(trained: TrainedModel, what: str) -> ViT:
    """A copy of the adapted backbone, all deltas in its weights. Raises as `plain_vit`, and NotMergeable."""
    backbone = plain_vit(trained.classifier.backbone, trained, what)
    try:
        return merge(copy.deepcopy(backbone)).cpu().requires_grad_(False)
    except NotMergeable as error:
        raise NotMergeable(f"{error}; or export --to onnx or torch-export, which hold any model") from error


def merged_if_possible(trained: TrainedModel) -> nn.Module:
    """A copy of the adapted backbone, merged unless a method inserted modules."""
    backbone = copy.deepcopy(trained.classifier.backbone).cpu().requires_grad_(False)
    try:
        return merge(backbone)
    except NotMergeable:
        return backbone


FILE = "head.safetensors"


FORMULA, GIVEN = "logits = weight @ g + bias", ", g = (features - centre) / spread"
KEYS = " + values^T @ exp(sharpness * (keys @ g - 1))"


def write_head(head: PlainHead, folder: Path, classes: tuple[str, ...]) -> None:
    """head.safetensors; its metadata say the formula and the classes."""
    tensors = head.state_dict()
    formula = FORMULA + (KEYS if "keys" in tensors else "") + GIVEN
    formula += ", divided by its Euclidean length" if head.unit else ""
    about = {"formula": formula, "unit": json.dumps(head.unit), "classes": json.dumps(classes)}
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / FILE, about)


def read_head(folder: Path) -> Callable[[Tensor], Tensor] | None:
    """features (B, E) -> logits (B, C) by the file alone; None where there is none."""
    if not (folder / FILE).is_file():
        return None
    with safe_open(str(folder / FILE), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        unit = json.loads(file.metadata()["unit"])
    return lambda features: plain_logits(tensors, features, unit)
