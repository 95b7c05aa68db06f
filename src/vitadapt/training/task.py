"""What a protocol is given, and the verbs it needs: build a classifier, train it, score it on images held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..data.pixels.pixels import Pixels
from ..metrics.scores import METRICS
from ..nn.backbone import Backbone, backbone_digest
from ..nn.head import Classifier, Head, TextStart, backbone_of, without_projection
from ..nn.setting import Setting
from ..nn.support import Solution, Support
from ..nn.surgery import (
    adapt,
    adapt_both,
    load_trainable_state,
    require_vit,
    solves_head,
    towers_of,
    trainable,
    trainable_state,
    trains_end_alone,
    unchanged_blocks,
)
from ..nn.vit import ViT
from ..utils.errors import ConfigError, Diverged
from ..utils.files import bytes_digest
from ..weights.catalog import backbones
from .adapter_file import AdapterInfo
from .config import TrainConfig
from .data_parallel import shared
from .features import Environment, cached_backbone, frozen_features
from .loop import FitLog, Inputs, SelectedInputs, fit, forward_all, probabilities_of
from .recipe import Recipe
from .views import VERSIONS, FromBlock, Views, features_from_views, make_views, shared_block, version_features


@dataclass(frozen=True)
class LabelledImages:
    """Images with their labels, (N,) class numbers or (N, C) multi-hot."""

    images: Inputs
    labels: np.ndarray


@dataclass(frozen=True)
class Task:
    """All that a protocol may use: a frozen backbone, the training images with their labels, and their frozen features.

    labels: (N,) class numbers or (N, C) multi-hot. features: (N, E) of the unadapted backbone, computed once.
    text: what a head of class names is made of, when there is one. metric: the dataset's own.
    trials: the file in which the finished trials of a search survive a kill.
    key: names all that a score depends on besides images and labels; empty for the digest of `config`.
    test: the test images, for a protocol that is known to see them; no other is given any.
    digest: of `backbone`; base: of the backbone as it was loaded, which may have had a projection more.
    views: versions of the images behind the blocks that training leaves as they are, see `with_views`.
    versions: (V, N, E) features of several versions of each image, for a head in closed form that reads them.
    pooled: (V, N, F) the same before the output projection, of one version or several.
    """

    config: TrainConfig
    backbone: Backbone
    images: Inputs
    labels: Tensor
    classes: int
    features: Tensor
    setting: Setting
    checkpoint: Path | None = None
    text: TextStart | None = None
    metric: str = "accuracy"
    trials: Path | None = None
    key: str = ""
    digest: str = ""
    base: str = ""
    test: LabelledImages | None = None
    views: Views | None = None
    versions: Tensor | None = None
    pooled: Tensor | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe of this training."""
        return self.config.recipe

    def take(self, rows: Tensor) -> Task:
        """The task with only the images of `rows` (M,), in that order: no files of its own, and no test images."""
        images = SelectedInputs(self.images, rows)
        part = replace(self, images=images, labels=self.labels[rows], features=self.features[rows])
        views = self.views.take(rows) if self.views else None
        versions, pooled = (None if one is None else one[:, rows] for one in (self.versions, self.pooled))
        part = replace(part, views=views, versions=versions, pooled=pooled)
        return replace(part, checkpoint=None, trials=None, test=None)

    def with_views(self, cache: Path | None, shared: Views | None = None) -> Task:
        """The same with `recipe.views` jittered versions of each image, where the method leaves the first blocks alone.

        shared: versions that there are already. Raises StorageError when there is no room for them in `cache`.
        """
        adapted = adapt(self.backbone, self.config.method)
        trains = trainable(adapted) and not solves_head(self.config.method)
        first = unchanged_blocks(adapted) if self.recipe.views and trains else None
        if not first:
            return self
        views, versions = shared if shared and shared.first <= first else None, 2 + self.recipe.views
        vit, seed = require_vit(self.backbone), derive(self.config.seed, "views")
        views = make_views(
            vit, self.images, views.first if views else first, versions, seed, self.setting, cache, views
        )
        return replace(self, views=views.drawing(self.recipe.flip) if views else None)

    def identity(self) -> str:
        """A digest of all that the score of a trial depends on besides its learning rate, weight decay and length."""
        state = hashlib.blake2b(digest_size=8)
        parts = (self.key or self.config.digest(), version("vitadapt"), torch.__version__, self.setting.device)
        state.update(repr(parts).encode())
        for tensor in (self.labels, self.features):
            state.update(tensor.cpu().contiguous().numpy().tobytes())
        return state.hexdigest()

    def build(self, seed: int) -> Classifier:
        """A fresh classifier: the backbone adapted with tensors drawn from `seed`, and the head of the configuration.

        Raises ConfigError when the head is to start from text and the backbone has none.
        """
        method, head = self.config.method, self._head().to(self.setting.device).eval()
        if towers_of(method) == "image":
            return Classifier(adapt(self.backbone, method, seed), head).eval()
        if self.text is None or self.text.texts is None:
            raise ConfigError(f"{self.config.backbone} has no text tower for towers={towers_of(method)}")
        texts, start = self.text.texts, self.text.features.to(self.setting.device)
        image, text = adapt_both(self.backbone, texts.network, texts.tokens, method, seed)
        head.follow(texts.of(text, start, method.text_penalty))
        return Classifier(image, head).eval()

    def _head(self) -> Head:
        spec, text = self.config.head, self.text
        scale = text.scale if text else None
        head = Head(self.features.shape[1], self.classes, spec, scale, count=len(self.labels))
        if spec.norm == "standard":
            head.standardise(self.features)
        if spec.start == "text":
            if text is None:
                raise ConfigError(f"{self.config.backbone} has no text tower to make a head of class names from")
            head.start_from(text.features)
        if not self.config.method.trains_head:
            return head.requires_grad_(False)
        if spec.start == "text" and self.labels.ndim == 2:
            head.balance(self.features)
        return head

    def fit(
        self,
        model: Classifier,
        recipe: Recipe,
        seed: int,
        label: str = "train",
        *,
        until: int | None = None,
        after_epoch: Callable[[], None] | None = None,
    ) -> FitLog:
        """Train `model` on all images; only the head, on the features, when nothing else trains, or nothing.

        `until` and `after_epoch` are those of `train.fit`. Raises Diverged.
        """
        if not trainable(model):
            return FitLog()
        options: dict[str, Any] = {"checkpoint": self.checkpoint, "until": until, "after_epoch": after_epoch}
        solution = self._solution(model, seed) if trains_end_alone(model.backbone) else None
        if solution is not None:
            model.head.set_solution(solution)
            learnt = {name: torch.from_numpy(tensor) for name, tensor in solution.backbone.items()}
            load_trainable_state(model.backbone, learnt)
            return FitLog()
        if self.config.head.learnt == "keys":
            raise ConfigError("head: keys are for methods that solve for them on a frozen backbone, such as proker")
        log = self._fit_network(model, recipe, seed, label, **options)
        share = self.config.method.head_share
        if not share or until not in (None, recipe.epochs):
            return log
        return self._second_stage(model, replace(recipe, epochs=round(recipe.epochs * share / (1 - share))), seed, log)

    def _fit_network(self, model: Classifier, recipe: Recipe, seed: int, label: str, **options: Any) -> FitLog:
        if not trainable(model.backbone):
            return self.fit_head(model, recipe, seed, label, **options)
        if recipe.head_start == "probe" and model.head.texts is None:
            self.fit_head(model, replace(recipe, epochs=recipe.probe_epochs), seed, "head")
        network: nn.Module = model
        inputs: Inputs = self.images
        if self.views is not None:
            network, inputs = FromBlock(model, self.views.first), self.views
        return fit(network, inputs, self.labels, recipe, seed=seed, setting=self.setting, label=label, **options)

    def _second_stage(self, model: Classifier, recipe: Recipe, seed: int, log: FitLog) -> FitLog:
        """Go on with the head alone, on the features of the network as it is now."""
        features = self.features_of(model)
        model.head.linear.requires_grad_(True)
        more = self._fit_on(features, model, recipe, seed, "head")
        return FitLog([*log.losses, *more.losses], log.steps + more.steps)

    def _solution(self, model: Classifier, seed: int) -> Solution | None:
        """The head that the method gives by itself. Raises ConfigError for several labels per image."""
        method, head = self.config.method, model.head
        if not solves_head(method):
            return None
        support = Support(
            head.all_normalised(self.features),
            self.labels.numpy(),
            self.classes,
            None if self.versions is None else head.all_normalised(self.versions),
            self.text.features.cpu().numpy() if self.text and self.config.head.start == "text" else None,
            float(head.scale),
            None if self.pooled is None else self.pooled.cpu().numpy(),
            {name: tensor.numpy() for name, tensor in trainable_state(model.backbone).items()},
            seed,
        )
        return method.solve_head(support)

    def fit_head(self, model: Classifier, recipe: Recipe, seed: int, label: str, **options: Any) -> FitLog:
        """Train the head alone on the frozen backbone's features. `options` as `train.fit` has them."""
        return self._fit_on(self.features, model, recipe, seed, label, **options)

    def _fit_on(
        self, features: Tensor, model: Classifier, recipe: Recipe, seed: int, label: str, **options: Any
    ) -> FitLog:
        features = features.to(self.setting.device)
        self.setting.report(label, 0, 1)  # as a whole: it takes a second
        quiet = replace(self.setting, progress=None)
        return fit(model.head, features, self.labels, recipe, seed=seed, setting=quiet, label=label, **options)

    def features_of(self, model: Classifier, label: str = "features") -> Tensor:
        """(N, E) of all images by the network of `model`, in fp32: the frozen ones where nothing of it is trained."""
        quiet = replace(self.setting, progress=None)
        if not trainable(model.eval().backbone):
            return self.features
        if self.views is not None:
            return features_from_views(model, self.views, quiet)
        return forward_all(model.backbone, self.images, quiet, label)

    def probabilities(self, model: Classifier, label: str = "validate", features: Tensor | None = None) -> Tensor:
        """(N, C) for all images of this task; features: those of `features_of`. Raises Diverged for infinite logits."""
        known = self.features_of(model, label) if features is None else features
        with torch.no_grad():
            logits = shared(model.head(known.to(self.setting.device)).cpu())
        if not logits.isfinite().all():
            raise Diverged("the logits are not finite; lower the learning rate or the weight decay")
        return probabilities_of(logits.float(), self.labels.ndim == 2)

    def score(self, model: Classifier) -> float:
        """The dataset's metric over all images of this task, in percent. Raises Diverged."""
        return self.score_of(self.probabilities(model))

    def likelihood_of(self, probabilities: Tensor) -> float:
        """Mean log of what probabilities (N, C) give to the labels: it tells apart what the metric rates alike."""
        sure = probabilities.double().clamp(1e-12, 1 - 1e-12)
        if self.labels.ndim == 1:
            return float(sure.gather(1, self.labels[:, None].long()).log().mean())
        return float(torch.where(self.labels > 0, sure, 1 - sure).log().mean())

    def score_of(self, probabilities: Tensor) -> float:
        """The dataset's metric of probabilities (N, C) for the images of this task, in percent."""
        return 100 * METRICS[self.metric](self.labels.numpy(), probabilities.numpy())


