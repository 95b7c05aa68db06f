"""Learning curves of the rules of `vitadapt suggest`: how many labels each of them saves against random choice.

    python benchmarks/suggest.py photos/stellarium photos/tuxpaint photos/emoji-google --figure curves.svg

A third of every class is kept away for measuring. Of the rest, the pool, two pictures times the number of classes C are
drawn at random and have labels (`--start`); then a rule names C pictures, these get their labels, a new head in closed
form is made of all that have one, and so on. The table gives accuracy (percent of the pictures kept away, mean over the
seeds) by pictures labelled, its mean over the rounds, and by how much this is more than with random choice of the same
seed (with its standard error). Features are computed once. Only development sets belong here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from heads import split
from scipy.special import softmax

from vitadapt.classifier.embedding import Embedder, find_collection
from vitadapt.classifier.suggest import RULES, Rule, doubt, ranked
from vitadapt.data import default_cache
from vitadapt.methods import Discriminant, Support
from vitadapt.nn.head import Head, backbone_of
from vitadapt.nn.setting import Setting
from vitadapt.training.features import cached_backbone, geometry_of

Curve = list[tuple[int, float]]  # pictures labelled, accuracy in percent


def features_of(spec: str, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, E) as the discriminant reads them, and labels (N,); at most --most images per class."""
    path = options.cache / "benchmark-suggest" / f"{Path(spec).name}-{options.size}-{options.most}.npz"
    if not path.exists():
        collection = find_collection([spec])
        names, labels = np.unique(collection.labels, return_inverse=True)
        order = np.random.default_rng(0).permutation(len(labels))
        rows = np.sort(np.concatenate([order[labels[order] == c][: options.most] for c in range(len(names))]))
        head = Discriminant.default_head
        assert head is not None
        network = backbone_of(cached_backbone(options.backbone, options.size, "cpu")[0], head)
        embedder = Embedder(network, geometry_of(network), Setting(), options.backbone)
        batches = embedder.batches([collection.refs[row] for row in rows])
        features = np.concatenate([part for batch in batches for part in batch.outputs])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, features=features, labels=labels[rows])
    with np.load(path) as saved:
        return saved["features"], saved["labels"]


def answers(x: np.ndarray, y: np.ndarray, every: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) of all images by a head in closed form of those labelled, and their directions (N, E)."""
    spec = Discriminant.default_head
    assert spec is not None
    head = Head(x.shape[1], classes, spec)
    head.standardise(torch.from_numpy(x))
    directions = head.normalised(torch.from_numpy(every)).numpy()
    own = Support(head.normalised(torch.from_numpy(x)).numpy(), y, classes)
    weight, bias = Discriminant().solve_head(own).linear()
    return softmax(directions @ weight.T + bias, axis=1), directions


def curve(features: np.ndarray, labels: np.ndarray, rule: Rule, seed: int, start: int, rounds: int) -> Curve:
    """One simulation."""
    classes = int(labels.max()) + 1
    pool, test = split(labels, None, seed)
    pool = np.random.default_rng(seed).permutation(pool)
    known, found = list(pool[:start]), Curve()
    for number in range(rounds + 1):
        probabilities, directions = answers(features[known], labels[known], features, classes)
        found.append((len(known), 100 * float((probabilities[test].argmax(axis=1) == labels[test]).mean())))
        left = np.setdiff1d(pool, known)
        doubts = doubt(probabilities[left], np.zeros(0))
        order, _ = ranked(doubts, directions[left], directions[known], classes, rule, 1000 * seed + number)
        known += left[order].tolist()
    return found


def draw(curves: dict[str, dict[Rule, Curve]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((4 * len(curves), 3.2), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for rule, points in found.items():
            axes.plot(*zip(*points, strict=True), label=rule, linestyle="--" if rule == "random" else "-")
        axes.set_title(name)
        axes.set_xlabel("pictures labelled")
    figure.axes[0].set_ylabel("accuracy, %")
    figure.axes[0].legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learning curves of the rules of suggest.")
    parser.add_argument("sets", nargs="+", help="folders of class folders, or names of data sets")
    parser.add_argument("--backbone", default="dinov2-s14-offline")
    parser.add_argument("--size", type=int, default=98)
    parser.add_argument("--most", type=int, default=90, help="images per class")
    parser.add_argument("--start", type=int, default=2, help="labelled at first, times the number of classes")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=15, help="how many simulations")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    curves: dict[str, dict[Rule, Curve]] = {}
    for spec in options.sets:
        features, labels = features_of(spec, options)
        start = options.start * (int(labels.max()) + 1)
        print(f"{Path(spec).name}: {len(labels)} pictures, {labels.max() + 1} classes")
        runs = {
            rule: np.array(
                [curve(features, labels, rule, seed, start, options.rounds) for seed in range(options.seeds)]
            )
            for rule in RULES
        }
        curves[Path(spec).name] = {
            rule: [(int(n), float(a)) for n, a in run.mean(axis=0)] for rule, run in runs.items()
        }
        print(
            f"{'labelled':14s}" + "".join(f"{n:7.0f}" for n in runs["random"][0, :, 0]) + "   mean   more than random"
        )
        for rule, run in runs.items():
            area = run[:, 1:, 1].mean(axis=1)
            more = area - runs["random"][:, 1:, 1].mean(axis=1)
            row = "".join(f"{accuracy:7.1f}" for accuracy in run[:, :, 1].mean(axis=0))
            error = more.std(ddof=1) / np.sqrt(len(more))
            print(f"{rule:14s}{row}{area.mean():7.1f}   {more.mean():+.1f} ± {error:.1f}", flush=True)
    if options.figure:
        draw(curves, options.figure)


if __name__ == "__main__":
    main()
