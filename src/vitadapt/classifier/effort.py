"""How much work a fit may do: what each step will cost on this machine, and how much time is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from ..nn.backbone import Backbone
from ..nn.setting import Setting
from ..nn.surgery import adapt, trainable, unchanged_blocks
from ..training.config import TrainConfig
from ..utils.progress import duration

Effort = Literal["quick", "default", "best"]
LONGEST = 1800.0  # seconds: what takes longer is tried with effort "best" only
FINAL = "last training"
_BATCH = 4  # images whose pass is timed


@dataclass
class Schedule:
    """Steps that are to be done, with the seconds expected of each, and how long the finished ones took.

    limit: seconds for all of it, or None. longest: of one candidate. What is left is corrected by the pace so far.
    level: of the test by which a candidate stops that has fallen behind.
    """

    limit: float | None = None
    longest: float | None = LONGEST
    level: float = 0.5
    now: Callable[[], float] = time.perf_counter
    steps: dict[tuple[str, int], float] = field(default_factory=dict)
    expected: float = 0.0
    taken: float = 0.0

    def __post_init__(self) -> None:
        self.start = self.last = self.now()

    @property
    def pace(self) -> float:
        """Seconds that a step takes for one that was expected."""
        return min(max(self.taken / self.expected, 0.2), 5.0) if self.expected > 1 else 1.0

    def begin(self) -> None:
        """The next step begins now."""
        self.last = self.now()

    def finished(self, name: str, step: int = 0) -> None:
        """A step of `name` is done, begun when the last one ended."""
        expected, before = self.steps.pop((name, step), 0.0), self.last
        self.last = self.now()
        if expected:
            self.expected, self.taken = self.expected + expected, self.taken + self.last - before

    def drop(self, name: str) -> None:
        """What is left of `name` will not be done."""
        self.steps = {key: seconds for key, seconds in self.steps.items() if key[0] != name}

    def left(self, name: str | None = None) -> float:
        """Seconds until all steps are done, or those of `name`."""
        return self.pace * sum(seconds for key, seconds in self.steps.items() if name in (None, key[0]))

    def refusal(self, name: str) -> str:
        """Why there is no time for the steps of `name` and the last training; empty when there is."""
        seconds = self.left(name) + self.left(FINAL)
        if self.limit is not None and self.now() - self.start + seconds > self.limit:
            return f"not tried: takes about {duration(seconds)}, more than the time limit leaves"
        if self.limit is None and self.longest is not None and seconds > self.longest:
            return f"not tried: takes about {duration(seconds)}; --effort best tries it"
        return ""

    def text(self) -> str:
        """How long it will take yet, in words; not more than the limit leaves."""
        over = float("inf") if self.limit is None else max(self.limit - (self.now() - self.start), 0.0)
        return f"about {duration(min(self.left(), over))} left"


@torch.inference_mode()
def seconds_per_image(backbone: Backbone, setting: Setting) -> float:
    """What one image's way through the frozen network takes here, in seconds."""
    shape = (_BATCH, backbone.preprocess.channels, backbone.image_size, backbone.image_size)
    images = torch.zeros(shape, dtype=torch.uint8, device=setting.device)
    times = []
    for _ in range(2):  # the first one allocates memory
        start = time.perf_counter()
        backbone(images).cpu()
        times.append(time.perf_counter() - start)
    return min(times) / _BATCH


def passes(config: TrainConfig, backbone: Backbone, images: int, shared: float, versions: int) -> tuple[float, float]:
    """What comes once before all trainings on `images`, and what one of them costs, in frozen passes of one image.

    shared: the share of the network whose output is there already for so many `versions` of each image; 0 for none.
    A step forth and back through a block costs three times the frozen pass through it.
    """
    adapted = adapt(backbone, config.method)
    read = versions if config.method.reads_versions else 2 if config.head.mirror else 1
    once = images * read * (1 - shared)
    if not trainable(adapted):
        return once, 0.0
    share = (unchanged_blocks(adapted) or 0) / getattr(backbone.config, "depth", 1)
    if not (config.recipe.views and share):
        return once, 3.0 * config.recipe.epochs * images
    return once + (0 if shared else versions * share * images), 3 * (1 - share) * config.recipe.epochs * images
