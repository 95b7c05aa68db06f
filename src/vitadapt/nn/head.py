"""The classifier: a backbone and a linear head in fp32; and how a head starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import ConfigError, NotMergeable
from .backbone import Backbone
from .class_texts import ClassTexts
from .head_spec import ZERO, HeadSpec
from .matmul import full_precision
from .novelty import Novelty
from .support import Solution
from .surgery import HALF, Method, adapt, require_vit
from .vit import ViT


@dataclass(frozen=True)
class TextStart:
    """Text features of the classes (C, E), and the factor of the logits that their tower was trained with.

    texts: what the features were made of, for a method that changes the text tower.
    """

    features: Tensor
    scale: float | None = None
    texts: ClassTexts | None = None


ROWS = 4096  # of features that are normalised at a time


class ChannelNorm(nn.BatchNorm1d):
    """Batch norm without weight and bias that uses its stored statistics for a single row, which has no variance."""

    def __init__(self, features: int) -> None:
        super().__init__(features, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(x)


class Head(nn.Module):
    """features (B, E) -> logits (B, C) in fp32: scale * (W g + b), where g are the features after norm and length.

    With the default `spec`, g = (f - centre) / spread and W and b start at zero. `centre` (E,) and `spread` (a scalar)
    are statistics of the frozen backbone's features on the training images, fixed before training: one learning rate
    then suits backbones whose features differ in size by orders of magnitude, and every row is still treated alone.
    With `texts` the class vectors are those that a text tower gives while it trains; whenever training is over, they
    become the weights. `to_linear` gives the equivalent plain linear layer. `pretrained` is what scale "pretrained"
    stands for. Raises ConfigError when that is asked for and not known.

    With learnt=keys the logits are scale * (W g + b) + V^T exp(s (K g - 1)), with `count` keys K (count, E), their
    values V (count, C) and a sharpness s; then W and b stay as they start, and with learnt=nothing as well.
    """

    def __init__(
        self, features: int, classes: int, spec: HeadSpec = ZERO, pretrained: float | None = None, count: int = 0
    ) -> None:
        super().__init__()
        self.spec = spec
        self.linear = nn.Linear(features, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.linear.requires_grad_(spec.learnt == "linear")
        if spec.learnt == "keys":
            self.keys, self.values = (nn.Parameter(torch.zeros(count, width)) for width in (features, classes))
            self.register_buffer("sharpness", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(()))
        self.channels = ChannelNorm(features) if spec.norm == "batch" else None
        self.texts: ClassTexts | None = None
        scale = _scale(spec, classes, pretrained)
        if scale != 1 or spec.learn_scale:
            self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=spec.learn_scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Head:
        """Goes to other devices and to float64, but stays in float32 where the rest goes to half precision."""

        def wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALF else moved

        super()._apply(wide, recurse)  # type: ignore[no-untyped-call]
        return self

    def train(self, mode: bool = True) -> Head:
        """As of every module; the weights are made of the text tower's new class vectors when training ends."""
        learnt = self.training and not mode
        super().train(mode)
        if learnt and self.texts is not None and not self.linear.weight.requires_grad:
            with torch.no_grad():
                self.start_from(self.texts())
        return self

    def own_state(self) -> dict[str, Tensor]:
        """The state dict without the text tower, of which nothing is needed once the weights are made."""
        inner = self.texts.state_dict(prefix="texts.") if self.texts is not None else {}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in inner}

    def follow(self, texts: ClassTexts) -> None:
        """From now on the class vectors are those of `texts`, whose tower learns; the linear layer does not, as long as
        its tensors are frozen.
        """
        self.linear.requires_grad_(False)
        self.texts = texts.train(self.training)

    def standardise(self, features: Tensor) -> None:
        """Set centre and spread from features (N, E) of the training images; without any they stay as they are."""
        if not len(features):
            return
        features = features.float()
        centre = features.mean(dim=0)
        spread = (features - centre).square_().mean().sqrt()
        cast(Tensor, self.centre).copy_(centre)
        cast(Tensor, self.spread).copy_(spread if spread > 0 else torch.ones_like(spread))

    @torch.no_grad()
    def start_from(self, text: Tensor) -> None:
        """Begin with text features (C, E) as weights: the logits are scale * T f for every f.

        Centre and spread, when they are set, are undone: W = spread T and b = T centre, which without them is W = T
        and b = 0.
        """
        weight, bias = self._of_text(text)
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)

    def _of_text(self, text: Tensor) -> tuple[Tensor, Tensor]:
        text = text.to(self.linear.weight)
        return text * cast(Tensor, self.spread), text @ cast(Tensor, self.centre)

    @torch.no_grad()
    def balance(self, features: Tensor) -> None:
        """Shift all biases by one number so that the mean logit over `features` and classes is zero.

        Multi-label problems need it: cosines of images and texts are all positive, so that every class would start
        as "certainly present". The order of the classes, and their softmax, stay.
        """
        was, _ = self.training, self.eval()
        self.linear.bias.sub_(self(features).mean() / self.scale)
        self.train(was)

    @property
    def scale(self) -> Tensor:
        """The factor of the logits."""
        return self.log_scale.exp() if hasattr(self, "log_scale") else torch.ones_like(cast(Tensor, self.spread))

    def normalised(self, features: Tensor) -> Tensor:
        """Features (B, E) as the linear layer gets them: after norm and length."""
        scaled = (features.to(self.linear.weight.dtype) - cast(Tensor, self.centre)) / cast(Tensor, self.spread)
        if self.channels is not None:
            scaled = self.channels(scaled)
        return F.normalize(scaled, dim=-1) if self.spec.length == "unit" else scaled

    @torch.no_grad()
    def all_normalised(self, features: Tensor) -> np.ndarray:
        """The same of many features (..., N, E), some rows at a time: memory holds them and what becomes of them."""
        found = torch.empty(features.shape)
        for some, rows in zip(features.split(ROWS, dim=-2), found.split(ROWS, dim=-2), strict=True):
            rows.copy_(self.normalised(some.to(self.linear.weight.device)))
        return found.numpy()

    @torch.no_grad()
    def set_linear(self, weight: np.ndarray, bias: np.ndarray) -> None:
        """The linear layer in closed form: logits are weight (C, E) times normalised features, plus bias (C,)."""
        self.linear.weight.copy_(torch.from_numpy(weight) / self.scale.cpu())
        self.linear.bias.copy_(torch.from_numpy(bias) / self.scale.cpu())

    @torch.no_grad()
    def set_solution(self, solution: Solution) -> None:
        """The head in closed form."""
        if solution.weight is not None:
            self.set_linear(*solution.linear())
        if self.spec.learnt == "keys":
            for name in ("keys", "values", "sharpness"):
                own = getattr(self, name)
                own.copy_(torch.as_tensor(getattr(solution, name)).to(own))

    @torch.no_grad()
    def divide_logits(self, temperature: float) -> None:
        """Divide all logits by a number, for good."""
        for part in (self.linear.weight, self.linear.bias, *([self.values] if self.spec.learnt == "keys" else [])):
            part.div_(temperature)

    @torch.no_grad()
    def shift_logits(self, shift: np.ndarray) -> None:
        """Add `shift` (C,) to the logits: it becomes a part of the bias."""
        self.linear.bias.add_(torch.from_numpy(shift).to(self.linear.bias) / self.scale)

    def forward(self, features: Tensor) -> Tensor:
        with full_precision(features.device.type):
            g = self.normalised(features)
            if self.texts is not None and self.training and not self.linear.weight.requires_grad:
                logits = F.linear(g, *self._of_text(self.texts()))
            else:
                logits = cast(Tensor, self.linear(g))
            logits = logits * self.log_scale.exp() if hasattr(self, "log_scale") else logits
            if self.spec.learnt == "keys":
                logits = logits + key_logits(g, self.keys, self.values, cast(Tensor, self.sharpness))
            return logits

    def to_linear(self) -> nn.Linear:
        """A plain linear layer with the same logits. Raises NotMergeable when features are brought to unit length."""
        if self.spec.length == "unit":
            raise NotMergeable("a head that brings features to unit length is not linear; keep it as it is")
        centre, spread = cast(Tensor, self.centre), cast(Tensor, self.spread)
        if self.channels is not None:
            mean, var = cast(Tensor, self.channels.running_mean), cast(Tensor, self.channels.running_var)
            centre, spread = mean, (var + self.channels.eps).sqrt()
        plain = nn.Linear(self.linear.in_features, self.linear.out_features)
        with torch.no_grad():
            plain.weight.copy_(self.scale * self.linear.weight / spread)
            plain.bias.copy_(self.scale * self.linear.bias - plain.weight @ centre)
        return plain


