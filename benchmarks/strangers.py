"""Scores for "unlike the training pictures", side by side, by leaving classes out.

    python benchmarks/strangers.py photos/stellarium photos/tuxpaint digits --size 224 --shots 5 20 all

Of each set one class after the other is left out. Of the other classes a third is kept away and `shots` images per
class of the rest are learnt from. AUROC (percent): how often an image of the class left out / of another set is more
unlike than a known one that was kept away; means over classes and draws. Only development sets belong here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from heads import split
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from vitadapt.data import Examples, default_cache, open_dataset
from vitadapt.methods import Discriminant, Support
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Head, backbone_of
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.training.features import Environment, cached_backbone, frozen_features, pixels_of


class Known:
    """Features (N, E) and labels (N,) of known images, and (M, E) of others; decompositions are made once."""

    def __init__(self, x: np.ndarray, y: np.ndarray, others: np.ndarray) -> None:
        self.x, self.y, self.others, self.classes = x, y, others, int(y.max()) + 1
        self.n, self.width = x.shape
        self.means = np.stack([x[y == c].mean(axis=0) for c in range(self.classes)])
        self.centre = x.mean(axis=0)[None]
        self.parts = {
            own: np.linalg.svd(inner / np.sqrt(max(degrees, 1)), full_matrices=False)[1:]
            for own, inner, degrees in (
                (True, x - self.means[y], self.n - self.classes),
                (False, x - self.centre, self.n - 1),
            )
        }

    @cached_property
    def logits(self) -> np.ndarray:
        """(M, C) of the discriminant."""
        weight, bias = Discriminant().solve_head(Support(self.x, self.y, self.classes)).linear()
        return np.asarray(self.others @ weight.T + bias)

    def distances(self, own: bool, share: float | None, axes: int = 10**6) -> np.ndarray:
        """(M,) squared Mahalanobis distance to the nearest class mean, or to the common mean; None: d / (d + n - 1)."""
        values, left = self.parts[own]
        share = self.width / (self.width + self.n - 1) if share is None else share
        floor = share * (values**2).sum() / self.width
        weights = 1 - floor / ((1 - share) * values[:axes] ** 2 + floor)
        found = []
        for centre in self.means if own else self.centre:
            gap = self.others - centre
            found.append(((gap**2).sum(axis=1) - ((gap @ left[:axes].T) ** 2 * weights).sum(axis=1)) / floor)
        return np.asarray(np.min(found, axis=0))


Score = Callable[[Known], np.ndarray]
"""(M,) of the others, larger for what is more unlike."""


def max_probability(known: Known) -> np.ndarray:
    return np.asarray(-softmax(known.logits, axis=1).max(axis=1))


def max_logit(known: Known) -> np.ndarray:
    return np.asarray(-known.logits.max(axis=1))


def neighbours(k: int) -> Score:
    def score(known: Known) -> np.ndarray:
        lengths = np.linalg.norm(known.others, axis=1)[:, None] * np.linalg.norm(known.x, axis=1)
        near = np.sort(known.others @ known.x.T / lengths, axis=1)
        return np.asarray(-near[:, -k:].mean(axis=1))

    return score


def mahalanobis(share: float | None, axes: int = 10**6) -> Score:
    return lambda known: known.distances(True, share, axes)


def relative(share: float | None, axes: int = 10**6, weight: float = 1) -> Score:
    """Ren et al. 2021: less the distance to the common mean (times `weight`)."""
    return lambda known: known.distances(True, share, axes) - weight * known.distances(False, share, axes)


SCORES: dict[str, Score] = {
    "max probability (discriminant)": max_probability,
    "max logit (discriminant)": max_logit,
    "nearest neighbour, cosine": neighbours(1),
    "5 nearest, cosine": neighbours(5),
    "Mahalanobis, shrunk d/(d+n-1)": mahalanobis(None),
    "Mahalanobis, shrunk .1": mahalanobis(0.1),
    "Mahalanobis, shrunk .7": mahalanobis(0.7),
    "Mahalanobis, shrunk .95": mahalanobis(0.95),
    "relative, shrunk d/(d+n-1)": relative(None),
    "relative, shrunk .7": relative(0.7),
    "relative, shrunk .95": relative(0.95),
    "half relative, shrunk d/(d+n-1)": relative(None, weight=0.5),
    "relative, d/(d+n-1), 64 axes": relative(None, 64),
    "relative, d/(d+n-1), 32 axes": relative(None, 32),
}


Set = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features of the last block, of three blocks with the mirror image, and labels."""


