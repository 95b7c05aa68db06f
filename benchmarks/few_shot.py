"""Seconds and memory of the few-shot methods of CLIP on made-up cached features: 1,000 classes at 16 shots by default.

    python benchmarks/few_shot.py                             all methods, one process each
    python benchmarks/few_shot.py --classes 100 proker clap   some of them, smaller

Of gradient descents it makes `--epochs` epochs and says what the published number of them takes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

from vitadapt.methods import METHODS, CLIPAdapter, ProLIP, Support, TextPrior
from vitadapt.methods.text_prior import shots

NAMES = [name for name, kind in METHODS.items() if issubclass(kind, TextPrior)]
WIDTH, POOLED = 512, 768


def support(classes: int, count: int) -> Support:
    """Random features around random centres, one version of each image, and texts near the centres."""
    rng = np.random.default_rng(0)
    labels = np.arange(classes * count) % classes

    def unit(x: np.ndarray) -> np.ndarray:
        return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), dtype=np.float32)

    centres = rng.normal(size=(classes, POOLED)) / 2
    pooled = (centres[labels] + rng.normal(size=(len(labels), POOLED))).astype(np.float32)
    projection = (rng.normal(size=(WIDTH, POOLED)) / POOLED**0.5).astype(np.float32)
    start = {"projection.weight": projection}
    for name, shape in {"down": (WIDTH // 4, WIDTH), "up": (WIDTH, WIDTH // 4)}.items():
        start[f"inserted.features.{name}.weight"] = (rng.normal(size=shape) / shape[1] ** 0.5).astype(np.float32)
    features, text = unit(pooled @ projection.T), unit(centres @ projection.T + rng.normal(size=(classes, WIDTH)))
    return Support(features, labels, classes, None, text, 100.0, pooled[None], start)


def measure(name: str, classes: int, count: int, epochs: int) -> str:
    """One line of the table."""
    method, made, factor = METHODS[name](), support(classes, count), 1.0
    wanted = {ProLIP: "projection", CLIPAdapter: "inserted"}.get(type(method), "nothing")
    made = replace(made, start={key: t for key, t in made.start.items() if key.startswith(wanted)})
    if hasattr(method, "epochs"):
        plain: Any = method
        all_of_them = plain.epochs or (100 if shots(made) <= 4 else 200)
        factor = all_of_them / min(epochs, all_of_them)
        method = replace(plain, epochs=min(epochs, all_of_them))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    method.solve_head(made)
    seconds = (time.process_time() - start) * factor
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return f"| {name} | {seconds:.1f} | {more:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=NAMES)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    if len(options.methods) == 1:
        print(measure(options.methods[0], options.classes, options.shots, options.epochs), flush=True)
        return
    print("| method | CPU seconds | GiB more |\n| --- | --- | --- |", flush=True)
    same = ["--classes", str(options.classes), "--shots", str(options.shots), "--epochs", str(options.epochs)]
    for name in options.methods:  # a process each, for the memory
        subprocess.run([sys.executable, __file__, *same, name], check=True)


if __name__ == "__main__":
    main()
