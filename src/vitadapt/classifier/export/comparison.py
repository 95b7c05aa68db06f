"""A smaller model beside the one it was made of: agreement, accuracy, size and speed, and whether it is of use."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...metrics.scores import share_interval
from ...metrics.several_labels import decided
from ...metrics.significance import bootstrap_interval
from ...utils.errors import WeightsError
from .samples import Samples

Run = Callable[[Tensor], Tensor]
"""uint8 images (B, 3, S, S) -> logits (B, C)."""
_BATCH, _REPEATS = 8, 15
_SLOWER = 1.1  # the times of equally fast models differ by so much
Pair = tuple[float, float]
Layers = tuple[int, tuple[str, ...]]
"""How many linear layers there are, and the names of those that stay in fp32."""


@dataclass(frozen=True)
class Comparison:
    """The full model first, the smaller one second; shares and accuracies in percent, times in ms per image.

    agreement: images of which both say the same. loss: points of accuracy that the smaller one loses, and its paired
    95 % interval (bootstrap). fp32_layers of layers: what was left as it is.
    """

    on: str
    images: int
    agreement: float
    agreement_interval: Pair
    accuracy: Pair
    accuracy_intervals: tuple[Pair, Pair]
    loss: float
    loss_interval: Pair
    bytes: tuple[int, int]
    milliseconds: Pair
    layers: int = 0
    fp32_layers: tuple[str, ...] = ()

    def refusal(self, max_loss: float) -> str:
        """Why nobody should use the smaller model; empty when it loses at most `max_loss` points and is not slower."""
        full, small = self.milliseconds
        if not self.loss_interval[1] <= max_loss:
            low, high = self.loss_interval
            return (
                f"it loses {self.loss:.1f} points of accuracy (95 % interval {low:.1f} to {high:.1f}) on {self.on}, "
                f"and {max_loss:g} are allowed; allow more with --max-loss, or compare on more images with --data"
            )
        if small > _SLOWER * full:
            return f"it is slower here, {small:.3g} ms per image instead of {full:.3g} ms; export without it"
        return ""

    def lines(self) -> list[str]:
        """For people."""
        (low, high), (full, small) = self.agreement_interval, self.accuracy
        (a, b), (c, d) = self.accuracy_intervals
        kept = f", {len(self.fp32_layers)} of {self.layers} layers in fp32" if self.layers else ""
        return [
            f"agreement       {self.agreement:.1f} % (95 % interval {low:.1f} to {high:.1f} %) with fp32 on {self.on}",
            f"accuracy        {small:.1f} % ({c:.1f} to {d:.1f} %), fp32 {full:.1f} % ({a:.1f} to {b:.1f} %): "
            f"loses {self.loss:.1f} points ({self.loss_interval[0]:.1f} to {self.loss_interval[1]:.1f})",
            f"beside fp32     {self.bytes[1] / 1e6:.1f} MB instead of {self.bytes[0] / 1e6:.1f} MB, "
            f"{self.milliseconds[1]:.3g} ms per image instead of {self.milliseconds[0]:.3g} ms{kept}",
        ]


def compare(
    full: Run,
    small: Run,
    samples: Samples,
    thresholds: Sequence[float],
    bytes_: tuple[int, int],
    layers: Layers = (0, ()),
) -> Comparison:
    """Both models on the compared images. thresholds: of several labels, of which a share is right per image."""
    logits = [in_batches(run, samples.comparison) for run in (full, small)]
    answers = [_answers(one, thresholds) for one in logits]
    right = [(found == samples.labels).reshape(len(found), -1).mean(axis=1) for found in answers]  # (N,)
    agree = (answers[0] == answers[1]).reshape(len(answers[0]), -1).all(axis=1)
    count = len(agree)
    low, high = bootstrap_interval([(100 * (right[0] - right[1])).tolist()])
    loss = 100 * float((right[0] - right[1]).mean())
    return Comparison(
        on=samples.text,
        images=count,
        agreement=100 * float(agree.mean()),
        agreement_interval=_percent(int(agree.sum()), count),
        accuracy=(100 * float(right[0].mean()), 100 * float(right[1].mean())),
        accuracy_intervals=(_percent(round(right[0].sum()), count), _percent(round(right[1].sum()), count)),
        loss=loss,
        loss_interval=(-100.0, 100.0) if low is None or high is None else (low, high),
        bytes=bytes_,
        milliseconds=milliseconds((full, small), samples.comparison[:1]),
        layers=layers[0],
        fp32_layers=layers[1],
    )


def accepted(found: Comparison, what: str, max_loss: float) -> Comparison:
    """`found` itself. Raises WeightsError with the reason when the smaller model loses or costs too much."""
    if reason := found.refusal(max_loss):
        raise WeightsError(f"export as {what}: {reason}; nothing was written")
    return found


def in_batches(run: Run, images: Tensor) -> Tensor:
    """Logits (N, C) of images (N, 3, S, S), a few at a time."""
    return torch.cat([run(some) for some in images.split(_BATCH)])


def milliseconds(runs: tuple[Run, Run], images: Tensor, repeats: int = _REPEATS) -> Pair:
    """The least time of each for the same images, of runs in turn: what a busy machine adds says nothing of a model."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, times in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run(images)
            times.append(time.perf_counter() - start)
    return 1000 * min(seconds[0]), 1000 * min(seconds[1])


def _answers(logits: Tensor, thresholds: Sequence[float]) -> np.ndarray:
    """(N,) classes, or (N, C) which labels are given."""
    if not thresholds:
        return logits.argmax(dim=1).numpy()
    return decided(logits.sigmoid().numpy(), np.asarray(thresholds)).astype(np.int64)


def _percent(right: int, count: int) -> Pair:
    low, high = share_interval(right, count)
    return 100 * low, 100 * high
