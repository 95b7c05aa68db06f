"""The candidates of a fit, one after the other: their tasks, their scores, and the one that is delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.pixels.pixels import Pixels
from ..data.sampling.folds import folds_for, grouped_folds
from ..nn.backbone import Backbone
from ..nn.head import TextStart
from ..nn.vit import ViT
from ..training.config import TrainConfig
from ..training.cross_validation import train_final
from ..training.features import Environment, cached_backbone, geometry_of
from ..training.task import Task, Trained, derive, make_task
from ..training.views import MOST_JITTERED, VERSIONS, Views, make_views, shared_block
from ..utils.errors import Diverged
from ..utils.progress import duration
from .candidates import FitConfig
from .effort import FINAL, Schedule, passes, seconds_per_image
from .holdout import TrainTestSplit
from .measure import Measure
from .model_selection import Candidate, Message, candidate_of, scored, select
from .prior import Prior

POOLED = 3  # last blocks that the candidates read at most


@dataclass(frozen=True)
class Entry:
    """A candidate, and its task with all images that the delivered model is trained on."""

    candidate: Candidate
    whole: Task


@dataclass(frozen=True)
class Competition:
    """What all candidates of one fit have in common. fold: (N,) of the training images; None for too few of them.

    work: a folder of finished folds and checkpoints.
    """

    config: FitConfig
    configs: dict[str, TrainConfig]
    data: TrainTestSplit
    text: TextStart | None
    environment: Environment
    work: Path
    message: Message
    schedule: Schedule = field(default_factory=Schedule)
    views: dict[int | None, Views] = field(default_factory=dict)

    @cached_property
    def fold(self) -> np.ndarray | None:
        """(N,) the fold of every training image; None where cross-validation needs more of them."""
        labels, groups = self.data.train.labels, self.data.groups
        folds = folds_for(labels, groups, self.config.folds)
        return grouped_folds(labels, groups, folds, derive(self.config.seed, "folds")) if folds else None

    @cached_property
    def prior(self) -> Prior | None:
        """What `--prior` names. Raises as `TrainTestSplit.prior`."""
        return self.data.prior(self.config.prior)

    @cached_property
    def measure(self) -> Measure:
        """What the candidates are compared by."""
        return Measure(self.data.multilabel, self.prior)

    def plan(self) -> str:
        """Enter every step with its expected seconds into the schedule -> the estimate as one line."""
        folds = 0 if self.fold is None else len(np.unique(self.fold))
        images, seconds = len(self.data.delivered), dict[int | None, float]()
        final: dict[str, float] = {}  # the last training of each; nothing where no backbone is trained
        versions = self._versions if images <= MOST_JITTERED else 2
        for name, config in self.configs.items():
            backbone, _ = cached_backbone(config.backbone, config.image_size, self.environment.setting.device)
            shared = 0.0
            if self._shares(config) and isinstance(backbone, ViT):
                shared = shared_block(backbone, POOLED) / backbone.config.depth
            once, each = passes(config, backbone, images, shared, versions)
            if config.image_size not in seconds:
                seconds[config.image_size] = seconds_per_image(backbone, self.environment.setting)
                once += images * versions * shared
            second = seconds[config.image_size]
            self.schedule.steps[name, 0] = second * once
            part = len(self.data.train) / images * (1 - 1 / max(folds, 2))
            self.schedule.steps |= {(name, place): second * each * part for place in range(1, folds + 1)}
            final[name] = second * each * (2 if len(self.data.delivered) > len(self.data.train) else 1)
        self.schedule.steps[FINAL, 0] = max(final.values())
        tried = [name for name in self.configs if not final[name] or not self.schedule.refusal(name)]
        total = sum(self.schedule.left(name) for name in tried) + max(map(final.__getitem__, tried), default=0.0)
        return f"estimate: up to {duration(total)} for {len(tried)} candidates"

    def entries(self, first: Callable[[Entry], None]) -> Iterator[Entry]:
        """Every candidate with its score; `first` is called with the first one that trains a head."""
        found: list[Candidate] = []
        for name, config in self.configs.items():
            self.schedule.begin()
            early = None
            if config.method.trains_head and not any(other.parameters for other in found):
                early = self._task(config, 1)  # the images as they are have to do for a first model
                first(Entry(candidate_of(name, self._part(early)), early))
                if config.image_size in self.views:
                    early = None  # there are more versions to come
            entry = self._entry(name, config, found, early)
            self.schedule.drop(name)
            self.message(f"{name}: {entry.candidate.summary}")
            found.append(entry.candidate)
            yield entry

    def _entry(self, name: str, config: TrainConfig, found: list[Candidate], early: Task | None) -> Entry:
        """early: its task, where that is made already."""
        refusal = self.schedule.refusal(name) if found else ""
        whole = early or self._task(config, self._versions)
        candidate = candidate_of(name, self._part(whole))
        if refusal and candidate.trains_backbone:
            return Entry(replace(candidate, note=refusal), whole)
        fold = self.fold
        if candidate.trains_backbone and fold is not None and all(other.score != 100 for other in found):
            shared = self.views.get(config.image_size)
            whole = whole.with_views(self.environment.cache, shared)
            candidate = replace(candidate, task=self._part(whole))
        self.schedule.finished(name)
        return Entry(scored(candidate, found, fold, self.work, self.message, self.schedule, self.measure), whole)

    def _task(self, config: TrainConfig, versions: int) -> Task:
        """The task of a candidate with all images that the delivered model is trained on, in so many versions."""
        backbone, _ = cached_backbone(config.backbone, config.image_size, self.environment.setting.device)
        images, environment = self.data.delivered, self.environment
        pixels = self.data.scan.pixels(images, geometry_of(backbone), environment.cache, environment.setting.progress)
        views = self._views(config, backbone, pixels, versions)
        more: dict[str, Any] = {"text": self.text, "views": views, "metric": self.measure.metric}
        return make_task(config, pixels, images.labels, len(self.data.classes), environment, **more)

    def _views(self, config: TrainConfig, backbone: Backbone, pixels: Pixels, versions: int) -> Views | None:
        """Versions of the images that all candidates of one image size share; None where there is but one."""
        if not isinstance(backbone, ViT) or not self._shares(config):
            return None
        known, place, setting = self.views.get(config.image_size), self.environment.cache, self.environment.setting
        first, seed = shared_block(backbone, POOLED), derive(config.seed, "views")
        made = make_views(backbone, pixels, first, versions, seed, setting, place, known)
        if made is not None:
            self.views[config.image_size] = made
        return made

    def _shares(self, config: TrainConfig) -> bool:
        """Do several candidates see the images at this size?"""
        return [other.image_size for other in self.configs.values()].count(config.image_size) > 1

    @property
    def _versions(self) -> int:
        """How many versions of each image there are: with its mirror image."""
        return 2 if self.config.effort == "quick" else 2 + VERSIONS

    def _part(self, whole: Task) -> Task:
        """`whole` with the training images alone; the others come behind them."""
        count = len(self.data.train)
        return whole if count == len(whole.labels) else whole.take(torch.arange(count))

    def train(self, candidate: Candidate, task: Task) -> Trained:
        """Train on all images of `task`, at the candidate's temperature and under the prior. Raises Diverged."""
        task = replace(task, checkpoint=self.work / f"{task.identity()}.checkpoint")
        trained = train_final(task, task.recipe)
        trained.model.head.divide_logits(candidate.temperature)
        if self.prior is not None:
            trained.model.head.shift_logits(self.prior.shift(task.config.method))
        return trained

    def best(self, entries: list[Entry]) -> tuple[Entry, Trained]:
        """The selected candidate, trained on the training images; if that diverges, the next best one."""
        selected = select([entry.candidate for entry in entries])
        entry = next(entry for entry in entries if entry.candidate is selected)
        self.message(f"kept: {selected.name}")
        try:
            return entry, self.train(selected, selected.task)
        except Diverged as error:
            others = [other for other in entries if other is not entry]
            if not others:
                raise
            self.message(f"{error}; the next best one is taken instead")
            return self.best(others)