def standardised(
    x: np.ndarray, others: np.ndarray, y: np.ndarray, unit: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features as a head gets them, for `Known`."""
    head = Head(x.shape[1], 2, HeadSpec(length="unit" if unit else "kept"))
    head.standardise(torch.from_numpy(x))
    known, new = (head.normalised(torch.from_numpy(part)).detach().double().numpy() for part in (x, others))
    return known, y, new


def auroc(strange: np.ndarray, unlike: np.ndarray) -> float:
    return float(roc_auc_score(strange, unlike)) if strange.any() else np.nan


def aurocs(sets: dict[str, Set], name: str, which: int, unit: bool, shots: int | None, draws: int) -> np.ndarray:
    """(scores, 2) for images of a class left out, and for images of the other sets."""
    features, labels = sets[name][which], sets[name][2]
    foreign = [one[which] for other, one in sets.items() if other != name]
    far = np.concatenate(foreign) if foreign else features[:0]
    found = []
    for out in np.unique(labels):
        own = np.flatnonzero(labels != out)
        y = np.unique(labels[own], return_inverse=True)[1]
        near = features[labels == out]
        for seed in range(draws):
            train, test = split(y, shots, seed)
            others = np.concatenate([features[own[test]], near, far])
            known = Known(*standardised(features[own[train]], others, y[train], unit))
            kind = np.repeat([0, 1, 2], [len(test), len(near), len(far)])
            row = []
            for score in SCORES.values():
                unlike = score(known)
                parts = [(kind == 0) | (kind == k) for k in (1, 2)]
                row.append([auroc(kind[part] > 0, unlike[part]) for part in parts])
            found.append(row)
    return 100 * np.asarray(np.mean(found, axis=0))


def features_of(spec: str, options: argparse.Namespace) -> Set:
    """Of the training part, the first --most images of every class."""
    examples, environment = open_dataset(spec, whole=True).splits["train"], Environment(options.cache)
    labels = examples.labels
    rows = np.concatenate([np.flatnonzero(labels == c)[: options.most] for c in np.unique(labels)])
    images = Examples(examples.refs, labels).take(np.sort(rows))
    plain, _ = cached_backbone(options.backbone, options.size, "cpu")
    pixels, found = pixels_of(images, plain, environment), []
    for spec_of_head in (HeadSpec(), HeadSpec(blocks=3, mirror=True)):
        network = backbone_of(plain, spec_of_head)
        found.append(frozen_features(network, backbone_digest(network), pixels, environment, spec).numpy())
    return found[0], found[1], images.labels


def main() -> None:
    parser = argparse.ArgumentParser(description='Scores for "unlike the training pictures", side by side.')
    parser.add_argument("sets", nargs="+", help="folders of class folders, or names")
    parser.add_argument("--backbone", default="dinov2-s14-offline")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--shots", nargs="+", default=["5", "20", "all"])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--most", type=int, default=None, help="images of a class that are used")
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    data: dict[str, Set] = {}
    for spec in options.sets:
        data[Path(spec).name] = features_of(spec, options)
    spaces = {
        f"{what}{', unit length' if unit else ''}": (which, unit)
        for which, what in enumerate(("last block", "3 blocks and mirror image"))
        for unit in (False, True)
    }
    for text in options.shots:
        for space, (which, unit) in spaces.items():
            print(f"\n{text} shots, {space} (left out / other sets): {', '.join(data)}, mean")
            shots = None if text == "all" else int(text)
            found = np.stack([aurocs(data, name, which, unit, shots, options.draws) for name in data])
            for title, row in zip(SCORES, found.transpose(1, 0, 2), strict=True):
                cells = [f"{near:5.1f} /{far:5.1f}" for near, far in [*row, row.mean(axis=0)]]
                print(f"{title:34s}" + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
