"""Cells in several processes of this machine. A worker that dies is replaced, and its cell is run again."""

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
from .executor import Executor, Outcome, Retry, Watch
from .worker import Place, work

FAILED_STARTS = 3  # per worker, in a row: then no worker can begin
SECONDS_TO_END = 5.0  # what a worker gets to end before it is killed


@dataclass
class Worker:
    """A worker's share of the machine, its process if it is running, and its cell if it has one."""

    place: Place
    process: SpawnProcess | None = None
    connection: Connection | None = None
    config: RunConfig | None = None


class Processes(Executor):
    """Workers in processes of their own, started when they are first needed."""

    def __init__(self, store: Store, environment: Environment, watch: Watch, places: Sequence[Place]) -> None:
        setting = replace(environment.setting, progress=None)
        if any(place.gpu is not None for place in places):
            setting = replace(setting, device="cuda")  # each worker sees one GPU only
        super().__init__(store, replace(environment, setting=setting), watch)
        self.workers = [Worker(place) for place in places]
        self._failed_starts = 0

    def has_room(self) -> bool:
        return any(worker.config is None for worker in self.workers)

    def submit(self, config: RunConfig) -> None:
        idle = [worker for worker in self.workers if worker.config is None]
        worker = max(idle, key=lambda worker: worker.process is not None)
        worker.config = config
        self.watch.started(config)
        with suppress(OSError):  # it has just died: results() finds out
            (worker.connection or self._start(worker)).send(config)

    def results(self, timeout: float) -> list[Outcome | Retry]:
        running = [worker for worker in self.workers if worker.process and worker.connection]
        wait([part for worker in running for part in (worker.connection, worker.process.sentinel)], timeout)  # type: ignore[union-attr,misc]
        return [result for worker in running for result in self._results_of(worker)]

    def _results_of(self, worker: Worker) -> Iterator[Outcome | Retry]:
        """All that a worker sent; then, when it is dead, the loss of its cell."""
        assert worker.process is not None and worker.connection is not None
        alive = worker.process.is_alive()  # asked first: all that it sent before its death can then be read
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                if isinstance(message, (Outcome, Retry)):
                    worker.config = None
                    yield message
                elif isinstance(message, tuple) and worker.config is not None:
                    self.watch.advanced(worker.config, *message)
                else:  # "ready"
                    self._failed_starts = 0
        except (EOFError, OSError):
            worker.process.join(SECONDS_TO_END)
            alive = False
        if alive:
            return
        why, config = _death(worker.process), worker.config
        _clear(worker)
        self._failed_starts += 1
        if self._failed_starts > FAILED_STARTS * len(self.workers):
            raise WorkerError(
                f"the workers die before they can begin ({why}); a script of your own needs "
                "'if __name__ == \"__main__\":' around what it does; else try --workers 1"
            )
        if config is not None:
            yield Retry(config, why)

    def _start(self, worker: Worker) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, worker.place), daemon=True)
        with _interrupts_blocked():
            process.start()
        theirs.close()
        worker.process, worker.connection = process, ours
        ours.send((self.store.root, self.environment))
        return ours

    def close(self) -> None:
        processes = [worker.process for worker in self.workers if worker.process is not None]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()
        for worker in self.workers:
            _clear(worker)


def _clear(worker: Worker) -> None:
    if worker.connection is not None:
        worker.connection.close()
    if worker.process is not None:
        worker.process.close()
    worker.process = worker.connection = worker.config = None


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
