"""Heads on frozen features, side by side: scikit-learn's logistic regression and the discriminant of the last blocks.

    python benchmarks/heads.py photos/stellarium photos/tuxpaint --size 224 --shots 2 5 20 all --seeds 0 1 2

For each set a third of every class is kept away, `shots` images per class of the rest are learnt from, and the table
gives accuracy (mean per class, percent) / negative log-likelihood (nats) on the images kept away, means over the seeds.
Only development sets belong here. Features are computed once and kept in --cache.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from vitadapt.data import Examples, default_cache, open_dataset
from vitadapt.methods import Discriminant
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Head, backbone_of
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.training.features import Environment, cached_backbone, frozen_features, pixels_of

BLOCKS = 4
Answer = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def logistic(x: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities (M, C) of `test` by ten lines of scikit-learn with its defaults."""
    return np.asarray(LogisticRegression(max_iter=2000).fit(x, y).predict_proba(test))


def logistic_cv(x: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """The same with C chosen by cross-validation, where every class has two images."""
    folds = min(5, np.bincount(y).min())
    if folds < 2:
        return logistic(x, y, test, classes)
    model = LogisticRegressionCV(Cs=10, cv=folds, max_iter=2000, scoring="neg_log_loss").fit(x, y)
    return np.asarray(model.predict_proba(test))


def discriminant(x: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities (M, C) of `test` by the discriminant, as a head computes them."""
    head = Head(x.shape[1], classes, HeadSpec(length="unit"))
    head.standardise(torch.from_numpy(x))
    head.set_linear(*Discriminant().solve_head(head.normalised(torch.from_numpy(x)).numpy(), y, classes))
    return np.asarray(head(torch.from_numpy(test)).softmax(dim=1).detach())


def scores(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy (mean per class, percent) and negative log-likelihood (nats)."""
    right = probabilities.argmax(axis=1) == labels
    accuracy = np.mean([right[labels == c].mean() for c in np.unique(labels)])
    return 100 * float(accuracy), -float(np.log(probabilities[np.arange(len(labels)), labels].clip(1e-12)).mean())


def split(labels: np.ndarray, shots: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows kept away."""
    rng, train, test = np.random.default_rng(seed), [], []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        kept = max(1, len(rows) // 3)
        test.append(rows[:kept])
        train.append(rows[kept:][:shots])
    return np.concatenate(train), np.concatenate(test)


def features_of(spec: str, backbone: str, size: int, cache: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of the last block (N, E), of the last blocks with mirror images (N, 4 E), and labels (N,)."""
    dataset = open_dataset(spec, whole=True)
    images = Examples(dataset.splits["train"].refs, dataset.splits["train"].labels)
    environment = Environment(cache)
    plain, digest = cached_backbone(backbone, size, "cpu")
    pixels = pixels_of(images, plain, environment)
    many = backbone_of(plain, HeadSpec(blocks=BLOCKS, mirror=True))
    last = frozen_features(plain, digest, pixels, environment, "last block").numpy()
    blocks = frozen_features(many, backbone_digest(many), pixels, environment, "last blocks").numpy()
    return last, blocks, images.labels


def main() -> None:
    warnings.simplefilter("ignore", FutureWarning)  # of scikit-learn's next release
    parser = argparse.ArgumentParser(description="Heads on frozen features, side by side.")
    parser.add_argument("sets", nargs="+", help="folders of class folders")
    parser.add_argument("--backbone", default="dinov2-s14-offline")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--shots", nargs="+", default=["2", "5", "20", "all"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    data = {Path(spec).name: features_of(spec, options.backbone, options.size, options.cache) for spec in options.sets}
    heads: dict[str, tuple[Answer, int | None]] = {
        "logistic": (logistic, None),
        "logistic, C by CV": (logistic_cv, None),
    }
    heads |= {f"discriminant, {k} blocks + mirror": (discriminant, k) for k in range(1, BLOCKS + 1)}
    for text in options.shots:
        shots = None if text == "all" else int(text)
        print(f"{text} shots" + "".join(f"  {name}" for name in data) + "  mean")
        for title, (head, blocks) in heads.items():
            row = []
            for last, many, labels in data.values():
                x = last if blocks is None else many[:, -blocks * last.shape[1] :]
                found = []
                for seed in options.seeds:
                    train, test = split(labels, shots, seed)
                    found.append(scores(head(x[train], labels[train], x[test], int(labels.max()) + 1), labels[test]))
                row.append(np.mean(found, axis=0))
            cells = [f"{accuracy:.1f}/{nll:.3f}" for accuracy, nll in [*row, np.mean(row, axis=0)]]
            print(f"{title:34s}" + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
