"""The published protocol as released: it scores the test set after every epoch, and its number is the best of them.

It exists to repeat published numbers and to measure what they owe to that; docs/released.md describes it with the
Q numbers of its peculiarities.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...methods import METHODS
from ...metrics.scores import RELEASED_METRICS
from ...nn.head import Classifier, Head
from ...nn.setting import Setting
from ...nn.surgery import adapt, load_trainable_state, seeded, trainable_state
from ...training.checkpoint import running_statistics
from ...training.loop import FitLog, Inputs, forward_all, loss_of, make_optimizer
from ...training.recipe import Recipe, protocol_table, recipe_for
from ...training.task import LabelledImages, Task
from ...utils.errors import ConfigError, Diverged
from ..config import RunConfig
from .base import Budget, TrainedOnTest
from .search import Choice, Grid, Probe, coarse_to_fine, neighbours
from .standard import first
from .steps import OnPublishedSplit, at_point, published_split, split_budget
from .trials import Trials

Rows = Iterable[Tensor]  # batches of row numbers; every pass is a new order
BEST, LAST = "best on test", "last epoch"  # keys of `Record.scores`
SEED = 0  # of torch's generator, once per run, and of the generator that shuffles (Q25, Q26)


def left_neighbours(peak: int, span: int, last: int) -> list[Probe]:
    """As `neighbours`, but what counts for the right one is a training with the weight decay of the left one (Q24)."""
    found = neighbours(peak, span, last)
    return [(max(peak - span, 0), credited) for _, credited in found]


@dataclass(frozen=True)
class Switches:
    """In what the published trainers differ: a row of [elevater-released.methods] in protocols.toml."""

    corrected: str  # the method without the defects
    left_decay: bool = False
    resets_order: bool = False  # the order of images begins anew with every training, and is not torch's own at the end

    @staticmethod
    def of(config: RunConfig) -> Switches:
        row = protocol_table()[config.protocol]["methods"][METHODS.name_of(config.method)]
        return Switches(**row)


@dataclass(frozen=True)
class ElevaterReleased(OnPublishedSplit):
    """Published code as it is: elevater with the best epoch on the TEST set as its result; for published numbers only.

    A recipe with a learning rate above 0 replaces the search, as the published --no-tuning does.
    """

    sees_test: ClassVar[bool] = True
    grid: Grid = field(default_factory=Grid)
    epochs: int = 10

    def __call__(self, task: Task, config: RunConfig) -> TrainedOnTest:
        assert task.test is not None
        check_published(config)
        split, switches = published_split(config, task.labels), Switches.of(config)
        shuffle, recipe, chosen = torch.Generator().manual_seed(SEED), task.recipe, dict[str, Any]()
        trials = Trials(task.trials, task.identity(), self.grid.most_trials, (torch.default_generator, shuffle))
        with seeded(SEED):
            if not recipe.lr:
                train, held = task.take(split.train), task.take(split.held)
                choice = self._search(train, held, switches, shuffle, trials)
                recipe = at_point(recipe, choice.lr, choice.weight_decay)
                trace = [[t.lr, t.weight_decay, self.epochs, t.score, t.stage] for t in choice.trials]
                chosen = {"validation": choice.score, "trials": len(trace), "trace": trace}
            chosen |= {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
            recipe = at_point(recipe, recipe.lr, recipe.weight_decay)
            trained = self._final(task.take(split.final), task.test, recipe, switches)
        return replace(trained, chosen={**chosen, **trained.chosen})

    def _search(self, train: Task, held: Task, switches: Switches, shuffle: torch.Generator, trials: Trials) -> Choice:
        rows, labels = Shuffled(len(train.labels), shuffle), held.labels.numpy()

        def trial(lr: float, decay: float, label: str) -> tuple[float]:
            if switches.resets_order:
                shuffle.manual_seed(SEED)
            scores: list[float] = []
            model, recipe = classifier(train), replace(at_point(train.recipe, lr, decay), epochs=self.epochs)

            def evaluate() -> None:
                scores.append(score_of(train, labels, predict(model, held.images, train.setting)))

            fit_released(model, train, recipe, rows, evaluate, label)
            return (max(scores),)

        asked = itertools.count()  # every trial depends on all before it, so that none is used twice

        def score(lr: float, decay: float) -> float | None:
            return first(trials.score([next(asked), lr, decay], partial(trial, lr, decay)))

        refine = left_neighbours if switches.left_decay else neighbours
        choice = coarse_to_fine(score, self.grid, refine)
        return choice if choice.score else replace(choice, lr=0.0, weight_decay=0.0)

    def _final(self, task: Task, test: LabelledImages, recipe: Recipe, switches: Switches) -> TrainedOnTest:
        shuffle = torch.Generator().manual_seed(SEED) if switches.resets_order else None
        model, best = classifier(task), Best()

        def evaluate() -> None:
            probabilities = predict(model, test.images, task.setting)
            best.offer(score_of(task, test.labels, probabilities), probabilities, model)

        log = fit_released(model, task, recipe, Shuffled(len(task.labels), shuffle, recipe.batch_size), evaluate)
        return best.trained(model, log)

    def budget(self, config: RunConfig, labels: Tensor) -> Budget:
        most = 0 if config.training.recipe.lr else self.grid.most_trials
        return split_budget(config, labels, most, most * self.epochs, most * self.epochs)


@dataclass
class Best:
    """The first epoch with the largest score above zero so far, and the scores of all epochs, in percent."""

    scores: list[float] = field(default_factory=list)
    probabilities: np.ndarray | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, score: float, probabilities: np.ndarray, model: nn.Module) -> None:
        if score > max(self.scores, default=0.0):
            self.probabilities, self.state = probabilities, trainable_state(model)
            self.statistics = {name: tensor.clone() for name, tensor in running_statistics(model).items()}
        self.scores.append(score)

    def trained(self, model: Classifier, log: FitLog) -> TrainedOnTest:
        """The outcome, with `model` as it was at the best epoch. Raises Diverged when no epoch scored above zero."""
        if self.probabilities is None:
            raise Diverged("no epoch scored above zero on the test set, where published code stops without a result")
        load_trainable_state(model, self.state)
        for name, tensor in running_statistics(model).items():
            tensor.copy_(self.statistics[name])
        best = max(self.scores)
        chosen = {"epoch": self.scores.index(best) + 1, "test_scores": self.scores}
        scores = {BEST: best, LAST: self.scores[-1]}
        return TrainedOnTest(model.eval(), chosen, log, probabilities=self.probabilities, score=best, scores=scores)


def check_published(config: RunConfig) -> None:
    """Raises ConfigError for what the published code has no counterpart of."""
    given, prescribed, head = config.training.recipe, recipe_for(config.protocol, config.method), config.head_spec
    free = {name: getattr(given, name) for name in ("lr", "weight_decay", "epochs")}
    if given != replace(prescribed, **free) or (given.weight_decay and not given.lr):
        raise ConfigError(f"protocol {config.protocol}: a recipe may set epochs, lr, and weight_decay with lr alone")
    if head.norm == "standard" or head.scale != 1 or head.learn_scale:
        raise ConfigError(f"protocol {config.protocol}: a head needs norm=batch or norm=none, and scale=1 (Q10)")
    if config.precision != "fp32":
        raise ConfigError(f"protocol {config.protocol} computes in fp32 (Q12); leave --precision out")


def classifier(task: Task) -> Classifier:
    """A fresh classifier, drawn from torch's generator as it stands. A head without text starts as PyTorch's layer."""
    backbone, spec = adapt(task.backbone, task.config.method, None), task.config.head
    head = Head(task.features.shape[1], task.classes, spec)
    if spec.start != "text":
        head.linear.reset_parameters()
    elif task.text is None:
        raise ConfigError(f"{task.config.backbone} has no text tower to make a head of class names from")
    else:
        head.start_from(task.text.features)
    return Classifier(backbone, head.to(task.setting.device)).eval()


@dataclass(frozen=True)
class Shuffled:
    """Rows 0..count-1 in batches, in a new order every pass, as a DataLoader draws it (Q26): from `generator` a number
    that nothing uses and then the order; without one both from torch's own, the order by way of a generator it seeds.
    """

    count: int
    generator: torch.Generator | None
    size: int = 64

    def __iter__(self) -> Iterator[Tensor]:
        _draw(self.generator)
        order = self.generator or torch.Generator().manual_seed(_draw(None))
        yield from torch.randperm(self.count, generator=order).split(self.size)


def _draw(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator))


def fit_released(
    model: Classifier, task: Task, recipe: Recipe, rows: Rows, evaluate: Callable[[], None], label: str = "train"
) -> FitLog:
    """Train `model` and `evaluate` it after every epoch; a loss that is not a number does not end it.

    The head is in training mode during the first epoch alone, so that the statistics of its norm stay as they are then;
    the backbone never is (Q13). A batch of one image is left out (Q20).
    """
    optimizer, log, setting = make_optimizer(model, recipe), FitLog(), task.setting
    labels = task.labels.to(setting.device)
    model.eval()
    model.head.train()
    for epoch in range(recipe.epochs):
        total, count = torch.zeros((), device=setting.device), 0
        for chunk in rows:
            if len(chunk) == 1:
                continue
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model(task.images.gather(chunk).to(setting.device)), labels[chunk.to(labels.device)])
            loss.backward()
            optimizer.step()
            total, count, log.steps = total + loss.detach() * len(chunk), count + len(chunk), log.steps + 1
        model.eval()
        log.losses.append(float(total) / max(count, 1))
        evaluate()
        setting.report(label, epoch + 1, recipe.epochs)
    return log


def predict(model: Classifier, images: Inputs, setting: Setting) -> np.ndarray:
    """Softmax probabilities (N, C), for several labels too (Q33), in batches of 64 in the images' order (Q3, Q19)."""
    _draw(None)  # as every pass of a DataLoader, whose workers are seeded with it
    logits = forward_all(model, images, replace(setting, progress=None), "test", batch_size=64)
    probabilities: np.ndarray = logits.softmax(dim=-1).numpy()
    return probabilities


def score_of(task: Task, labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The published form of the dataset's metric, in percent (Q34-Q36)."""
    return 100 * RELEASED_METRICS[task.metric](labels, probabilities)
