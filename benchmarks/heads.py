"""Heads on frozen features, side by side: scikit-learn's logistic regression and the discriminant of the last blocks.

    python benchmarks/heads.py photos/stellarium photos/tuxpaint --size 224 --shots 2 5 20 all --seeds 0 1 2

For each set a third of every class is kept away, `shots` images per class of the rest are learnt from, and the table
gives accuracy (mean per class, percent) / negative log-likelihood (nats) on the images kept away, means over the seeds.
Only development sets belong here. Features are computed once and kept in --cache.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from vitadapt.data import Examples, default_cache, open_dataset
from vitadapt.methods import Discriminant, Support
from vitadapt.nn.head import Head, backbone_of
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.nn.setting import Setting
from vitadapt.nn.surgery import require_vit
from vitadapt.training.features import Environment, cached_backbone, pixels_of
from vitadapt.training.loop import SelectedInputs
from vitadapt.training.views import VERSIONS, make_views, shared_block, version_features

BLOCKS = 4
Answer = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]  # versions, labels, test versions, classes


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


def discriminant(versions: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int, spread: bool) -> np.ndarray:
    """Probabilities (M, C) of `test` by the discriminant, as a head computes them. versions (V, N, E)."""
    x = torch.from_numpy(versions[:2].mean(axis=0))
    head = Head(x.shape[1], classes, HeadSpec(length="unit"))
    head.standardise(x)

    def normalised(features: torch.Tensor) -> np.ndarray:
        return head.normalised(features).numpy()

    more = normalised(torch.from_numpy(versions)) if spread else None
    head.set_solution(Discriminant().solve_head(Support(normalised(x), y, classes, more)))
    return np.asarray(head(torch.from_numpy(test)).softmax(dim=1).detach())


def ridge(x: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int, kernel: bool) -> np.ndarray:
    """Probabilities (M, C) by ridge regression on unit-length features, or with a Gaussian kernel.

    Strength and temperature are those of the smallest loss of images left out, which cost nothing more here:
    with H = K (K + l I)^-1, the residual of an image without itself is that with it, divided by 1 - H_ii.
    """
    centre = x.mean(axis=0)
    x, test = (part - centre for part in (x, test))
    x, test = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, test))
    hot = np.eye(classes)[y]
    within, across = (part @ x.T for part in (x, test))
    if kernel:
        within, across = np.exp(2 * (within - 1)), np.exp(2 * (across - 1))
    doubt = 1 / (len(y) + 1)
    target = (1 - doubt) * hot + doubt / classes
    best = (np.inf, 1.0, 1.0)
    for strength in np.geomspace(1e-3, 1e2, 16):
        hat = within @ np.linalg.inv(within + strength * np.eye(len(y)))
        left_out = hot - (hot - hat @ hot) / (1 - np.diag(hat))[:, None]
        for temperature in np.geomspace(0.01, 1, 30):
            loss = -float((target * log_softmax(left_out / temperature, axis=1)).sum())
            best = min(best, (loss, strength, temperature))
    weights = np.linalg.solve(within + best[1] * np.eye(len(y)), hot)
    return np.asarray(np.exp(log_softmax(across @ weights / best[2], axis=1)))


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
        held = max(1, len(rows) // 3)
        test.append(rows[:held])
        train.append(rows[held:][:shots])
    return np.concatenate(train), np.concatenate(test)


def features_of(spec: str, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Features (V, N, BLOCKS E) of every version of every image, and labels (N,); at most --most images per class."""
    path = options.cache / "benchmark-heads" / f"{Path(spec).name}-{options.size}-{options.most}.npz"
    if not path.exists():
        dataset = open_dataset(spec, whole=True)
        refs = [ref for part in dataset.splits.values() for ref in part.refs]
        labels = np.concatenate([part.labels for part in dataset.splits.values()])
        order = np.random.default_rng(0).permutation(len(labels))
        rows = np.sort(np.concatenate([order[labels[order] == c][: options.most] for c in np.unique(labels)]))
        vit, _ = cached_backbone(options.backbone, options.size, "cpu")
        pixels = pixels_of(Examples(tuple(refs[row] for row in rows), labels[rows]), vit, Environment())
        used = require_vit(backbone_of(vit, HeadSpec(blocks=BLOCKS)))
        parts = []
        for chunk in torch.arange(len(rows)).split(200):
            some = SelectedInputs(pixels, chunk)
            views = make_views(used, some, shared_block(used, BLOCKS), 2 + VERSIONS, 0, Setting(), None)
            assert views is not None
            parts.append(version_features(used, views, Setting(), 2 + VERSIONS))
            print(f"{spec}: {int(chunk[-1]) + 1} of {len(rows)} images", file=sys.stderr, flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, features=torch.cat(parts, dim=1).numpy(), labels=labels[rows])
    with np.load(path) as saved:
        return saved["features"], saved["labels"]


def main() -> None:
    warnings.simplefilter("ignore", FutureWarning)  # of scikit-learn's next release
    parser = argparse.ArgumentParser(description="Heads on frozen features, side by side.")
    parser.add_argument("sets", nargs="+", help="folders of class folders, or names of data sets")
    parser.add_argument("--backbone", default="dinov2-s14-offline")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--most", type=int, default=120, help="images per class")
    parser.add_argument("--shots", nargs="+", default=["2", "5", "20", "all"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    data = {Path(spec).name: features_of(spec, options) for spec in options.sets}
    width = next(iter(data.values()))[0].shape[2] // BLOCKS
    heads: dict[str, Answer] = {
        "logistic": lambda v, y, t, c: logistic(v[0, :, -width:], y, t[0, :, -width:], c),
        "logistic, C by CV": lambda v, y, t, c: logistic_cv(v[0, :, -width:], y, t[0, :, -width:], c),
    }
    for blocks, spread in ((1, False), (3, False), (3, True), (4, True)):
        cut = slice(-blocks * width, None)
        heads[f"discriminant, {blocks} blocks{', versions' if spread else ''}"] = partial(_answer, cut, spread)
    heads["ridge, 3 blocks"] = partial(_ridge, slice(-3 * width, None), False)
    heads["kernel ridge, 3 blocks"] = partial(_ridge, slice(-3 * width, None), True)
    for text in options.shots:
        shots = None if text == "all" else int(text)
        print(f"{text} shots" + "".join(f"  {name}" for name in data) + "  mean")
        for title, head in heads.items():
            row = []
            for versions, labels in data.values():
                found = []
                for seed in options.seeds:
                    train, test = split(labels, shots, seed)
                    answers = head(versions[:, train], labels[train], versions[:, test], int(labels.max()) + 1)
                    found.append(scores(answers, labels[test]))
                row.append(np.mean(found, axis=0))
            cells = [f"{accuracy:.1f}/{nll:.3f}" for accuracy, nll in [*row, np.mean(row, axis=0)]]
            print(f"{title:34s}" + "  ".join(cells), flush=True)


def _answer(
    cut: slice, spread: bool, versions: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int
) -> np.ndarray:
    return discriminant(versions[:, :, cut], y, test[:2, :, cut].mean(axis=0), classes, spread)


def _ridge(cut: slice, kernel: bool, versions: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    known, new = (part[:2, :, cut].mean(axis=0).astype(np.float64) for part in (versions, test))
    return ridge(known, y, new, classes, kernel)


if __name__ == "__main__":
    main()
