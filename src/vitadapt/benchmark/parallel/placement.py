"""Where the workers of one machine sit: how many threads, which cores, which GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ...utils.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """The share of one worker. cores: empty when it may roam. gpu: as in CUDA_VISIBLE_DEVICES, None without one."""

    threads: int
    cores: tuple[int, ...] = ()
    gpu: str | None = None

    def take(self) -> None:
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
    """Equal shares for `workers` processes: the threads of all (they decide the last bits of sums) are the same number.

    Cores are shared out without overlap when the workers fill the machine, neither more nor less: where they leave
    room, a neighbour may be at work, and pinned to the same cores both would wait for each other. GPUs go round,
    several workers to one when they are fewer. Raises ConfigError for fewer than one worker or thread.
    """
    if workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    cores = usable_cores() if cores is None else cores
    share = threads or _wished(max(1, len(cores) // workers))
    full = share == len(cores) // workers
    return [
        Place(
            threads=share,
            cores=tuple(cores[i * share : (i + 1) * share]) if full else (),
            gpu=gpus[i % len(gpus)] if gpus else None,
        )
        for i in range(workers)
    ]


def _wished(share: int) -> int:
    """A smaller number of threads that the environment asks for stays in force."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(said)) if said.isdecimal() and int(said) > 0 else share


def gpus_of(device: str) -> list[str]:
    """The GPUs that `device` stands for, as in CUDA_VISIBLE_DEVICES: "cuda" all that are visible, "cuda:1" one."""
    if not device.startswith("cuda"):
        return []
    import torch

    said = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    visible = said.split(",") if said else [str(i) for i in range(torch.cuda.device_count())]
    if ":" not in device:
        return visible
    number = device.partition(":")[2]
    if not (number.isascii() and number.isdigit() and len(number) < 9 and int(number) < len(visible)):
        raise ConfigError(f"--device {device}: there are {len(visible)} GPUs here, counted from cuda:0")
    return [visible[int(number)]]
