"""From what a person asks for to the crew that does it."""

from __future__ import annotations

from functools import partial

from ...utils.errors import ConfigError
from .executor import Alone, Hire


def crew_for(
    workers: int = 1,
    threads: int | None = None,
    ray: str = "",
    gpus_per_cell: float | None = None,
    device: str = "cpu",
) -> Hire:
    """The crew of `workers` processes, or of a Ray cluster, or this process alone.

    threads: per cell; None shares out the cores of this machine, and is 1 on a cluster. gpus_per_cell: on a cluster,
    None for one when `device` is a GPU. Raises ConfigError for what does not go together.
    """
    if ray:
        if workers != 1:
            raise ConfigError("--ray and --workers exclude each other: a cluster runs as many cells as it has room for")
        from .ray_cluster import Cluster, Share

        gpus = float(device.startswith("cuda")) if gpus_per_cell is None else gpus_per_cell
        return partial(Cluster, address=ray, share=Share(1 if threads is None else threads, gpus))
    if gpus_per_cell is not None:
        raise ConfigError("--gpus-per-cell goes with --ray; on one machine --workers are spread over the visible GPUs")
    from .placement import gpus_of, places

    seats = places(workers, threads, gpus_of(device) if workers > 1 else ())
    if workers == 1:
        return partial(Alone, threads=threads)
    from .processes import Processes

    return partial(Processes, places=seats)
