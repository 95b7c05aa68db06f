"""Pictures to export with: those that ranges are measured on, and labelled ones to compare the exported model on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import Examples, FileRef
from ...data.images import UnreadableImage, to_pixels
from ...utils.errors import ConfigError, DataError, StorageError
from ..fit_record import read_record
from ..predict import labelled_images
from .deployed import TrainedModel

CALIBRATION, COMPARISON = 64, 1000  # images at most
_NEEDS = "int8 is measured on images: "


@dataclass(frozen=True)
class Samples:
    """Decoded images, uint8 (N, 3, S, S).

    calibration: of the training. comparison, labels: (N,) or (N, C). seen: was the model trained on these, too?
    files: of the compared images.
    """

    calibration: Tensor
    comparison: Tensor
    labels: np.ndarray
    seen: bool
    files: tuple[Path, ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """What the comparison was made on."""
        if self.seen:
            return f"{len(self.labels)} images that the model was trained on, too (name others with --data)"
        return f"{len(self.labels)} images that the model was not trained on"


def read_samples(folder: Path, trained: TrainedModel, data: str | None = None) -> Samples:
    """The images that the record of the model in `folder` names; compared are those of `data`, where it is given.

    Without held-out images every other training image is compared. Raises ConfigError when there is no record or the
    images are not there any more, and what `labelled_images` raises.
    """
    try:
        record = read_record(folder)
    except StorageError as error:
        raise ConfigError(
            f"{_NEEDS}it needs the folder that 'vitadapt fit' made, with its fit.json ({error})"
        ) from error
    known, tested = record["cross_validation"], record["test"]
    train, labels = known["paths"], np.array(known["labels"])
    if not len(train):
        raise ConfigError(
            f"{_NEEDS}the record names none, for the model comes from 'vitadapt update'; export its source"
        )
    if data is not None:
        examples, _ = labelled_images(data, trained.info)
        rows = _spread(len(examples), COMPARISON)
        compared, seen, calibration = examples.take(rows), False, train
    elif record["data"]["measured_by"] in ("held-out", "given") and tested["paths"]:
        compared, calibration = _examples(tested["paths"], tested["labels"]), train
        seen = record["data"]["delivered"] != record["data"]["train"]
    else:
        compared, seen, calibration = _examples(train[1::2], labels[1::2]), True, train[::2]
    files = tuple(Path(ref.path) for ref in compared.refs if isinstance(ref, FileRef))
    some = [calibration[row] for row in _spread(len(calibration), CALIBRATION)]
    return Samples(
        _decoded(_examples(some, [0] * len(some)), trained), _decoded(compared, trained), compared.labels, seen, files
    )


def _spread(count: int, most: int) -> np.ndarray:
    """Rows of `most` of `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _examples(paths: Sequence[str], labels: Any) -> Examples:
    rows = _spread(len(paths), COMPARISON)
    return Examples(tuple(FileRef(Path(paths[row])) for row in rows), np.asarray(labels)[rows])


def _decoded(examples: Examples, trained: TrainedModel) -> Tensor:
    try:
        found = [to_pixels(ref.read(), trained.geometry, ref.name) for ref in examples.refs]
    except UnreadableImage as error:
        raise ConfigError(f"{_NEEDS}{error}; put the images of the training back where they were") from error
    if not found:
        raise DataError("there is no image to compare the exported model on; name some with --data")
    return torch.from_numpy(np.stack(found))
