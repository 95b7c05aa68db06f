"""The one training loop, and the two passes without gradients: features and predictions.

`fit` sees images, labels and a recipe. It has no argument through which test data could come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.class_texts import penalty_of
from ..nn.setting import Setting
from ..nn.surgery import trainable
from ..nn.transformer import Transformer
from ..utils.errors import Diverged
from .checkpoint import Checkpoint
from .data_parallel import add_gradients, logits_of, shared
from .ingredients import at_work, augmented, average, rate_factors
from .recipe import Recipe

BATCH = 64  # inputs that go through a network at once


class Inputs(Protocol):
    """Images, tokens or features that can be gathered by row number."""

    def __len__(self) -> int: ...

    def gather(self, rows: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class TensorInputs:
    """Inputs that already are one tensor (N, ...): features, or a few images."""

    tensor: Tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def gather(self, rows: Tensor) -> Tensor:
        return self.tensor[rows.to(self.tensor.device)]


@dataclass(frozen=True)
class SelectedInputs:
    """The `rows` (M,) of other inputs."""

    inputs: Inputs
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, rows: Tensor) -> Tensor:
        return self.inputs.gather(self.rows[rows])


@runtime_checkable
class Versions(Protocol):
    """Inputs of which there are several versions, one of which is drawn each time they are trained on."""

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass
class FitLog:
    """What a training did: the mean loss of every epoch and the number of optimiser steps."""

    losses: list[float] = field(default_factory=list)
    steps: int = 0


def loss_of(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy for class numbers (B,); binary cross-entropy for multi-hot labels (B, C). Mean over the batch."""
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def probabilities_of(logits: Tensor, multilabel: bool) -> Tensor:
    """Softmax over classes, or a sigmoid per class for multi-label problems."""
    return logits.sigmoid() if multilabel else logits.softmax(dim=-1)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Trainable tensors in groups by learning rate and weight decay (on matrices, unless the recipe decays all).

    What belongs to `model.head`, or to a model without such a part, learns at `head_lr`, all else, text towers
    included, at `lr`, which `layer_decay` lowers for every block between it and the output.
    """
    towers = {id(p) for part in model.modules() if isinstance(part, Transformer) for p in part.parameters()}
    heads = {id(p) for p in getattr(model, "head", model).parameters()} - towers
    factors = rate_factors(model, recipe)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in trainable(model).values():
        lr = recipe.head_lr if id(parameter) in heads else recipe.lr * factors.get(id(parameter), 1.0)
        decay = recipe.weight_decay if parameter.ndim > 1 or recipe.decays == "all" else 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": params, "lr": lr, "base_lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()
    ]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over all trainable tensors of `model`."""
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.lr)


