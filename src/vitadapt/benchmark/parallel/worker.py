"""One worker process: its share of the machine, and how it reports the cells that it takes.

Nothing here imports torch at first: a worker takes its cores and its GPU before that.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from ...utils.errors import ConfigError
from .watch import Watch

if TYPE_CHECKING:
    from ..config import RunConfig

QUIET = 0.2  # seconds between two messages about the same stage of a cell


@dataclass(frozen=True)
class Place:
    """The share of one worker. cores: empty when it may use all. gpu: as in CUDA_VISIBLE_DEVICES, None without one."""

    threads: int
    cores: tuple[int, ...] = ()
    gpu: str | None = None

    def apply(self) -> None:
        """Confine this process to its share; before torch is imported."""
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def places(
    workers: int, threads: int | None = None, gpus: Sequence[str] = (), cores: Sequence[int] | None = None
) -> list[Place]:
    """Equal shares for `workers` processes: all have the same number of threads, which decides the last bits of sums.

    Each worker has cores of its own when together they fill the machine. Where they leave room none is pinned: another
    program could be at work on the same cores. Workers take GPUs in turn, several to one when there are fewer GPUs.
    Raises ConfigError for fewer than one worker or thread.
    """
    if workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    cores = usable_cores() if cores is None else cores
    share = threads or _thread_limit(max(1, len(cores) // workers))
    full = share == len(cores) // workers
    return [
        Place(
            threads=share,
            cores=tuple(cores[i * share : (i + 1) * share]) if full else (),
            gpu=gpus[i % len(gpus)] if gpus else None,
        )
        for i in range(workers)
    ]


def _thread_limit(share: int) -> int:
    """A smaller number of threads that the environment asks for stays in force."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdecimal() and int(limit) > 0 else share


def gpus_of(device: str) -> list[str]:
    """The GPUs that `device` stands for, as in CUDA_VISIBLE_DEVICES: "cuda" all that are visible, "cuda:1" one."""
    if not device.startswith("cuda"):
        return []
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    visible = listed.split(",") if listed else [str(i) for i in range(torch.cuda.device_count())]
    if ":" not in device:
        return visible
    number = device.partition(":")[2]
    if not (number.isascii() and number.isdigit() and len(number) < 9 and int(number) < len(visible)):
        raise ConfigError(f"--device {device}: there are {len(visible)} GPUs here, counted from cuda:0")
    return [visible[int(number)]]


def work(connection: Connection, place: Place, left: MutableSequence[int]) -> None:
    """Receive (store, cells, environment), take cells (`take_cells`), and send the calls of a Watch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    place.apply()
    import torch

    from .executor import take_cells

    torch.set_num_threads(place.threads)
    store, configs, environment = connection.recv()
    for outcome in take_cells(configs, store, environment, Messages(connection), left):
        connection.send(("finished", outcome))


class Messages(Watch):
    """A Watch that sends its calls, those of progress at most a few per second."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.label, self.last = connection, "", 0.0

    def started(self, config: RunConfig) -> None:
        self.connection.send(("started", config))

    def note(self, text: str) -> None:
        self.connection.send(("note", text))

    def advanced(self, config: RunConfig, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if label != self.label or now - self.last >= QUIET:
            self.label, self.last = label, now
            self.connection.send(("advanced", config, label, done, total))


def _end_with_parent() -> None:
    """End when the parent is gone: a killed parent cannot stop its workers. Half-written files are never read."""
    parent: Any = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
