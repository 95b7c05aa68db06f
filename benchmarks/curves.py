"""How time and memory grow: with shots, classes, image size, depth and workers; fitted exponents.

    python benchmarks/curves.py --shots 1 2 5 10 20 50 --classes 10 20 50 100 200

Shots and classes are whole runs of the protocol `fixed`, shortened to two epochs, from image files to a record, with
empty caches and two test images per class. Image size and depth are trainings of a small random backbone on images in
memory. An exponent is the slope of log(time) over log(size) between the upper half of the sizes, where what a run costs
anyway weighs least: 1 is linear. Memory is the peak of the resident set beyond what the process holds after a first
small run (Linux only); it is told as an exponent only where it is more than the allocator's noise. With --clock cpu the
processor's seconds are taken, for machines with other work to do; workers are always timed by the wall.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from protocol import make_images

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import run
from vitadapt.benchmark.sweep import executor_for, expand, run_bench
from vitadapt.methods.spec import parse_method
from vitadapt.nn.setting import Setting
from vitadapt.nn.vit import ViT, ViTConfig
from vitadapt.training.cross_validation import train_final
from vitadapt.training.features import Environment
from vitadapt.training.loop import TensorInputs, forward_all
from vitadapt.training.task import Task

EPOCHS = {"epochs": 2, "probe_epochs": 2}
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
NOISE = 20.0  # MB
LINEAR = 1.15  # an exponent up to this counts as linear: caches and the noise of a shared machine
LIMITS = {"shots": LINEAR, "classes": LINEAR, "pixels": 1.5, "depth": LINEAR}
"""Attention is quadratic in tokens, all else linear: between the two in pixels."""
Point = tuple[float, float]


def resident(key: str) -> float:
    """MB of `key` (VmHWM: the peak, VmRSS: now); nan where the system does not tell."""
    if not STATUS.exists():
        return float("nan")
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return next(float(parts[1]) / 1024 for parts in lines if parts[0] == f"{key}:")


def cost(work: Callable[[], object], clock: Callable[[], float]) -> Point:
    """Seconds, and MB at the peak beyond those `held`."""
    if RESET.exists():
        RESET.write_text("5")
    start = clock()
    work()
    return clock() - start, resident("VmHWM") - held()


@cache
def held() -> float:
    """MB when this was asked first."""
    return resident("VmRSS")


def whole_run(folder: Path, method: str, classes: int, shots: int, clock: Callable[[], float]) -> Point:
    place = folder / f"{classes}-{shots}"
    make_images(place / "images", classes, shots, 2, 160)
    axes = {"backbone": "random:tiny", "dataset": str(place / "images"), "method": method, "shots": shots}
    (config,) = expand(axes, EPOCHS)
    return cost(lambda: run(config, Store(place / "runs"), Environment(place / "cache")), clock)


def training(method: str, size: int, depth: int, clock: Callable[[], float]) -> Point:
    """32 images of 8 classes, twice."""
    torch.manual_seed(0)
    vit = ViT(ViTConfig(width=192, depth=depth, heads=3, patch=16, image_size=size)).requires_grad_(False).eval()
    images = TensorInputs(torch.randint(0, 256, (32, 3, size, size), dtype=torch.uint8))
    config = RunConfig("random:tiny", parse_method(method), "made-up").resolved()
    features = forward_all(vit, images, Setting(), "features")
    task = Task(config.training, vit, images, torch.arange(32) % 8, 8, features, Setting())
    return cost(lambda: train_final(task, replace(task.recipe, epochs=2, probe_epochs=2)), clock)


def sweep(folder: Path, method: str, workers: int) -> float:
    """Wall-clock seconds of eight cells by so many processes, one thread each."""
    axes = {"backbone": "random:tiny", "dataset": str(folder / "shared"), "method": method, "seed": list(range(8))}
    cells, executor = expand(axes, {"epochs": 20}), executor_for(workers, 1, "", None, "cpu")
    start = time.perf_counter()
    run_bench(cells, Store(folder / f"runs-{workers}"), Environment(folder / f"cache-{workers}"), executor=executor)
    return time.perf_counter() - start


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope in a double logarithmic picture, over the upper half of the sizes."""
    start = max(0, (len(sizes) - 1) // 2)
    return float(np.polyfit(np.log(sizes[start:]), np.log(np.maximum(values[start:], 1e-9)), 1)[0])


def report(name: str, sizes: Sequence[int], points: Sequence[Point]) -> None:
    times, memory = zip(*points, strict=True)
    slope, limit = exponent(sizes, times), LIMITS[name]
    print(f"\n{name:8s}" + "".join(f"{size:>9d}" for size in sizes))
    print("seconds " + "".join(f"{value:9.2f}" for value in times))
    print("MB      " + "".join(f"{value:9.1f}" for value in memory))
    verdict = "met" if slope <= limit else "MISSED"
    grown = f"memory ~ ^ {exponent(sizes, memory):.2f}" if max(memory) > NOISE else "memory: too little to tell"
    print(f"time ~ {name} ^ {slope:.2f}, at most {limit} wanted: {verdict}; {grown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="kadaptation:n=4")
    parser.add_argument("--shots", type=int, nargs="*", default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--classes", type=int, nargs="*", default=[10, 20, 50, 100, 200])
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 64, 128, 224])
    parser.add_argument("--depths", type=int, nargs="*", default=[2, 4, 8, 12])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    arguments = parser.parse_args()
    clock, method = time.process_time if arguments.clock == "cpu" else time.perf_counter, arguments.method
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole_run(folder, method, 2, 3, clock)  # imports and first calls
        training(method, 32, 2, clock)
        if arguments.shots:
            report("shots", arguments.shots, [whole_run(folder, method, 10, k, clock) for k in arguments.shots])
        if arguments.classes:
            report("classes", arguments.classes, [whole_run(folder, method, c, 4, clock) for c in arguments.classes])
        if arguments.depths:
            report("depth", arguments.depths, [training(method, 64, d, clock) for d in arguments.depths])
        if arguments.sizes:
            points = [training(method, size, 4, clock) for size in arguments.sizes]
            report("pixels", [size**2 for size in arguments.sizes], points)
        if arguments.workers:
            make_images(folder / "shared", 10, 5, 5, 160)
            times = {count: sweep(folder, method, count) for count in arguments.workers}
            print("\nworkers " + "".join(f"{count:>9d}" for count in times))
            print("seconds " + "".join(f"{seconds:9.2f}" for seconds in times.values()))


if __name__ == "__main__":
    main()
