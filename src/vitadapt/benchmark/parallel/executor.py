"""What a crew is: it is given cells one by one and tells what became of each. The simplest one works right here."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Protocol

from ...training.features import Environment
from ...utils.errors import CellBusy, describe
from ..config import RunConfig
from ..results.record import Record
from ..results.store import Store
from ..runner import run


@dataclass(frozen=True)
class Outcome:
    """What became of one cell: a record, or the one-line reason why there is none."""

    config: RunConfig
    record: Record | None
    failure: str = ""
    fresh: bool = True  # False when it had been recorded before


@dataclass(frozen=True)
class Busy:
    """A cell that another process is running; it was not started."""

    config: RunConfig


@dataclass(frozen=True)
class Lost:
    """A cell whose worker died on the way."""

    config: RunConfig
    why: str


Event = Outcome | Busy | Lost


class Watch:
    """What a benchmark tells while it goes on; this one keeps quiet."""

    def surveyed(self, total: int, missing: int) -> None:
        """Before the first cell: of `total` cells, `missing` are not recorded yet."""

    def started(self, config: RunConfig) -> None:
        """A cell was given out."""

    def advanced(self, config: RunConfig, label: str, done: int, total: int) -> None:
        """Within a cell: `done` of `total` steps of `label`."""

    def finished(self, outcome: Outcome) -> None:
        """A cell has come to its end."""

    def stopped(self, config: RunConfig, why: str) -> None:
        """A cell was given up for the moment; it is tried again."""

    def note(self, text: str) -> None:
        """Something a person should know."""


class Crew(Protocol):
    """Those who run cells. Leaving it as a context stops whatever still runs, at once."""

    def room(self) -> bool:
        """Whether another cell can be given out now."""

    def give(self, config: RunConfig) -> None:
        """Start a cell; only when there is room."""

    def events(self, timeout: float) -> list[Event]:
        """What happened since the last call; waits for something to happen, but not longer than `timeout` seconds."""


Hire = Callable[[Store, Environment, Watch], AbstractContextManager[Crew]]


def attempt(config: RunConfig, store: Store, environment: Environment) -> Outcome | Busy:
    """Run one cell unless another process does. What goes wrong in it is told, and its trace is in the store."""
    try:
        return Outcome(config, run(config, store, environment, wait=False))
    except CellBusy:
        return Busy(config)
    except Exception as error:  # noqa: BLE001 - the trace is kept by run(); one cell must not stop the others
        return Outcome(config, None, describe(error))


class Alone:
    """A crew of one, in this process. `threads` None leaves torch as it is."""

    def __init__(self, store: Store, environment: Environment, watch: Watch, threads: int | None = None) -> None:
        self.store, self.environment, self.watch, self.threads = store, environment, watch, threads
        self._said: list[Event] = []

    def __enter__(self) -> Alone:
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def room(self) -> bool:
        return not self._said

    def give(self, config: RunConfig) -> None:
        self.watch.started(config)
        setting = replace(self.environment.setting, progress=partial(self.watch.advanced, config))
        self._said.append(attempt(config, self.store, replace(self.environment, setting=setting)))

    def events(self, timeout: float) -> list[Event]:
        if not self._said:
            time.sleep(timeout)
        said, self._said = self._said, []
        return said
