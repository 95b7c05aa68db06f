"""Executors: they run cells in this process, in several, or on a cluster. All share one order of work."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

from ...training.features import Environment
from ...utils.errors import CellBusy, StorageError, describe
from ..config import RunConfig
from ..results.record import Record
from ..results.store import Store
from ..runner import run

ATTEMPTS = 3  # a cell whose worker died this often is given up
RECHECK = 1.0  # seconds until a cell that another process runs is tried again
POLL = 0.5  # seconds to wait for a result at a time


@dataclass(frozen=True)
class Outcome:
    """The end of one cell: a record, or the one-line reason why there is none."""

    config: RunConfig
    record: Record | None
    failure: str = ""
    fresh: bool = True  # False when it had been recorded before


@dataclass(frozen=True)
class Retry:
    """A cell to be run again. lost: why its worker died; None when another process is running the cell."""

    config: RunConfig
    lost: str | None = None


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
        """A cell has stopped and will be tried again; `why` is empty when another process is running it."""

    def note(self, text: str) -> None:
        """Something a person should know."""


class Executor(ABC):
    """Runs cells. Leaving it as a context stops all that still runs, at once."""

    def __init__(self, store: Store, environment: Environment, watch: Watch) -> None:
        self.store, self.environment, self.watch = store, environment, watch

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def has_room(self) -> bool:
        """Whether another cell can be submitted now."""

    @abstractmethod
    def submit(self, config: RunConfig) -> None:
        """Start a cell; only when there is room."""

    @abstractmethod
    def results(self, timeout: float) -> list[Outcome | Retry]:
        """What ended since the last call; waits for something to end, but not longer than `timeout` seconds."""

    def close(self) -> None:  # noqa: B027 - in this process nothing is left to stop
        """Stop what still runs."""

    def run(self, configs: Sequence[RunConfig]) -> Iterator[Outcome]:
        """One outcome for every cell, as they come.

        A cell that another process is running is left for the end and waited for. One whose worker died is run again,
        at most ATTEMPTS times in all. Raises WorkerError when no worker can begin.
        """
        waiting, busy, running, noted = deque(configs), list[RunConfig](), 0, False
        losses, recheck = Counter[RunConfig](), 0.0
        while waiting or busy or running:
            if not waiting and time.monotonic() >= recheck:
                waiting.extend(busy)
                busy.clear()
            if waiting and self.has_room():
                self.submit(waiting.popleft())
                running += 1
                continue
            if busy and not running and not noted:
                noted = True
                self.watch.note(f"waiting for {len(busy)} cells that another process is running")
            for result in self.results(POLL):
                running -= 1
                if isinstance(result, Outcome):
                    yield result
                elif result.lost is None:
                    self.watch.stopped(result.config, "")
                    busy.append(result.config)
                    recheck = time.monotonic() + RECHECK
                else:
                    losses[result.config] += 1
                    if losses[result.config] == ATTEMPTS:
                        reason = f"given up after {ATTEMPTS} attempts: {result.lost}"
                        yield self.failed(result.config, reason, reason + "\n")
                    else:
                        self.watch.stopped(result.config, f"{result.lost}; it is run again")
                        waiting.appendleft(result.config)

    def failed(self, config: RunConfig, reason: str, trace: str) -> Outcome:
        """The outcome of a cell without a record; its trace goes to the store."""
        with suppress(StorageError):  # a full disk must not stop the others
            self.store.fail(config.digest(), trace)
        return Outcome(config, None, reason)


def attempt(config: RunConfig, store: Store, environment: Environment) -> Outcome | Retry:
    """Run one cell unless another process does. An error of its own is its outcome; the trace is in the store."""
    try:
        return Outcome(config, run(config, store, environment, wait=False))
    except CellBusy:
        return Retry(config)
    except Exception as error:  # noqa: BLE001 - run() has stored the trace; one cell must not stop the others
        return Outcome(config, None, describe(error))


class InProcess(Executor):
    """One cell at a time, in this process. `threads` None leaves torch as it is."""

    def __init__(self, store: Store, environment: Environment, watch: Watch, threads: int | None = None) -> None:
        super().__init__(store, environment, watch)
        self._results: list[Outcome | Retry] = []
        if threads is not None:
            import torch

            torch.set_num_threads(threads)

    def has_room(self) -> bool:
        return not self._results

    def submit(self, config: RunConfig) -> None:
        self.watch.started(config)
        setting = replace(self.environment.setting, progress=partial(self.watch.advanced, config))
        self._results.append(attempt(config, self.store, replace(self.environment, setting=setting)))

    def results(self, timeout: float) -> list[Outcome | Retry]:
        if not self._results:
            time.sleep(timeout)
        results, self._results = self._results, []
        return results
