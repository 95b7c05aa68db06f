"""How time and memory grow with images and classes, from generated features and labels: no picture is decoded.

    python benchmarks/scale.py [--images 100000] [--width 256]
    python benchmarks/scale.py --stage head --images 1000000     one stage at one size: CPU seconds and MB

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

SHARES = (8, 4, 2, 1)
EACH, LARGE = 100, 10**6
PIECE = 1024


def labels_of(images: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(images) % (images // EACH))


def features_of(images: int, width: int, labels: np.ndarray) -> np.ndarray:
    """(N, E) of unit length: a direction for each class, and noise. Made in pieces, lest the peak hide a stage's."""
    rng = np.random.default_rng(1)
    means = rng.standard_normal((labels.max() + 1, width), dtype=np.float32)
    found = np.empty((images, width), dtype=np.float32)
    for start in range(0, images, PIECE):
        rows = slice(start, start + PIECE)
        piece = rng.standard_normal(found[rows].shape, dtype=np.float32) + 0.5 * means[labels[rows]]
        found[rows] = piece / np.linalg.norm(piece, axis=1, keepdims=True)
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


def features(images: int, width: int, folder: Path) -> Callable[[], object]:
    """Features written batch by batch, checked and mapped; and checked and mapped again, as by the next run."""
    from vitadapt.training.loop import BATCH
    from vitadapt.utils.array_file import ArrayFile

    rng, path = np.random.default_rng(0), folder / "array.features"

    def make(starts: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for start in starts:
            yield start, rng.standard_normal((min(BATCH, images - start), width), dtype=np.float32)

    def both() -> object:
        return [ArrayFile(path, (images, width), np.float32, BATCH).open_or_build(make) for _ in range(2)]

    return both


def head(images: int, width: int, folder: Path) -> Callable[[], object]:
    """Features centred and brought to unit length, and the discriminant of them all, its shrinkage and temperature
    chosen by images left out.
    """
    import torch

    from vitadapt.methods import Discriminant
    from vitadapt.nn.head import Head
    from vitadapt.nn.head_spec import HeadSpec
    from vitadapt.nn.support import Support

    labels, classes = labels_of(images), images // EACH
    features, head = torch.from_numpy(features_of(images, width, labels)), Head(width, classes, HeadSpec(length="unit"))

    def solve() -> object:
        head.standardise(features)
        return Discriminant().solve_head(Support(head.all_normalised(features), labels, classes))

    return solve


def prediction(images: int, width: int, folder: Path) -> Callable[[], object]:
    """Answers for a tenth of the images, as `vitadapt predict --csv` writes them, behind the backbone."""
    import torch

    from vitadapt.classifier.model import Model
    from vitadapt.classifier.predict import csv_rows, predict_images
    from vitadapt.data import FileRef
    from vitadapt.methods import Discriminant
    from vitadapt.nn.head import Classifier, Head
    from vitadapt.nn.setting import Setting
    from vitadapt.training.adapter_file import AdapterInfo
    from vitadapt.training.loop import TensorInputs

    class Behind(Model):
        def pixels(self, refs: Sequence[Any], cache: Path | None = None) -> Any:
            return TensorInputs(torch.randn(len(refs), width))

    classes = tuple(f"class {c:05d}" for c in range(images // EACH))
    classifier = Classifier(cast(Any, torch.nn.Identity()), Head(width, len(classes)))
    model = Behind(classifier, AdapterInfo(Discriminant(), "", 0, classes, ""), folder, Setting())
    refs = [FileRef(folder / f"{number:07d}.png") for number in range(images // 10)]

    def write() -> object:
        with (folder / "answers.csv").open("w") as file:
            for answers, _ in predict_images(model, refs):
                file.writelines(",".join(line) + "\n" for row in answers for line in csv_rows(row))
        return None

    return write


def scoring(images: int, width: int, folder: Path) -> Callable[[], object]:
    """Probabilities of a tenth of the images for all classes, all at once, and their score, as a benchmark has them."""
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


STAGES = {stage.__name__: stage for stage in (reading, sampling, features, head, prediction, scoring)}


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
    parser.add_argument("--stage", choices=STAGES)
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
