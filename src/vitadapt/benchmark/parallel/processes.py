"""A crew of processes on this machine. A worker that dies is replaced; its cell comes back as lost."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType

from ...training.features import Environment
from ...utils.errors import FanoutError
from ..config import RunConfig
from ..results.store import Store
from .executor import Event, Lost, Watch
from .placement import Place
from .worker import work

STILLBORN = 3  # workers in a row that die before their first word
PATIENCE = 5.0  # seconds that a worker gets to end before it is killed


@dataclass
class Seat:
    """One worker's place, who sits there, and what it is doing."""

    place: Place
    process: SpawnProcess | None = None
    connection: Connection | None = None
    config: RunConfig | None = None
    last: RunConfig | None = None


class Processes:
    """Workers in processes of their own, started when they are first needed."""

    def __init__(self, store: Store, environment: Environment, watch: Watch, places: Sequence[Place]) -> None:
        setting = replace(environment.setting, progress=None)
        if any(place.gpu is not None for place in places):
            setting = replace(setting, device="cuda")  # each worker sees one GPU only
        self.store, self.watch = store, watch
        self.environment = replace(environment, setting=setting)
        self.seats = [Seat(place) for place in places]
        self._stillborn = 0

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes = [seat.process for seat in self.seats if seat.process is not None]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
        for seat in self.seats:
            self._clear(seat)

    def room(self) -> bool:
        return any(seat.config is None for seat in self.seats)

    def give(self, config: RunConfig) -> None:
        free = [seat for seat in self.seats if seat.config is None]
        seat = max(free, key=lambda seat: (_kin(seat.last, config), seat.process is not None))
        seat.config = seat.last = config
        self.watch.started(config)
        with suppress(OSError):  # it has just died: the next events() finds out and the cell is run again
            connection = seat.connection or self._start(seat)
            connection.send(config)

    def events(self, timeout: float) -> list[Event]:
        living = [seat for seat in self.seats if seat.process is not None]
        signs = [sign for seat in living if seat.process for sign in (seat.connection, seat.process.sentinel) if sign]
        wait(signs, timeout)
        return [event for seat in living for event in self._news(seat)]

    def _news(self, seat: Seat) -> Iterator[Event]:
        """All that a worker said; then, when it is dead, the loss of its cell."""
        assert seat.process is not None and seat.connection is not None
        alive = seat.process.is_alive()  # asked first: whatever it said before its death is then there to be read
        try:
            while seat.connection.poll():
                yield from self._heard(seat, seat.connection.recv())
        except (EOFError, OSError):
            seat.process.join(PATIENCE)
            alive = False
        if not alive:
            yield from self._buried(seat)

    def _heard(self, seat: Seat, message: object) -> Iterator[Event]:
        if message == "ready":
            self._stillborn = 0
        elif isinstance(message, tuple) and seat.config is not None:
            self.watch.advanced(seat.config, *message)
        elif isinstance(message, Event):
            seat.config = None
            yield message

    def _buried(self, seat: Seat) -> Iterator[Event]:
        assert seat.process is not None
        why, config = _death(seat.process), seat.config
        self._clear(seat)
        self._stillborn += 1
        if self._stillborn > STILLBORN * len(self.seats):
            raise FanoutError(
                f"the workers die before they can begin ({why}); a script of your own needs "
                "'if __name__ == \"__main__\":' around what it does; else try --workers 1"
            )
        if config is not None:
            yield Lost(config, why)

    def _start(self, seat: Seat) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, seat.place), daemon=True)
        with _interrupts_held_back():
            process.start()
        theirs.close()
        seat.process, seat.connection = process, ours
        ours.send((self.store.root, self.environment))
        return ours

    @staticmethod
    def _clear(seat: Seat) -> None:
        if seat.connection is not None:
            seat.connection.close()
        if seat.process is not None:
            seat.process.close()
        seat.process = seat.connection = seat.config = None


def _kin(one: RunConfig | None, other: RunConfig) -> int:
    """How much of what a worker keeps in memory it could use again."""
    if one is None or (one.backbone, one.image_size) != (other.backbone, other.image_size):
        return 0
    return 2 if one.dataset == other.dataset else 1


def _death(process: SpawnProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory? try fewer --workers)" if -code == signal.SIGKILL else ""
        return f"its worker was killed by {name}{hint}"
    return f"its worker ended with status {code}"


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A child that is started here does not hear Ctrl-C from its first moment; ours is delivered afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its own start would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
