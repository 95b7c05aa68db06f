"""The way from the frozen backbone to the adapted one: the learnt change scaled by 0 .. 1, the head kept.

An analysis of a finished run, never a choice: the test images are scored at every scale, and nothing may be picked by
it (Wortsman et al. 2022, who interpolate the weights of fine-tuned networks, choose on other images).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...data import Dataset, open_dataset
from ...metrics.calibration import agreement, ece, nll
from ...metrics.scores import METRICS
from ...nn.backbone import Backbone
from ...nn.block import CHANGING, Block, SlotLinear
from ...nn.deltas import Delta
from ...nn.head import Head, backbone_of
from ...nn.head_spec import TEXT
from ...nn.surgery import trainable
from ...nn.vit import ViT
from ...text.class_features import sentences, text_start
from ...training.adapter_file import load_adapter
from ...training.features import Environment, cached_backbone, frozen_features, pixels_of
from ...training.loop import forward_all, probabilities_of
from ...utils.errors import ConfigError, NotApplicable
from ...utils.files import bytes_digest
from ..config import RunConfig
from ..results.record import Record
from ..results.store import Store
from ..transfer import trained_on

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)


class ScaledDelta(Delta):
    """`scale` times a delta."""

    def __init__(self, delta: Delta, scale: float) -> None:
        super().__init__()
        self.delta, self.scale = delta, scale

    def branch(self, x: Tensor) -> Tensor:
        return self.scale * self.delta.branch(x)

    def matrix(self) -> Tensor:
        return self.scale * self.delta.matrix()

    def bias(self) -> Tensor | None:
        bias = self.delta.bias()
        return None if bias is None else self.scale * bias


class ScaledInsert(nn.Module):
    """y + scale (f(y) - y), or scale f(x) beside a layer: at 0 as if the module were not there, at 1 the module."""

    def __init__(self, module: nn.Module, scale: float, beside: bool) -> None:
        super().__init__()
        self.module, self.scale, self.beside = module, scale, beside
        self.tokenwise = bool(getattr(module, "tokenwise", False))

    def forward(self, y: Tensor) -> Tensor:
        return self.scale * self.module(y) if self.beside else torch.lerp(y, self.module(y), self.scale)


@torch.no_grad()
def scale_change(adapted: nn.Module, original: nn.Module, scale: float) -> None:
    """Scale, in place, all that a method changed: deltas, inserted modules, and every tensor of `original` that trains.

    Afterwards `adapted` is original + scale (adapted - original) in each of them. Raises NotApplicable when the method
    changed nothing, or something else.
    """
    frozen, learnt = dict(original.named_parameters()), trainable(adapted)
    added = {id(p) for module in _added(adapted) for p in module.parameters()}
    strange = [name for name, p in learnt.items() if name not in frozen and id(p) not in added]
    if strange or not learnt:
        what = f"{strange[0]} is no change of a weight" if strange else "it changes nothing in the backbone"
        raise NotApplicable(f"there is nothing between this method's backbone and the frozen one: {what}")
    for name in learnt.keys() & frozen.keys():
        learnt[name].copy_(torch.lerp(frozen[name].to(learnt[name]), learnt[name], scale))
    for module in list(adapted.modules()):
        if isinstance(module, SlotLinear):
            for slot, delta in module.deltas.items():
                module.deltas[slot] = ScaledDelta(cast(Delta, delta), scale)
        elif isinstance(module, (Block, ViT)):
            for place, inserted in module.inserted.items():
                module.inserted[place] = ScaledInsert(inserted, scale, place not in CHANGING)


def _added(adapted: nn.Module) -> Iterator[nn.Module]:
    """Modules that a method put in."""
    for module in adapted.modules():
        for kind in ("deltas", "inserted", "shared"):
            held = getattr(module, kind, None)
            if isinstance(held, nn.ModuleDict):
                yield held


@dataclass(frozen=True)
class Point:
    """The classifier at one scale, on the test images. `zero_shot`: share of equal answers, with a head of text."""

    scale: float
    score: float
    nll: float
    ece: float
    zero_shot: float | None


def curve(
    record: Record, store: Store, environment: Environment | None = None, scales: Sequence[float] = SCALES
) -> list[Point]:
    """The points of a finished run, computed once per store and saved there.

    Raises NotApplicable when the method leaves the backbone alone, ConfigError when the run has no adapter or the test
    images are others now, WeightsError when the backbone is.
    """
    environment = environment or Environment()
    if "adapters" not in record.files:
        raise ConfigError(f"{record.digest}: has no adapter ({record.status}); nothing to scale")
    known = store.load_analysis(record, "curve", made_again=True) or {}
    if not {str(scale) for scale in scales} <= known.keys():
        known |= {str(point.scale): asdict(point) for point in _points(record, store, environment, scales)}
        store.save_analysis(record, "curve", known)
    return [Point(**known[str(scale)]) for scale in scales]


def _points(record: Record, store: Store, environment: Environment, scales: Sequence[float]) -> Iterator[Point]:
    config = RunConfig.from_dict(record.config)
    setting = replace(environment.setting, precision=config.precision)
    backbone, base = cached_backbone(config.backbone, config.image_size, setting.device)
    dataset = trained_on(config, open_dataset(config.dataset, environment.data_root))
    images = pixels_of(dataset.splits["test"], backbone, environment, dataset.squash)
    if bytes_digest("\n".join(images.digests).encode()) != record.images["test"]:
        raise ConfigError(f"{dataset.name}: the test images are not those of run {record.digest}; nothing to repeat")
    labels = dataset.splits["test"].labels
    reference = zero_shot(config, backbone, base, dataset, environment)
    bare = backbone_of(backbone, config.head_spec)
    for scale in scales:
        model = load_adapter(store.path("adapters", record.digest), backbone, base)
        scale_change(model.backbone, bare, scale)
        logits = forward_all(model, images, setting, f"scale {scale:g}")
        p = probabilities_of(logits, labels.ndim == 2).numpy()
        score = 100 * METRICS[record.metric](labels, p)
        yield Point(
            scale, score, nll(labels, p), ece(labels, p), None if reference is None else agreement(p, reference)
        )


def zero_shot(
    config: RunConfig, backbone: Backbone, base: str, dataset: Dataset, environment: Environment
) -> np.ndarray | None:
    """(N, C) logits of the test images by the text features of the classes alone; None for a head without text."""
    if config.head_spec.start != "text":
        return None
    texts = sentences(config.dataset, dataset.classes, config.prompts)
    text, _ = text_start(config.backbone, backbone, texts, environment.cache, environment.setting)
    images = pixels_of(dataset.splits["test"], backbone, environment, dataset.squash)
    features = frozen_features(backbone, base, images, environment, "zero-shot")
    head = Head(features.shape[1], len(dataset.classes), TEXT)
    head.start_from(text.features)
    return np.asarray(cast(Any, head(features)).detach().numpy())
