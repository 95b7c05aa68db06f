"""What a node of a cluster does: run one cell in a folder of its own and hand the files over."""

from __future__ import annotations

import os
import tempfile
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from ...data import default_cache
from ...training.features import Environment
from ...utils.errors import describe
from ..config import RunConfig
from ..results.store import Store
from ..runner import run


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
    """The files of the cell, by kind. A second attempt on the same node goes on from what the first one left."""
    import torch

    if job.folder.is_dir():
        os.chdir(job.folder)
    torch.set_num_threads(job.threads)
    environment = replace(job.environment, cache=default_cache()) if job.own_cache else job.environment
    digest, store = config.digest(), Store(scratch())
    try:
        run(config, store, environment)
        return store.export(digest)
    except Exception as error:  # noqa: BLE001 - told to whoever keeps the store, with its trace
        return Failed(describe(error), traceback.format_exc())
    finally:
        store.discard(digest)


def scratch() -> Path:
    """The folder of this node and job for what is being made."""
    import ray

    context = ray.get_runtime_context()
    name = f"vitadapt-{os.getuid() if hasattr(os, 'getuid') else 0}-{context.get_job_id()}-{context.get_node_id()[:12]}"
    return Path(tempfile.gettempdir()) / name
