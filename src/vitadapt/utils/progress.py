"""Progress and durations in words."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); a download with (folder/file, bytes there, bytes in all or 0 when unknown)."""
OnEpoch = Callable[[str, int, float], None]
"""Called after each epoch of a training with (what it is called, the epoch from 1, its mean loss)."""
EVERY = 20.0  # seconds


class ProgressLines:
    """Progress where there is no terminal: a line for a step that takes long, and then one every `EVERY` seconds."""

    def __init__(self, message: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self.message, self.now, self.label = message, now, ""
        self.start = self.shown = 0.0

    def __call__(self, label: str, done: int, total: int) -> None:
        now = self.now()
        if label != self.label:
            self.label, self.start, self.shown = label, now, now
        if now - self.shown < EVERY or not 0 < done < total:
            return
        self.shown, left = now, (now - self.start) / done * (total - done)
        self.message(f"{label}: {100 * done / total:.0f} %, about {duration(left)} left")


def duration(seconds: float) -> str:
    """ "4 s", "40 s", "3 min" or "2.5 h"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s" if seconds < 10 else f"{round(seconds, -1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
