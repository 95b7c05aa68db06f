"""Images without labels and a backbone with a text tower: which images fit a sentence, and which class name fits each.

Features of images and of texts lie in one space (Radford et al. 2021, CLIP): images are ranked by their cosine with a
sentence, and a class has the probability softmax(scale * cosine).
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from ..data.examples import ImageRef
from ..data.sampling.folds import FOLDS, stratified_folds
from ..methods import ZeroShot
from ..metrics.conformal import Coverage, class_sets, coverage, nonconformity, threshold
from ..metrics.scores import accuracy
from ..nn.head_spec import TEXT
from ..text import Prompts, TextTower, class_texts, text_matrix
from ..text.class_features import cached_text_tower
from ..training.adapter_file import AdapterInfo
from ..utils.errors import ConfigError, DataError
from ..utils.progress import Progress
from .embedding import Embedder, load_embedder
from .predict import labelled_images
from .similar import Neighbour, Photos, closest, unit


@dataclass(frozen=True)
class Suggestion:
    """The class that fits an image best, its probability, and the classes of a set that was asked for."""

    ref: ImageRef
    label: str
    probability: float
    inside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """Sets of classes by labelled images: the least probability of a class in a set is 1 - limit.

    accuracy: of the images in percent; coverage: measured on them, each part with the limit of the others.
    """

    limit: float
    accuracy: float
    coverage: Coverage


class LanguageModel:
    """A backbone and the text tower that belongs to it."""

    def __init__(self, embedder: Embedder, tower: TextTower) -> None:
        self.embedder, self.tower = embedder, tower

    def search(
        self, sentence: str, photos: Photos, top: int, progress: Progress | None = None
    ) -> tuple[list[Neighbour], list[str]]:
        """The `top` images that fit the sentence best, and a line per unreadable image. Raises as `closest`."""
        return closest(self.embedder, self._directions([[sentence]])[0], photos, top, progress)

    def class_directions(self, classes: Sequence[str], prompts: Prompts | None = None) -> np.ndarray:
        """(C, E), one unit vector per class. Raises ConfigError for prompts that do not fit the classes."""
        return self._directions(class_texts("", classes, prompts))

    def probabilities(
        self, refs: Sequence[ImageRef], directions: np.ndarray, progress: Progress | None = None
    ) -> tuple[list[int], np.ndarray, list[str]]:
        """Rows of the readable images, their probabilities (n, C), and a line per unreadable image."""
        scale, rows, unreadable = self.tower.logit_scale or TEXT.scale, list[int](), list[str]()
        cosines = [np.zeros((0, len(directions)))]
        for batch in self.embedder.batches(refs, progress):
            rows += batch.rows
            cosines += [unit(found) @ directions.T for found in batch.outputs]
            unreadable += batch.unreadable
        return rows, softmax(float(scale) * np.concatenate(cosines), axis=1), unreadable

    def calibrate(
        self, spec: str, classes: Sequence[str], directions: np.ndarray, wanted: float, root: Path | None = None
    ) -> tuple[Calibration, list[str]]:
        """Sets that hold the right class with probability `wanted`, by the labelled images of `spec`; and notes.

        Raises DataError for images that cannot be read or whose labels are not among the classes, and ConfigError
        when they are too few for such sets.
        """
        info = AdapterInfo(ZeroShot(), self.embedder.name, self.embedder.geometry.size, tuple(classes), "")
        examples, notes = labelled_images(spec, info, root)
        rows, probabilities, unreadable = self.probabilities(examples.refs, directions)
        labels = examples.labels[rows]
        least = math.ceil(wanted / (1 - wanted) - 1e-9) if wanted < 1 else math.inf  # so that ceil((n + 1) s) <= n
        if len(labels) < max(least, 2):
            raise ConfigError(
                f"sets that are right with probability {wanted:g} need at least {least} labelled images, and {spec} "
                f"has {len(labels)}; label more, or ask for less"
            )
        fold = stratified_folds(labels, min(FOLDS, len(labels)), 0)
        limit = threshold(np.sort(nonconformity(labels, probabilities)), wanted)
        measured = coverage(labels, probabilities, fold, wanted)
        return Calibration(limit, 100 * accuracy(labels, probabilities), measured), [*notes, *unreadable]

    def _directions(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        return np.asarray(text_matrix(self.tower, texts).numpy())


def load_language_model(backbone: str, image_size: int | None = None, device: str = "cpu") -> LanguageModel:
    """The named backbone with its text tower. Raises NotApplicable when it has none."""
    embedder = load_embedder(backbone, None, image_size, device)
    return LanguageModel(embedder, cached_text_tower(backbone, device, embedder.network))


def suggestions(
    refs: Sequence[ImageRef], classes: Sequence[str], probabilities: np.ndarray, limit: float | None = None
) -> list[Suggestion]:
    """One per image; probabilities (N, C). limit: of sets of classes (see `Calibration`); None for no sets."""
    inside = np.zeros(probabilities.shape, dtype=bool) if limit is None else class_sets(probabilities, limit)
    best = probabilities.argmax(axis=1).tolist()
    return [
        Suggestion(ref, classes[c], float(row[c]), tuple(classes[i] for i in np.flatnonzero(held).tolist()))
        for ref, c, row, held in zip(refs, best, probabilities, inside, strict=True)
    ]


def check_labels(classes: Sequence[str]) -> None:
    """Raises ConfigError for class names that a table of labels cannot hold, and for fewer than two."""
    if len(set(classes)) < 2 or len(set(classes)) < len(classes):
        raise ConfigError("zero-shot chooses between classes; give at least two different names with --class-names")
    if bad := [name for name in classes if "|" in name or ";" in name]:
        raise ConfigError(f"class name {bad[0]!r}: | and ; separate labels in tables; write it in another way")


def label_table(found: Sequence[Suggestion], out: Path) -> str:
    """CSV that `fit` reads: path (relative to the folder of `out`), label, probability, and the set if there are any.

    Raises DataError where nothing is left to write.
    """
    if not found:
        raise DataError("no image is left to suggest a label for; lower --min-probability")
    text, sets = io.StringIO(), any(one.inside for one in found)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "probability", *(["set"] if sets else [])])
    for one in found:
        path = os.path.relpath(os.path.abspath(one.ref.name), os.path.abspath(out.parent))
        writer.writerow([path, one.label, f"{one.probability:.4f}", *(["|".join(one.inside)] if sets else [])])
    return text.getvalue()
