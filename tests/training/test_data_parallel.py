"""Several processes that train one cell find what one process finds, to rounding; the first of them alone writes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import run
from vitadapt.benchmark.sweep import executor_for, expand
from vitadapt.training.features import Environment
from vitadapt.utils.errors import ConfigError

PROCESSES = 2
RECIPE = {"epochs": 2, "batch_size": 7, "clip_norm": 1.0, "mixup": 0.2, "flip": True, "ema": 0.5}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_the_cell_of_one_process(tmp_path):
    """Fine-tuning behind a head with batch norm: 50 images, so that the last batch of one leaves a process without."""
    axes = {
        "backbone": "random:tiny",
        "dataset": "digits",
        "method": "fine-tune",
        "shots": 5,
        "head": "zero:norm=batch",
    }
    (cell,) = expand(axes, RECIPE)
    alone = Store(tmp_path / "alone")
    record = run(cell, alone, Environment(cache=tmp_path / "cache"))

    recipe = ",".join(f"{name}={value}" for name, value in RECIPE.items())
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}", "-m", "vitadapt", "run"]
    options = [f"--{name}={value}" for name, value in axes.items()]
    options += [f"--recipe={recipe}", f"--out={tmp_path / 'runs'}", f"--cache={tmp_path / 'cache'}", "--device=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", *torchrun, *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("records, predictions and adapters") == 1

    together = Store(tmp_path / "runs")
    ((same,), _) = together.records()
    assert same.digest == record.digest and same.parameters == record.parameters
    assert same.losses == pytest.approx(record.losses, abs=1e-4)
    assert not np.allclose(record.losses[0], record.losses[1], atol=1e-2)  # something was learnt
    for ours, theirs in zip(together.predictions(same), alone.predictions(record), strict=True):
        assert np.allclose(ours, theirs, atol=1e-3)
    assert not list(tmp_path.glob("vitadapt-*"))


def test_workers_beside_torchrun_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--workers"):
        executor_for(workers=2)
