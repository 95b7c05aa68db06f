"""Cells are taken by the locks of their records: by this process alone, or by several that go through the same list."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableSequence, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ...training import data_parallel
from ...training.features import Environment
from ...utils.errors import CellBusy, StorageError, describe
from ..config import RunConfig
from ..results.store import Store
from ..runner import run_locked
from .watch import Outcome, Outcomes, Watch

ATTEMPTS = 3  # a cell whose worker died this often is given up
RECHECK = 1.0  # seconds until a cell that another process runs is tried again


Executor = Callable[[Sequence[RunConfig], Store, Environment, Watch], Outcomes]


def in_process(
    configs: Sequence[RunConfig], store: Store, environment: Environment, watch: Watch, threads: int | None = None
) -> Outcomes:
    """One cell after the other, in this process. threads: None leaves torch as it is."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return take_cells(configs, store, environment, watch, bytearray([ATTEMPTS] * len(configs)))


def take_cells(
    configs: Sequence[RunConfig], store: Store, environment: Environment, watch: Watch, left: MutableSequence[int]
) -> Outcomes:
    """Go through the cells and run each that no other process is running, until all have ended.

    left: how many attempts each cell still has, shared by all workers of this benchmark. Only the holder of the lock of
    a cell changes its number: one less before the cell runs, and 0 when it has ended, well or not.
    """
    noted = False
    while any(left):
        ran, foreign = False, 0
        for i in [i for i in range(len(configs)) if left[i]]:
            try:
                with store.lock(configs[i].digest(), wait=False):
                    if left[i]:  # no other worker has ended it meanwhile
                        left[i] -= 1
                        ran = True
                        watch.started(configs[i])
                        yield _attempt(configs[i], store, environment, watch)
                        left[i] = 0
            except CellBusy:
                foreign += left[i] == ATTEMPTS  # no worker of this benchmark has begun it
            except StorageError as error:  # of the lock
                left[i] = 0
                yield Outcome(configs[i], None, str(error))
        if foreign and not ran and not noted:
            noted = True
            watch.note(f"waiting for {foreign} cells that another process is running")
        if any(left) and not ran:
            time.sleep(RECHECK)


def _attempt(config: RunConfig, store: Store, environment: Environment, watch: Watch) -> Outcome:
    """Run a cell whose lock is held. An error of its own is its outcome; the trace is in the store."""
    setting = replace(environment.setting, progress=partial(watch.advanced, config))
    try:
        return Outcome(config, run_locked(config, store, replace(environment, setting=setting)))
    except Exception as error:  # noqa: BLE001 - run_locked() has stored the trace; one cell must not stop the others
        return Outcome(config, None, describe(error))


def together(configs: Sequence[RunConfig], store: Store, environment: Environment, watch: Watch) -> Outcomes:
    """One cell after the other by all processes of torchrun; the first writes, and the others' files are dropped."""
    setting = replace(environment.setting, device=data_parallel.join(environment.setting.device))
    environment = replace(environment, setting=setting)
    with TemporaryDirectory(prefix="vitadapt-") as folder:
        for config in data_parallel.shared(list(configs)):
            own = Store(Path(folder)) if data_parallel.rank() else store
            with own.lock(config.digest()):
                if data_parallel.shared(store.get(config.digest()) is not None):  # by another process, meanwhile
                    yield Outcome(config, store.get(config.digest()), fresh=False)
                    continue
                watch.started(config)
                yield _attempt(config, own, environment, watch)


def failed(config: RunConfig, store: Store, reason: str, trace: str) -> Outcome:
    """The outcome of a cell without a record; its trace goes to the store."""
    with suppress(StorageError):  # a full disk must not stop the others
        store.fail(config.digest(), trace)
    return Outcome(config, None, reason)


def given_up(config: RunConfig, store: Store, why: str) -> Outcome:
    """The outcome of a cell whose last attempt was lost because of `why`."""
    reason = f"given up after {ATTEMPTS} attempts: {why}"
    return failed(config, store, reason, reason + "\n")