def make_task(
    config: TrainConfig,
    images: Pixels,
    labels: np.ndarray,
    classes: int,
    environment: Environment,
    *,
    text: TextStart | None = None,
    metric: str = "accuracy",
    key: str = "",
    views: Views | None = None,
) -> Task:
    """The task of training on `images` with their `labels`, (N,) or (N, C), the frozen features computed.

    views: versions of these images, from which the features are computed faster.
    """
    plain, base = cached_backbone(config.backbone, config.image_size, environment.setting.device)
    if config.head.projection == "merged" and text:  # the head is to hold it
        _, projection = without_projection(plain)
        text = replace(text, features=text.features.to(projection) @ projection)  # (C, E) (E, D)
    backbone = backbone_of(plain, config.head)
    read = without_projection(backbone)[0] if config.method.reads_pooled else backbone  # whose features are computed
    digest = base if backbone is plain else backbone_digest(backbone)
    setting = replace(environment.setting, precision=config.precision)
    if config.method.reads_versions and views is None and isinstance(read, ViT):
        first, seed = shared_block(read, read.config.pooled_blocks), derive(config.seed, "views")
        views = make_views(read, images, first, 2 + VERSIONS, seed, environment.setting, environment.cache)
    versions, pooled = None, None
    if views is None:
        own = digest if read is backbone else backbone_digest(read)
        features = frozen_features(read, own, images, environment, "features")
    else:
        vit = require_vit(read)
        wanted = len(views.tokens) if config.method.reads_versions else 2 if vit.config.mirror else 1
        found = version_features(vit, views, environment.setting, wanted)
        features = found[: 2 if vit.config.mirror else 1].mean(dim=0)
        versions = found if config.method.reads_versions else None
    if config.method.reads_pooled:
        pooled = features[None] if versions is None else versions
        features, versions = _projected(backbone, features), None
    return Task(
        config=config,
        backbone=backbone,
        images=images,
        labels=torch.from_numpy(labels),
        classes=classes,
        features=features,
        setting=setting,
        text=text,
        metric=metric,
        key=key,
        digest=digest,
        base=base,
        versions=versions,
        pooled=pooled,
    )


