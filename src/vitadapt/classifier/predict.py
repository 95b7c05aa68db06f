"""What a model says of images on disk, and how right it is about labelled ones."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Dataset, Examples, FileRef, open_dataset
from ..data.examples import ImageObjectRef, ImageRef
from ..data.images import UnreadableImage, cropped, to_pixels, to_upright_rgb
from ..data.readers.image_folder import Skipped, images_below
from ..data.sampling.splits import normal
from ..methods.spec import method_text
from ..nn.head_spec import head_text
from ..training.adapter_file import ADAPTER, AdapterInfo, read_adapter
from ..utils.errors import ConfigError, DataError, StorageError, WeightsError
from ..utils.progress import Progress
from .answer import Rules, answer, set_limit
from .batches import Batch, batches
from .fit_record import RECORD, headline, read_record
from .model import Model
from .prior import prior_of, reweighted

_LONG = ("recipe", "shares", "prior")  # of a training, and no reading for people


def find_images(places: Sequence[Path]) -> tuple[list[ImageRef], list[str]]:
    """The named image files, and those that `fit` finds in folders; and lines about files that may be pictures.

    Raises DataError for what is neither file nor folder, for a folder without images, and as `images_below`.
    """
    found: list[ImageRef] = []
    skipped = Skipped()
    for place in places:
        if place.is_dir():
            inside = images_below(place, skipped)
            if not inside:
                raise DataError("; ".join([f"{place}: no images in this folder", *skipped.doubts()]))
            found += [FileRef(place / name) for name in inside]
        elif place.is_file():
            found.append(FileRef(place))
        else:
            raise DataError(f"{place}: no such file or folder")
    return found, list(skipped.doubts())


def predict_images(
    model: Model,
    refs: Sequence[ImageRef],
    rules: Rules = Rules(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    prior: str | None = None,
    tiles: tuple[int, int] = (1, 1),
) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """Of each batch one `answer` per readable image, and one message per unreadable image. prior: as for `read_prior`.

    tiles: rows and columns into which an image is cut; its probabilities are the mean of those of the parts.

    Raises at once NotApplicable for sets of classes that the model cannot give, and what `prior_of` raises.
    """
    shares = None if prior is None else prior_of(model.info, prior)
    if rules.conformal is not None:
        set_limit(model.novelty, rules.conformal)

    def answers(batch: Batch) -> list[dict[str, Any]]:
        _, probabilities, novelty, _ = _together(model, [batch])
        if shares is not None and len(batch.rows):
            probabilities = reweighted(probabilities, *shares)
        return [
            answer(refs[row].name, model.info, probabilities[i], rules, model.novelty, novelty[i])
            for i, row in enumerate(batch.rows)
        ]

    return ((answers(batch), batch.unreadable) for batch in _scores(model, refs, progress, tiles))


def read_tiles(text: str) -> tuple[int, int]:
    """ "3x2" as (3, 2): rows and columns. Raises ConfigError."""
    found = re.fullmatch(r"([1-9][0-9]?)x([1-9][0-9]?)", text)
    if found is None:
        raise ConfigError(f"--tiles takes rows and columns, such as 3x3, not {text!r}")
    return int(found[1]), int(found[2])


def tiles_of(ref: ImageRef, rows: int, columns: int) -> list[ImageRef]:
    """The parts of an upright image, row by row. Raises UnreadableImage, also for one with fewer pixels than parts."""
    image = to_upright_rgb(ref.read(), ref.name)
    wide, high = image.size
    if wide < columns or high < rows:
        raise UnreadableImage(ref.name, f"{wide} x {high} pixels cannot be cut into {rows} x {columns} parts")
    x, y = ([side * i // count for i in range(count + 1)] for side, count in ((wide, columns), (high, rows)))
    boxes = [(x[j], y[i], x[j + 1], y[i + 1]) for i in range(rows) for j in range(columns)]
    return [ImageObjectRef(cropped(image, box), ref.name) for box in boxes]


def predict_readable(
    model: Model, refs: Sequence[ImageRef], progress: Progress | None = None
) -> tuple[list[int], np.ndarray, list[float | None], list[str]]:
    """Rows of the readable images, their probabilities (n, C), their novelty, and one message per unreadable image."""
    return _together(model, _scores(model, refs, progress))


def _scores(
    model: Model, refs: Sequence[ImageRef], progress: Progress | None, tiles: tuple[int, int] = (1, 1)
) -> Iterator[Batch]:
    """(n, C + 1) probabilities, and the novelty in the last column; NaN where it is not known."""

    def scores(some: Sequence[ImageRef]) -> np.ndarray:
        if tiles != (1, 1):  # one image at a time: it may be large
            return np.stack([of_parts(ref) for ref in some])
        return whole(some)

    def of_parts(ref: ImageRef) -> np.ndarray:
        parts = tiles_of(ref, *tiles)
        to_pixels(parts[0].read(), model.geometry, ref.name)  # what is wrong with one is wrong with all
        return np.asarray(whole(parts).mean(axis=0))

    def whole(some: Sequence[ImageRef]) -> np.ndarray:
        probabilities, novelty = model.scores(model.pixels(some))
        last = np.full(len(some), np.nan, dtype=np.float32) if novelty is None else novelty
        return np.column_stack([probabilities, last])

    return batches(refs, scores, "predict", progress)


def _together(model: Model, found: Iterable[Batch]) -> tuple[list[int], np.ndarray, list[float | None], list[str]]:
    """What `predict_readable` says of these batches of `_scores`."""
    rows: list[int] = []
    outputs = [np.zeros((0, len(model.classes) + 1), dtype=np.float32)]
    unreadable: list[str] = []
    for batch in found:
        rows += batch.rows
        outputs += batch.outputs
        unreadable += batch.unreadable
    numbers = np.concatenate(outputs)
    return rows, numbers[:, :-1], [None if np.isnan(one) else one for one in numbers[:, -1].tolist()], unreadable


CSV = ("image", "class", "rank", "label", "probability", "unknown")


def csv_rows(row: dict[str, Any]) -> Iterator[list[str]]:
    """One line for each class of an `answer`, the most probable first; several labels of an image are joined by |.

    Under the heads `CSV`, and one more where there are sets of classes.
    """
    unknown = {True: "yes", False: "no", None: ""}[row["unknown"]]
    for rank, (label, probability) in enumerate(row["top"].items(), start=1):
        named = "|".join(row["labels"]) if "labels" in row else row["class"] or ""
        inside = [("yes" if label in row["set"] else "no")] if "set" in row else []
        yield [row["image"], named, str(rank), label, f"{probability:.6f}", unknown, *inside]


def labelled_images(
    spec: str, info: AdapterInfo, root: Path | None = None, separator: str | None = None
) -> tuple[Examples, list[str]]:
    """All images of `spec`, or its test part where one was given, with labels of the classes of a model; and notes.

    Classes are matched by name (case, blanks and underscores do not count). Images of classes that the model does not
    know are left out, with a note. For a model of several labels per image the labels are multi-hot. Raises DataError
    when no class matches, and for several labels where the model knows one.
    """
    dataset, classes = open_dataset(spec, root, whole=True, separator=separator), info.classes
    parts = [dataset.splits["test"]] if "test" in dataset.splits else list(dataset.splits.values())
    if info.thresholds:
        return _several(spec, dataset, parts, classes)
    if any(part.multilabel for part in parts):
        raise DataError(f"{spec}: images with several labels; this model gives one each")
    ids = {normal(name): c for c, name in enumerate(classes)}
    known = np.array([ids.get(normal(name), -1) for name in dataset.classes])
    strange = [name for name, c in zip(dataset.classes, known, strict=True) if c < 0]
    refs = tuple(ref for part in parts for ref in part.refs)
    labels = known[np.concatenate([part.labels for part in parts])]
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise DataError(f"{spec}: none of its classes ({', '.join(strange[:5])}) is one of the model's")
    notes = [f"left out, for the model does not know them: {', '.join(strange)}"] if strange else []
    return Examples(refs, labels).take(rows), notes


def _several(
    spec: str, dataset: Dataset, parts: Sequence[Examples], classes: Sequence[str]
) -> tuple[Examples, list[str]]:
    """Multi-hot labels (N, C) in the order of `classes`; a label that there is not is left out, the image stays."""
    places = {normal(name): c for c, name in enumerate(dataset.classes)}
    hot = np.concatenate([p.labels if p.multilabel else np.eye(len(dataset.classes))[p.labels] for p in parts])
    labels = np.zeros((len(hot), len(classes)), dtype=np.uint8)
    for c, name in enumerate(classes):
        if normal(name) in places:
            labels[:, c] = hot[:, places[normal(name)]]
    known = {normal(name) for name in classes}
    strange = [name for name in dataset.classes if normal(name) not in known]
    if not labels.any():
        raise DataError(f"{spec}: none of its labels ({', '.join(strange[:5])}) is one of the model's")
    notes = [f"left out, for the model does not know these labels: {', '.join(strange)}"] if strange else []
    if not any(part.multilabel for part in parts):
        notes.append("every image has one label here: all other classes count as absent")
    if missing := [name for name in classes if normal(name) not in places]:
        notes.append(f"no image has, and every image counts as lacking: {', '.join(missing)}")
    return Examples(tuple(ref for part in parts for ref in part.refs), labels), notes


def model_facts(folder: Path) -> dict[str, Any]:
    """What a model folder, or an adapter file, says of itself; no backbone is loaded. Raises WeightsError."""
    path = folder / ADAPTER if folder.is_dir() else folder
    if not path.is_file():
        raise WeightsError(f"{folder}: no {ADAPTER} there; make one with 'vitadapt fit PHOTOS --out {folder}'")
    info, tensors = read_adapter(path)
    found: dict[str, Any] = {
        "classes": list(info.classes),
        "backbone": info.backbone,
        "digest": info.base,
        "image size": info.image_size,
        "method": method_text(info.method),
        "head": head_text(info.head),
        "activation": info.activation or "not stored",
        "training": {name: value for name, value in info.training.items() if name not in _LONG},
        "licence": info.licence or "not stated",
        "backbone's licence": info.base_licence or "not stated",
        "format": info.format,
        "file": f"{path.stat().st_size / 1000:.1f} kB, {len(tensors)} tensors",
    }
    if info.thresholds:
        found["thresholds"] = {name: round(t, 3) for name, t in zip(info.classes, info.thresholds, strict=True)}
    if prior := info.training.get("prior"):
        found["prior"] = {name: round(share, 4) for name, share in zip(info.classes, prior, strict=True)}
    try:
        test = read_record(path.parent)["test"]
    except StorageError as error:
        if os.path.lexists(path.parent / RECORD):
            found["accuracy"] = f"not known; {error}"
        return found
    if (score := headline(test)) is not None:
        low, high = test["interval"]
        name = "mean average precision" if info.thresholds else "accuracy"
        found[name] = f"{score:.1f} % of {test['count']} images (95 % interval {low:.1f} to {high:.1f} %)"
    return found
