"""Which cell is given out next, and what is done about one that is lost. Knows nothing of how cells are run."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ...utils.errors import CellBusy, ConfigError, StorageError
from ..config import RunConfig
from ..results.store import Store
from .executor import Busy, Crew, Event, Lost, Outcome, Watch

ATTEMPTS = 3  # a cell whose worker died this often is given up
RECHECK = 1.0  # seconds until a cell that another process runs is looked at again
POLL = 0.5  # seconds that the crew is waited for at a time


def shard(configs: Sequence[RunConfig], text: str) -> list[RunConfig]:
    """Part i of n, written "i/n": the parts are disjoint, together they are all cells, and they differ in size by one
    at most. Cells of one dataset and backbone stay side by side, so that few parts decode the same images.

    Depends on the cells alone, never on what is recorded. Raises ConfigError for anything else than i/n, 1 <= i <= n.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"--shard takes i/n with i from 1 to n, such as 2/8, not {text!r}")
    groups: dict[object, list[RunConfig]] = {}
    for config in configs:
        groups.setdefault((config.dataset, config.backbone, config.image_size), []).append(config)
    ordered = [config for group in groups.values() for config in group]
    first, last = (len(ordered) * i // int(parts) for i in (int(part) - 1, int(part)))
    return ordered[first:last]


class Queue:
    """Cells that wait to be run; those that somebody else is running come last and are looked at now and then."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        self.fresh = deque(configs)
        self.held: deque[tuple[float, RunConfig]] = deque()

    def __len__(self) -> int:
        return len(self.fresh) + len(self.held)

    def next(self) -> RunConfig | None:
        """The next cell to try, or None when there is none for now."""
        if self.fresh:
            return self.fresh.popleft()
        if self.held and self.held[0][0] <= time.monotonic():
            return self.held.popleft()[1]
        return None

    def again(self, config: RunConfig) -> None:
        """Next in turn."""
        self.fresh.appendleft(config)

    def later(self, config: RunConfig) -> None:
        """After all others, and not at once."""
        self.held.append((time.monotonic() + RECHECK, config))


def fan_out(configs: Sequence[RunConfig], store: Store, crew: Crew, watch: Watch) -> Iterator[Outcome]:
    """Give all cells to the crew -> what became of each, one outcome for every cell, as they come.

    A cell that another process holds is left for the end and waited for. One whose worker died is run again, at most
    ATTEMPTS times in all. Raises FanoutError when the crew cannot work at all.
    """
    queue, deaths, running, told = Queue(configs), Counter[str](), 0, False
    while queue or running:
        config = queue.next() if crew.room() else None
        if config is not None and (found := _elsewhere(config, store)) is None:
            crew.give(config)
            running += 1
        elif config is not None:
            yield from _settle(found, queue, store, watch, deaths)
        else:
            if queue.held and not running and not told:
                told = True
                watch.note(f"waiting for {len(queue.held)} cells that another process is running")
            for event in crew.events(POLL):
                running -= 1
                yield from _settle(event, queue, store, watch, deaths)


def _elsewhere(config: RunConfig, store: Store) -> Outcome | Busy | None:
    """What another process has made of this cell or is making of it; None when it is ours to run."""
    digest = config.digest()
    record = store.get(digest)
    if record is not None:
        return Outcome(config, record)
    try:
        with store.lock(digest, wait=False):
            return None
    except CellBusy:
        return Busy(config)


def _settle(event: Event | None, queue: Queue, store: Store, watch: Watch, deaths: Counter[str]) -> Iterator[Outcome]:
    match event:
        case Outcome():
            yield event
        case Busy(config):
            watch.stopped(config, "")
            queue.later(config)
        case Lost(config, why):
            digest = config.digest()
            deaths[digest] += 1
            if deaths[digest] < ATTEMPTS:
                watch.stopped(config, f"{why}; it is run again")
                queue.again(config)
                return
            reason = f"given up after {ATTEMPTS} attempts: {why}"
            with suppress(StorageError):  # a full disk must not stop the others
                store.fail(digest, reason + "\n")
            yield Outcome(config, None, reason)
