"""What is reported while cells run. Imports no torch: a worker is not placed yet."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..results.record import Record


@dataclass(frozen=True)
class Outcome:
    """The end of one cell: a record, or the one-line reason why there is none."""

    config: RunConfig
    record: Record | None
    failure: str = ""
    fresh: bool = True  # False when it had been recorded before


Outcomes = Generator[Outcome, None, None]
"""One outcome for each cell, as they come. Closing it stops all that still runs."""


class Watch:
    """What a benchmark reports while it runs; this one ignores it."""

    def surveyed(self, total: int, missing: int) -> None:
        """Before the first cell: of `total` cells, `missing` are not recorded yet."""

    def started(self, config: RunConfig) -> None:
        """A cell begins."""

    def advanced(self, config: RunConfig, label: str, done: int, total: int) -> None:
        """Within a cell: `done` of `total` steps of `label`."""

    def finished(self, outcome: Outcome) -> None:
        """A cell has ended."""

    def stopped(self, config: RunConfig, why: str) -> None:
        """A cell has stopped because of `why` and will be tried again."""

    def note(self, text: str) -> None:
        """Something a person should know."""