def rate(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Factor of the learning rate at step `step` of `steps`: linear warm-up, then constant or half a cosine."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def epoch_order(count: int, generator: torch.Generator) -> Tensor:
    """A permutation of 0..count-1."""
    return torch.randperm(count, generator=generator)


def fit(
    model: nn.Module,
    inputs: Inputs | Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    seed: int = 0,
    setting: Setting | None = None,
    label: str = "train",
    checkpoint: Path | None = None,
    until: int | None = None,
    after_epoch: Callable[[], None] | None = None,
) -> FitLog:
    """Train the trainable tensors of `model` on all `inputs` for a fixed number of epochs; the last epoch counts.

    `inputs` are images or features, N of them; `labels` are (N,) class numbers or (N, C) multi-hot. The order of the
    images depends on `seed` alone. With a `checkpoint` path a training that was cut off goes on after its last saved
    epoch, to the same bytes. `label` is what the progress is called. `until` stops a longer training after that epoch
    and leaves its checkpoint, from which a later call goes on. `after_epoch` is called after each epoch of this call,
    and `setting.on_epoch` with its loss. Raises Diverged when the loss of an epoch is not finite.
    """
    setting = setting or Setting()
    inputs = TensorInputs(inputs) if isinstance(inputs, Tensor) else inputs
    generator = torch.Generator().manual_seed(seed)
    optimizer = make_optimizer(model, recipe)
    log, saved = FitLog(), Checkpoint(checkpoint, model, optimizer, generator)
    last = recipe.epochs if until is None else until
    log.losses = saved.resume(last)
    labels = labels.to(setting.device)
    for epoch in range(len(log.losses), last):
        model.train()
        with at_work(model, recipe, seed, epoch):
            log.losses.append(_epoch(model, optimizer, inputs, labels, recipe, epoch, generator, setting, label))
        if not math.isfinite(log.losses[-1]):
            raise Diverged(f"the loss is not finite in epoch {epoch + 1}; lower the learning rate ({recipe.lr:g})")
        saved.save(log.losses, at_once=epoch + 1 == until)
        if setting.on_epoch is not None:
            setting.on_epoch(label, epoch + 1, log.losses[-1])
        if after_epoch is not None:
            after_epoch()
    if last == recipe.epochs:
        average(model, optimizer, recipe, done=True)
        saved.remove()
    model.eval()
    log.steps = last * steps_per_epoch(len(inputs), recipe)
    return log


def steps_per_epoch(count: int, recipe: Recipe) -> int:
    """Optimiser steps per epoch of `count` images: one for every `accumulate` batches, the last one perhaps smaller."""
    return math.ceil(math.ceil(count / recipe.batch_size) / recipe.accumulate)


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    labels: Tensor,
    recipe: Recipe,
    epoch: int,
    generator: torch.Generator,
    setting: Setting,
    label: str,
) -> float:
    """One pass in a new random order -> mean loss. The loss is summed on the device and read once, at the end."""
    count = len(inputs)
    per_epoch = steps_per_epoch(count, recipe)
    total = torch.zeros((), device=setting.device)
    step_size = recipe.batch_size * recipe.accumulate
    for step, chunk in enumerate(epoch_order(count, generator).split(step_size), start=epoch * per_epoch):
        factor = rate(step, recipe.epochs * per_epoch, round(recipe.warmup * per_epoch), recipe.schedule)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        optimizer.zero_grad(set_to_none=True)
        for rows in chunk.split(recipe.batch_size):
            batch = inputs.draw(rows, generator) if isinstance(inputs, Versions) else inputs.gather(rows)
            batch = batch.to(setting.device, non_blocking=True)
            batch, blend = augmented(batch, recipe, generator)
            with setting.autocast():
                logits = logits_of(model, batch)
            own = labels[rows.to(labels.device, non_blocking=True)]
            loss = loss_of(logits.float(), own, recipe.label_smoothing)
            if blend is not None:
                other = loss_of(logits.float(), own[blend.partner], recipe.label_smoothing)
                loss = blend.share * loss + (1 - blend.share) * other
            if recipe.pace:
                with setting.autocast():
                    again = logits_of(model, batch)
                loss = loss + recipe.pace * (logits - again).float().square().sum(dim=1).mean()
            loss = loss + penalty_of(model)
            (loss * (len(rows) / len(chunk))).backward()
            total += loss.detach() * len(rows)
        add_gradients(model)
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(trainable(model).values(), recipe.clip_norm)
        optimizer.step()
        average(model, optimizer, recipe)
        setting.report(label, step + 1, recipe.epochs * per_epoch)
    return shared(float(total) / count)


def forward_all(model: nn.Module, inputs: Inputs, setting: Setting, label: str, batch_size: int = BATCH) -> Tensor:
    """The outputs of `model` for all inputs in order, (N, ...) on the CPU in fp32; rows do not see each other."""
    found = torch.empty(0)
    starts = range(0, len(inputs), batch_size)
    for start, outputs in zip(starts, forward_batches(model, inputs, setting, label, starts, batch_size), strict=True):
        if not start:
            found = torch.empty(len(inputs), *outputs.shape[1:])
        found[start : start + len(outputs)] = outputs
    return found


@torch.inference_mode()
def forward_batches(
    model: nn.Module,
    inputs: Inputs,
    setting: Setting,
    label: str,
    starts: Sequence[int],
    batch_size: int = BATCH,
) -> Iterator[Tensor]:
    """The same, only of the batches that start at these rows, one after the other."""
    model.eval()
    for start in starts:
        rows = torch.arange(start, min(start + batch_size, len(inputs)))
        with setting.autocast():
            outputs = model(inputs.gather(rows).to(setting.device, non_blocking=True)).float().cpu()
        setting.report(label, int(rows[-1]) + 1, len(inputs))
        yield outputs


def batches(count: int, size: int) -> Iterator[Tensor]:
    """0..count-1 in order, in pieces of `size`."""
    yield from torch.arange(count).split(size)