@torch.no_grad()
def _projected(backbone: Backbone, pooled: Tensor) -> Tensor:
    """Features (..., E) behind the output projection, of those before it (..., F)."""
    projection = cast(nn.Linear, require_vit(backbone).projection)
    features: Tensor = projection(pooled.to(projection.weight)).cpu()
    return features


def adapter_info(task: Task, classes: Sequence[str], training: Mapping[str, Any], **more: Any) -> AdapterInfo:
    """What the adapter file of a finished `task` says of itself. more: further fields, such as licence or squash."""
    config, row = task.config, backbones().get(task.config.backbone)
    info = AdapterInfo(
        config.method,
        config.backbone,
        task.backbone.image_size,
        tuple(classes),
        task.base,
        config.head,
        training=training,
        base_licence=row.licence if row else "",
    )
    return replace(info, **more)


@dataclass(frozen=True)
class Trained:
    """A finished training: the classifier of the last epoch, what was chosen to make it, and how it went."""

    model: Classifier
    chosen: dict[str, Any]
    log: FitLog = field(default_factory=FitLog)


def derive(seed: int, purpose: str) -> int:
    """An independent seed for each purpose, so that changing one stream of random numbers leaves the others alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=6).digest(), "big")


def rows_digest(rows: Tensor) -> str:
    """16 hex digits that name a choice of rows in their order."""
    return bytes_digest(rows.numpy().tobytes())[:16]