def key_logits(g: Tensor, keys: Tensor, values: Tensor, sharpness: Tensor | float) -> Tensor:
    """V^T exp(s (K g - 1)): directions g (B, E), keys (K, E) and values (K, C) -> (B, C)."""
    return (sharpness * (g @ keys.T - 1)).exp() @ values


def _scale(spec: HeadSpec, classes: int, pretrained: float | None) -> float:
    if spec.scale == "classes":
        return math.log(max(classes, 2))
    if spec.scale == "pretrained":
        if pretrained is None:
            raise ConfigError("head: scale=pretrained, but the checkpoint does not tell its logit scale; give a number")
        return pretrained
    return float(spec.scale)


@dataclass(frozen=True)
class _Unprojected(Method):
    """The backbone without its output projection."""

    def adapt(self, vit: Any) -> None:
        vit.projection = nn.Identity()
        vit.config = replace(vit.config, projection=0)


@dataclass(frozen=True)
class _Pooled(Method):
    """The backbone whose features are those of its last blocks, averaged with those of the mirror image if asked."""

    pooled_blocks: int
    mirror: bool

    def adapt(self, vit: Any) -> None:
        vit.config = replace(vit.config, pooled_blocks=self.pooled_blocks, mirror=self.mirror)


def backbone_of(backbone: Backbone, spec: HeadSpec) -> Backbone:
    """The backbone whose features a head of `spec` reads: a copy that shares all weights, or `backbone` itself.

    Networks other than a ViT keep their own features. Raises what `without_projection` raises.
    """
    if spec.projection == "merged":
        backbone, _ = without_projection(backbone)
    if isinstance(backbone, ViT) and (spec.mirror or spec.blocks > 1):
        pooled = _Pooled(min(spec.blocks, backbone.config.depth), spec.mirror)
        return adapt(backbone, pooled).requires_grad_(False)
    return backbone


def without_projection(backbone: Backbone) -> tuple[Backbone, Tensor]:
    """A copy of `backbone` without its output projection, sharing all weights, and that projection P (E, D).

    Raises NotApplicable for other networks than a ViT, ConfigError for one without a projection.
    """
    vit = require_vit(backbone)
    if not vit.config.projection:
        raise ConfigError("head: projection=merged needs a backbone with an output projection (a CLIP)")
    if vit.config.projection_bias and bool(cast(Tensor, vit.projection.bias).any()):
        raise ConfigError("head: projection=merged needs a projection without a bias, and this backbone's has one")
    weight = cast(nn.Linear, vit.projection).weight.detach()
    return adapt(backbone, _Unprojected()).requires_grad_(False), weight


class Classifier(nn.Module):
    """Images (B, 3, S, S) -> logits (B, C). novelty: how unlike the training images they are, where that is known."""

    def __init__(self, backbone: Backbone, head: Head, novelty: Novelty | None = None) -> None:
        super().__init__()
        self.backbone, self.head, self.novelty = backbone, head, novelty

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, E)"""
        return cast(Tensor, self.backbone(images))

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(images)))
