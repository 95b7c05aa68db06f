"""Measure recipes and defaults on development images: method x recipe x set x seed -> mean test accuracy.

    python benchmarks/tune.py --sets SETS/emoji-dev SETS/clipart-dev digits --methods lora kadaptation \\
        --vary lr=3e-4,1e-3,3e-3 --vary head_start=zero,probe --shots 5 --seeds 0 1 --log tune.jsonl

Only development sets belong here; numbers for a document come from `vitadapt bench` on other images. Every training is
one line of the log; lines that are there already are not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.prepare import prepare
from vitadapt.benchmark.protocols.registry import PROTOCOLS
from vitadapt.benchmark.runner import predict
from vitadapt.benchmark.sweep import expand
from vitadapt.data import default_cache
from vitadapt.methods.spec import method_text
from vitadapt.nn.setting import Setting
from vitadapt.training.features import Environment, pixels_of


def measure(config: RunConfig, environment: Environment, limit: int) -> dict[str, Any]:
    """Train one cell and score it on at most `limit` test images (the same ones for every method)."""
    ready = prepare(config, environment)
    start = time.perf_counter()
    trained = PROTOCOLS[config.protocol](ready.task, config)
    seconds = time.perf_counter() - start
    test = ready.dataset.splits["test"]
    test = test.take(np.sort(np.random.default_rng(0).permutation(len(test))[:limit]))
    pixels = pixels_of(test, ready.task.backbone, environment, ready.dataset.squash)
    probabilities = predict(trained, ready.task.digest, pixels, test.multilabel, environment, environment.setting)
    accuracy = 100 * float((probabilities.argmax(1) == test.labels).mean())
    losses = trained.log.losses  # none where the head is computed, not trained
    return {"score": accuracy, "loss": losses[-1] if losses else None, "seconds": round(seconds, 1)}


def cells(arguments: argparse.Namespace) -> list[tuple[str, RunConfig]]:
    axes: dict[str, Any] = {"backbone": arguments.backbone, "dataset": arguments.sets, "method": arguments.methods}
    axes |= {"shots": arguments.shots, "seed": arguments.seeds, "image_size": arguments.image_size}
    vary = {name: values.split(",") for name, values in (text.split("=") for text in arguments.vary)}
    found = []
    for values in itertools.product(*vary.values()):
        changes: dict[str, Any] = dict(zip(vary, values, strict=True))
        shown = " ".join(f"{k}={v}" for k, v in changes.items())
        if "lr" in changes and "head_lr" not in changes and arguments.tie:
            changes["head_lr"] = changes["lr"]
        found += [(shown, config) for config in expand(axes, changes)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--vary", action="append", default=[])
    parser.add_argument("--tie", action="store_true", help="the head learns at the same rate as the backbone")
    parser.add_argument("--backbone", default="dinov2-s14-offline")
    parser.add_argument("--image-size", type=int, default=98)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log", type=Path, default=Path("runs/tune.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    environment = Environment(default_cache(), None, Setting())
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.log.read_text().splitlines() if arguments.log.exists() else []
    known = {row["digest"]: row for row in map(json.loads, lines)}
    groups: dict[tuple[str, str], dict[str, list[float]]] = {}
    for shown, config in cells(arguments):
        digest = f"{config.digest()}-{arguments.limit}"
        if digest not in known:
            row: dict[str, Any] = {
                "digest": digest,
                "method": method_text(config.method),
                "recipe": shown,
                "dataset": config.dataset,
            }
            row |= {"seed": config.seed, "shots": config.shots, **measure(config, environment, arguments.limit)}
            known[digest] = row
            with arguments.log.open("a") as log:
                log.write(json.dumps(row) + "\n")
        name = Path(config.dataset).name
        groups.setdefault((method_text(config.method), shown), {}).setdefault(name, []).append(known[digest]["score"])
    for (method, shown), scores in groups.items():
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        detail = "  ".join(f"{name} {value:.1f}" for name, value in means.items())
        print(f"{np.mean(list(means.values())):6.2f}  {method:32s} {shown:40s} {detail}", flush=True)


if __name__ == "__main__":
    main()
