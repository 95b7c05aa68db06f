"""Cells in several processes of this machine, which take them by their locks; the parent passes on what they report.

A worker that dies is replaced.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from ...training.features import Environment
from ...utils.errors import WorkerError
from ..config import RunConfig
from ..results.store import Store
from .executor import ATTEMPTS, given_up
from .watch import Outcomes, Watch
from .worker import Place, work

FAILED_STARTS = 3  # per worker, in a row: then no worker can begin
SECONDS_TO_END = 5.0  # what a worker gets to end before it is killed


@dataclass
class Worker:
    """A process, its share of the machine, and the cell that it is running."""

    place: Place
    process: SpawnProcess
    connection: Connection
    config: RunConfig | None = None


def in_workers(
    configs: Sequence[RunConfig], store: Store, environment: Environment, watch: Watch, places: Sequence[Place]
) -> Outcomes:
    """The cells by one worker at each place (see `take_cells`). Raises WorkerError when no worker can begin."""
    setting = replace(environment.setting, progress=None, on_epoch=None)
    if any(place.gpu is not None for place in places):
        setting = replace(setting, device="cuda")  # each worker sees one GPU only
    parent = Parent(configs, store, replace(environment, setting=setting), watch)
    try:
        yield from parent.run(places)
    finally:
        parent.stop()


class Parent:
    """Starts workers, replaces the dead, and passes on what all of them report."""

    def __init__(self, configs: Sequence[RunConfig], store: Store, environment: Environment, watch: Watch) -> None:
        self.store, self.watch, self.job = store, watch, (store, configs, environment)
        self.left = multiprocessing.get_context("spawn").RawArray("B", [ATTEMPTS] * len(configs))
        self.missing = {config: number for number, config in enumerate(configs)}
        self.workers: list[Worker] = []
        self.failed_starts, self.noted = 0, False

    def run(self, places: Sequence[Place]) -> Outcomes:
        for place in places:
            self._start(place)
        for worker in self.workers:
            self._send_job(worker)
        most = FAILED_STARTS * len(places)
        while self.missing:
            wait([part for worker in self.workers for part in (worker.connection, worker.process.sentinel)])
            for worker in list(self.workers):
                alive = worker.process.is_alive()  # asked first: all that it sent before its death can then be read
                yield from self._received(worker)
                if not alive:
                    self.workers.remove(worker)
                    yield from self._replaced(worker, most)

    def _received(self, worker: Worker) -> Outcomes:
        """Pass on what a worker has sent since the last call."""
        try:
            while worker.connection.poll():
                name, *arguments = worker.connection.recv()
                self.failed_starts = 0
                if name == "finished":
                    worker.config, (outcome,) = None, arguments
                    if self.missing.pop(outcome.config, None) is not None:
                        yield outcome
                    continue
                if name == "started":
                    (worker.config,) = arguments
                if name != "note" or not self.noted:  # each worker finds that it has to wait; once is enough
                    getattr(self.watch, name)(*arguments)
                self.noted |= name == "note"
        except (EOFError, OSError):
            worker.process.join(SECONDS_TO_END)

    def _replaced(self, worker: Worker, most: int) -> Outcomes:
        """Start another in the place of a dead one, unless that had nothing left to do."""
        if worker.process.exitcode == 0:
            return
        why, config = _death(worker.process), worker.config
        self.failed_starts += 1
        if self.failed_starts > most:
            raise WorkerError(
                f"the workers die before they can begin ({why}); a script of your own needs "
                "'if __name__ == \"__main__\":' around what it does; else try --workers 1"
            )
        if config is not None and config in self.missing:
            if self.left[self.missing[config]]:
                self.watch.stopped(config, f"{why}; it is run again")
            else:
                del self.missing[config]
                yield given_up(config, self.store, why)
        self._send_job(self._start(worker.place))

    def _start(self, place: Place) -> Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, place, self.left), daemon=True)
        with _interrupts_blocked():
            process.start()
            worker = Worker(place, process, ours)
            self.workers.append(worker)
        theirs.close()
        return worker

    def _send_job(self, worker: Worker) -> None:
        with suppress(OSError):  # it has just died, which is noticed later
            worker.connection.send(self.job)

    def stop(self) -> None:
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _death(process: SpawnProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        hint = " (out of memory? try fewer --workers)" if -code == signal.SIGKILL else ""
        return f"its worker was killed by {signal.Signals(-code).name}{hint}"
    return f"its worker ended with status {code}"


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A child that is started here never receives Ctrl-C; ours is delivered afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its own start would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
