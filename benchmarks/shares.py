"""What a second cell of the same data set still does twice, and what sharing it could save at most.

    python benchmarks/shares.py --backbone dinov2-s14-offline --image-size 70

Everything on one list: milliseconds of one training of the protocol `fixed`, and of each thing that is done again for
the next method, seed or trial, as a share of that training. Image files are made up; the processor's time is taken.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from protocol import make_images

from vitadapt.benchmark.prepare import prepare
from vitadapt.benchmark.sweep import expand
from vitadapt.data import Pixels, open_dataset
from vitadapt.methods.audit import probe
from vitadapt.training.features import Environment, frozen_features, pixels_of

BATCHES = (2, 4, 16, 64)


def milliseconds(work: Callable[[], object], rounds: int = 3) -> float:
    work()
    start = time.process_time()
    for _ in range(rounds):
        work()
    return 1000 * (time.process_time() - start) / rounds


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    make_images(folder / "images", 15, 5, 20, 160)
    axes = {"backbone": arguments.backbone, "dataset": str(folder / "images"), "method": arguments.method}
    axes |= {"image_size": arguments.image_size} if arguments.image_size else {}
    (config,) = expand(axes)
    environment = Environment(folder / "cache")
    ready = prepare(config, environment)
    task, test, few = ready.task, ready.dataset.splits["test"], torch.arange(16)
    backbone, images = cast(Any, task.backbone), cast(Pixels, task.images)
    head = replace(task.recipe, epochs=task.recipe.probe_epochs)
    one = replace(task.recipe, epochs=1, head_start="zero", lr=0.0, head_lr=0.0)
    found = {}
    for size in BATCHES:
        part = task.take(torch.arange(64))
        step = replace(one, batch_size=size)
        model = task.build(0)
        found[f"step of one image, batches of {size}"] = milliseconds(lambda: part.fit(model, step, 0), 1) / 64  # noqa: B023
    found["training"] = found["step of one image, batches of 16"] * len(task.labels) * task.recipe.epochs
    found["audit of the method, once per process"] = milliseconds(lambda: probe(backbone, config.method), 1)
    found["build the classifier"] = milliseconds(lambda: task.build(0))
    found["train the head first"] = milliseconds(lambda: task.fit_head(task.build(0), head, 0, "head"))
    with torch.no_grad():
        embed = milliseconds(lambda: backbone.embed(task.images.gather(few))) / 16
    found["gather and embed all images, all epochs"] = embed * len(task.labels) * task.recipe.epochs
    found["backbone, data set, pixels, features again"] = milliseconds(lambda: prepare(config, environment))
    found["open the data set"] = milliseconds(lambda: open_dataset(config.dataset))
    found["open the test pixels"] = milliseconds(lambda: pixels_of(test, backbone, environment, ready.dataset.squash))
    read = milliseconds(lambda: frozen_features(backbone, ready.task.digest, images, environment, "features"))
    return {**found, "read the features": read}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="dinov2-s14-offline")
    parser.add_argument("--image-size", type=int, default=70)
    parser.add_argument("--method", default="kadaptation")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    for name, value in found.items():
        print(f"{name:45s} {value:10.1f} ms {100 * value / found['training']:8.2f} %")


if __name__ == "__main__":
    main()
