"""Records made up for tests of what is done with records."""

from __future__ import annotations

import numpy as np

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.results.record import Record, label_of
from vitadapt.methods.spec import parse_method
from vitadapt.metrics.scores import performance_efficiency


def record(method="lora", dataset="digits", seed=0, score=80.0, trained=1000, axes=None, **fields):
    """`axes` are further fields of the configuration, the rest fields of the record."""
    config = RunConfig("random:tiny", parse_method(method), dataset, seed=seed, **(axes or {})).resolved()
    values = {
        "digest": config.digest(),
        "config": config.to_dict(),
        "status": "ok" if score is not None else "diverged",
        "metric": "accuracy",
        "score": score,
        "pe": None if score is None else performance_efficiency(score, trained),
        "classes": ["a", "b"],
        "per_class": [score, None],
        "parameters": {}
        if score is None
        else {"backbone": trained - 10, "head": 10, "trained": trained, "total": 10**6},
        "chosen": {"lr": 0.1},
        "seconds": {"train": 2.0, "test": 1.0},
        "peak_memory_mb": 1.0,
        "versions": {},
        "images": {"train": ["x"], "test": "y", "test_count": 1},
        "losses": [1.0],
        "method_label": label_of(config.to_dict()),
        "created": f"2026-01-01T00:00:{seed:02d}+00:00",
    }
    return Record(**{**values, **fields})


def saved(store, made):
    return store.add(made, np.full((4, 2), 0.5), np.zeros(4, dtype=np.int64), b"adapter")
