"""Cells on a Ray cluster, one task each: what a node does, and who sends cells to the nodes.

Results travel through Ray, so that nodes need no common disk.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...data import default_cache
from ...training.features import Environment
from ...utils.errors import CellBusy, ConfigError, StorageError, WorkerError, describe
from ...utils.optional import package
from ..config import RunConfig
from ..results.store import Store
from ..runner import run
from .executor import ATTEMPTS, RECHECK, failed, given_up
from .watch import Outcome, Outcomes, Watch

AHEAD = 2  # cells that are waiting in the cluster's queue, so that no node is idle between two cells
SECONDS_TO_ANSWER = 10.0  # seconds that the head of a cluster gets to answer
POLL = 0.5  # seconds to wait for a result at a time
MANY = 256  # cells in flight at most: each is a lock held open here


@dataclass(frozen=True)
class Share:
    """What one cell takes of a node: cores, which are its threads, and GPUs (0.25 packs four cells on one)."""

    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise ConfigError(f"--threads must be at least 1, got {self.cpus}")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ConfigError(f"--gpus-per-cell takes a part of one GPU or a whole number of them, got {self.gpus}")


@dataclass(frozen=True)
class Job:
    """What is the same for all cells of a benchmark.

    own_cache: each node uses the cache of its own user instead of the environment's. folder: where the benchmark was
    started; nodes that have it too understand relative paths.
    """

    environment: Environment
    own_cache: bool
    threads: int
    folder: Path


@dataclass(frozen=True)
class Failed:
    """A cell that stopped with an error of its own: one line, and the trace."""

    reason: str
    trace: str


def run_cell(config: RunConfig, job: Job) -> dict[str, bytes] | Failed:
    """On a node: the files of the cell, by kind. A second attempt there goes on from what the first one left."""
    import ray
    import torch

    if job.folder.is_dir():
        os.chdir(job.folder)
    torch.set_num_threads(job.threads)
    environment = replace(job.environment, cache=default_cache()) if job.own_cache else job.environment
    user, context = os.getuid() if hasattr(os, "getuid") else 0, ray.get_runtime_context()
    folder = f"vitadapt-{user}-{context.get_job_id()}-{context.get_node_id()[:12]}"
    digest, store = config.digest(), Store(Path(tempfile.gettempdir()) / folder)
    try:
        run(config, store, environment)
        return store.export(digest)
    except Exception as error:  # noqa: BLE001 - sent to the process that has the store, with its trace
        return Failed(describe(error), traceback.format_exc())
    finally:
        store.discard(digest)


def on_cluster(
    configs: Sequence[RunConfig], store: Store, environment: Environment, watch: Watch, address: str, share: Share
) -> Outcomes:
    """The cells on the Ray cluster at `address`; "local" starts one on this machine, for as long as it is needed.

    Raises WorkerError when there is none.
    """
    with Cluster(store, environment, watch, address, share) as cluster:
        yield from cluster.run(configs)


class Cluster:
    """The tasks of one benchmark. This process holds the lock of a cell while a node runs it."""

    def __init__(self, store: Store, environment: Environment, watch: Watch, address: str, share: Share) -> None:
        self.store, self.watch, self.address, self.share = store, watch, address, share
        cache = environment.cache.absolute() if environment.cache else None
        root = environment.data_root.absolute() if environment.data_root else None
        device = "cuda" if share.gpus else environment.setting.device.replace("cuda", "cpu")
        setting = replace(environment.setting, progress=None, on_epoch=None, device=device.partition(":")[0])
        self.job = Job(
            environment=replace(environment, cache=cache, data_root=root, setting=setting),
            own_cache=_is_default(environment.cache),
            threads=share.cpus,
            folder=Path.cwd(),
        )
        self.tasks: dict[Any, tuple[RunConfig, ExitStack]] = {}  # the cell, and its lock, which is held here
        self._ours = False

    def __enter__(self) -> Cluster:
        self.ray = _import_ray()
        if not self.ray.is_initialized():
            _connect(self.ray, self.address)
            self._ours = True
        needs = {"num_cpus": self.share.cpus, "num_gpus": self.share.gpus, "max_retries": 0}
        self.task = self.ray.remote(**needs)(run_cell)
        self.reference = self.ray.put(self.job)
        if not self._slots():
            self.watch.note(
                f"no node of the cluster has {self.share.cpus} cores and {self.share.gpus:g} GPUs for a cell; "
                "waiting for one (Ctrl-C stops)"
            )
        return self

    def __exit__(self, *error: object) -> None:
        for reference, (_, claim) in self.tasks.items():
            self.ray.cancel(reference, force=True)
            claim.close()
        self.tasks.clear()
        if self._ours:
            self.ray.shutdown()

    def run(self, configs: Sequence[RunConfig]) -> Outcomes:
        """One outcome for every cell. A cell whose worker or node died is run again, at most ATTEMPTS times in all."""
        waiting, losses = deque(configs), Counter[RunConfig]()
        while waiting or self.tasks:
            busy = []
            while waiting and len(self.tasks) < min(MANY, self._slots() + AHEAD):
                config = waiting.popleft()
                try:
                    outcome = self._submit(config)
                except CellBusy:
                    busy.append(config)
                    continue
                if outcome is not None:
                    yield outcome
            waiting.extend(busy)
            if not self.tasks:
                time.sleep(RECHECK)
                continue
            for reference in self.ray.wait(list(self.tasks), num_returns=1, timeout=POLL)[0]:
                config, claim = self.tasks.pop(reference)
                with claim:
                    result = self._result(config, reference)
                if isinstance(result, Outcome):
                    yield result
                    continue
                losses[config] += 1
                if losses[config] == ATTEMPTS:
                    yield given_up(config, self.store, result)
                else:
                    self.watch.stopped(config, f"{result}; it is run again")
                    waiting.appendleft(config)

    def _submit(self, config: RunConfig) -> Outcome | None:
        """Send a cell to the nodes; its outcome if another process has run it meanwhile. Raises CellBusy."""
        with ExitStack() as claim:
            claim.enter_context(self.store.lock(config.digest(), wait=False))
            record = self.store.get(config.digest())
            if record is not None:
                return Outcome(config, record)
            self.watch.started(config)
            self.tasks[self.task.remote(config, self.reference)] = config, claim.pop_all()
        return None

    def _result(self, config: RunConfig, reference: Any) -> Outcome | str:
        """Fetch the files of a cell and store them, still under its lock; or the reason why it must be run again."""
        try:
            given = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # the node could not even begin: nothing else would help
            reason = str(error.cause or error).splitlines()[-1]
            return failed(config, self.store, f"a node cannot run cells: {reason}", str(error))
        except self.ray.exceptions.RayError as error:
            return f"its worker or node is gone ({type(error).__name__})"
        if isinstance(given, Failed):
            return failed(config, self.store, given.reason, given.trace)
        self.store.sweep(config.digest())
        try:
            return Outcome(config, self.store.accept(config.digest(), given))
        except StorageError as error:
            return Outcome(config, None, str(error))

    def _slots(self) -> int:
        """How many cells the living nodes can run at once."""
        total = 0
        for node in self.ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            fits = [has.get("CPU", 0.0) // self.share.cpus]
            if self.share.gpus:
                fits.append(has.get("GPU", 0.0) // self.share.gpus)
            total += int(min(fits))
        return total


def _is_default(cache: Path | None) -> bool:
    try:
        return cache == default_cache()
    except StorageError:  # a user without a home has no default, and named this one
        return False


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    package("ray.exceptions", "ray")
    return package("ray", "ray")


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options["include_dashboard"] = False
    try:
        _check_address(address)
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as error:  # OSError: refused, unknown host, no answer
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WorkerError(f"--ray {address}: no such cluster ({reason}); 'ray start --head' makes one") from error


def _check_address(address: str) -> None:
    """Whether anybody listens at host:port. Ray itself would try for minutes. Raises OSError or ValueError."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
