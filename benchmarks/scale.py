"""How time and memory grow with images and classes, from generated features and labels: no picture is decoded.

    python benchmarks/scale.py [--images 100000] [--width 256]

Each stage is run in a process of its own with N images of C = N / 100 classes, for N an eighth of the largest, a
quarter, a half, and all of it. A straight line through the logarithms gives the exponent, and from it what 10^6 images
of 10^4 classes would take. The exponent of memory is that of what a stage adds to the process. A tenth of the images
are test images. docs/limits.md has the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHARES = (8, 4, 2, 1)
EACH, LARGE = 100, 10**6


def labels_of(images: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(images) % (images // EACH))


def features_of(images: int, width: int, labels: np.ndarray) -> np.ndarray:
    """(N, E) of unit length: a direction for each class, and noise."""
    rng = np.random.default_rng(1)
    means = rng.standard_normal((labels.max() + 1, width), dtype=np.float32)
    found = rng.standard_normal((images, width), dtype=np.float32)
    found += 0.5 * means[labels]
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def reading(images: int, width: int, folder: Path) -> Callable[[], object]:
    """A list of paths and labels becomes references; the pictures themselves are not opened."""
    from vitadapt.data import open_dataset

    names = [f"{number:07d}.png" for number in range(images)]
    for name in names:
        (folder / name).touch()
    rows = (f"{name},class {label:05d}" for name, label in zip(names, labels_of(images).tolist(), strict=True))
    table = folder / "images.csv"
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    return lambda: open_dataset(str(table))


def sampling(images: int, width: int, folder: Path) -> Callable[[], object]:
    from vitadapt.data.sampling.few_shot import sample_few_shot

    labels = labels_of(images)
    return lambda: sample_few_shot(labels, 5, seed=0)


def cache(images: int, width: int, folder: Path) -> Callable[[], object]:
    """Features written behind their checksum, and read again."""
    from vitadapt.utils.files import read_cached, write_cached

    features, path = features_of(images, width, labels_of(images)), folder / "features.npy"

    def both() -> object:
        write_cached(path, features.tobytes())
        return np.frombuffer(read_cached(path) or b"", dtype=np.float32).copy()

    return both


def head(images: int, width: int, folder: Path) -> Callable[[], object]:
    """The discriminant of all images, its shrinkage and temperature chosen by images left out."""
    from vitadapt.methods import Discriminant
    from vitadapt.nn.support import Support

    labels = labels_of(images)
    support = Support(features_of(images, width, labels), labels, images // EACH)
    return lambda: Discriminant().solve_head(support)


def prediction(images: int, width: int, folder: Path) -> Callable[[], object]:
    """Probabilities of a tenth of the images for all classes, and their score."""
    import torch

    from vitadapt.metrics.scores import METRICS
    from vitadapt.nn.head import Head
    from vitadapt.training.loop import probabilities_of

    labels = labels_of(images)[: images // 10]
    features = torch.from_numpy(features_of(len(labels), width, labels))
    linear = Head(width, images // EACH)

    def score() -> object:
        with torch.no_grad():
            found = probabilities_of(linear(features), False).numpy()
        return METRICS["accuracy"](labels, found)

    return score


STAGES = {stage.__name__: stage for stage in (reading, sampling, cache, head, prediction)}


def measure(stage: str, images: int, width: int) -> None:
    """Seconds, and the most MB that the process held beyond what it held before."""
    from vitadapt.utils.system import peak_memory_mb

    with tempfile.TemporaryDirectory() as folder:
        work = STAGES[stage](images, width, Path(folder))
        before, start = peak_memory_mb(), time.process_time()
        work()
        print(json.dumps([time.process_time() - start, peak_memory_mb() - before]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        return measure(given.stage, given.images, given.width)
    sizes = [given.images // share for share in SHARES]
    names = [f"{size:,}" for size in (*sizes, LARGE)]
    print(f"{'stage':<12}", *(f"{name:>18}" for name in names), f"{'exponents':>14}", "  CPU seconds / MB", sep="")
    for stage in STAGES:
        found = []
        for size in sizes:
            options = [f"--stage={stage}", f"--images={size}", f"--width={given.width}"]
            done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout))
        table = np.maximum(np.array(found), [1e-4, 1.0])
        fits = [np.polyfit(np.log(sizes), np.log(column), 1) for column in table.T]
        large = [column[-1] * (LARGE / sizes[-1]) ** fit[0] for column, fit in zip(table.T, fits, strict=True)]
        cells = [f"{seconds:,.2f} / {mb:,.0f}" for seconds, mb in (*table, large)]
        exponents = f"{fits[0][0]:.2f} / {fits[1][0]:.2f}"
        print(f"{stage:<12}", *(f"{cell:>18}" for cell in cells), f"{exponents:>14}", sep="", flush=True)


if __name__ == "__main__":
    main()
