"""A model folder in memory: the classifier, the information in its file, and predictions for any images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from ..data import Examples, Geometry, open_pixels
from ..data.examples import ImageRef
from ..data.pixels.pixels import Pixels
from ..data.readers.arrays import to_refs
from ..methods.spec import method_text
from ..nn.head import Classifier
from ..nn.novelty import Novelty
from ..nn.setting import Setting
from ..nn.surgery import Method, trainable
from ..training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes, load_adapter, read_adapter
from ..training.features import cached_backbone, geometry_of
from ..training.loop import forward_all
from ..training.loop import probabilities_of as class_probabilities
from ..training.recipe import recipe_for
from ..training.task import Task, Trained
from ..utils.errors import ConfigError, DataError, WeightsError
from ..utils.files import write_atomic
from ..weights.sources import split_query

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """A trained classifier, ready to predict. `path` is its adapter file."""

    classifier: Classifier
    info: AdapterInfo
    path: Path
    setting: Setting

    @property
    def classes(self) -> tuple[str, ...]:
        return self.info.classes

    @property
    def geometry(self) -> Geometry:
        """How images become squares."""
        return geometry_of(self.classifier.backbone, self.info.squash)

    @property
    def novelty(self) -> Novelty | None:
        """What tells images that are unlike the training images, if the model has it."""
        return self.classifier.novelty

    def predict_proba(self, images: Any) -> Floats:
        """(N, C) probabilities of paths, PIL images, uint8 arrays (N, H, W, 3) or tensors (N, 3, H, W).

        One path, PIL image or array (H, W, 3) counts as N = 1. Raises DataError naming what is not an image.
        """
        return self.predict_refs(image_refs(images, "images"))

    def predict_refs(self, refs: Sequence[ImageRef], cache: Path | None = None) -> Floats:
        """(N, C) probabilities of undecoded images. Raises DataError naming all that cannot be read."""
        return self.scores(self.pixels(refs, cache))[0]

    def pixels(self, refs: Sequence[ImageRef], cache: Path | None = None) -> Pixels:
        """Undecoded images as the model sees them. Raises DataError naming all that cannot be read."""
        examples = Examples(tuple(refs), np.zeros(len(refs), dtype=np.int64))
        return open_pixels(examples, self.geometry, cache)

    def predict_pixels(self, images: Pixels) -> Floats:
        """(N, C) probabilities of decoded images."""
        return self.scores(images)[0]

    def scores(self, images: Pixels) -> tuple[Floats, Floats | None]:
        """(N, C) probabilities of decoded images, and (N,) their novelty where the model has it."""
        known = self.novelty is not None
        if not len(images):
            none = np.zeros(0, dtype=np.float32)
            return np.zeros((0, len(self.classes)), dtype=np.float32), none if known else None
        found = forward_all(LogitsAndNovelty(self.classifier), images, self.setting, "predict")
        if not known:
            return probabilities_of(found, self.info), None
        return probabilities_of(found[:, :-1], self.info), found[:, -1].numpy()


class LogitsAndNovelty(nn.Module):
    """Images (B, 3, S, S) -> logits (B, C), with the novelty as one more column where the classifier has it."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        features, novelty = self.classifier.backbone(images), self.classifier.novelty
        logits = cast(Tensor, self.classifier.head(features))
        return logits if novelty is None else torch.cat([logits, novelty(features).unsqueeze(1)], dim=1)


def probabilities_of(logits: Tensor, info: AdapterInfo) -> Floats:
    """Logits (N, C) in fp32 on the CPU -> probabilities (N, C): of each class on its own where there are thresholds."""
    probabilities: Floats = class_probabilities(logits, bool(info.thresholds)).numpy()
    return probabilities


def image_refs(images: Any, name: str) -> Sequence[ImageRef]:
    """One reference per image: of a sequence, an array, a tensor, a table's column of paths, or of one single image.

    Raises DataError for what is not an image, and for a tensor (3, H, W): one colour image, or three grey ones?
    """
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return to_refs([images], name)
    if hasattr(images, "detach"):
        if images.ndim == 3 and images.shape[0] == 3:
            raise DataError(
                f"{name} has the shape {tuple(images.shape)}: for one colour image give {name}[None], "
                f"for three grey images {name}[:, None]"
            )
        if images.ndim == 3 and images.shape[2] in (3, 4):  # one image (H, W, 3 | 4)
            images = np.asarray(images.detach().cpu())[None]
    elif hasattr(images, "__array__"):
        array = np.asarray(images)
        if array.dtype.kind in "OUS" and array.size == len(array):  # (N,) or (N, 1)
            images = [str(one) if isinstance(one, str) else one for one in array.ravel().tolist()]
        elif array.ndim == 3 and array.shape[2] in (3, 4):  # one image (H, W, 3 | 4)
            images = array[None]
    return to_refs(images, name)


def training_summary(task: Task, trained: Trained, **more: Any) -> dict[str, Any]:
    """What an adapter file says about its training. lr: of what was trained, so the head's if only the head was."""
    chosen = dict(trained.chosen)
    if chosen and not trainable(trained.model.backbone):
        chosen["lr"] = task.recipe.head_lr
    summary = {"images": len(task.labels), **more, "seed": task.config.seed, **chosen}
    if task.labels.ndim == 1:  # of each class, so that another prior can be chosen later
        summary["shares"] = (torch.bincount(task.labels, minlength=task.classes) / len(task.labels)).tolist()
    usual = task.recipe == recipe_for("fixed", task.config.method)
    return summary if usual else {**summary, "recipe": asdict(task.recipe)}


def save_adapter(
    path: Path | str, model: Classifier, method: Method, backbone: str, classes: Sequence[str] | None = None
) -> Path:
    """Write the adapter file of a classifier that you trained yourself -> its path.

    To `path` if it ends in .safetensors, else into that folder. `method` is what the backbone was adapted with, and
    `backbone` what `load_backbone` was given; `classes` are called 0, 1, ... where they are not named. The file is read
    back before it gets its name. Raises ConfigError when the model is not made of these, WeightsError when the backbone
    cannot be had, and StorageError.
    """
    side = model.backbone.image_size
    plain, base = cached_backbone(backbone, side, "cpu")
    count = model.head.linear.out_features
    names = tuple(str(i) for i in range(count)) if classes is None else tuple(classes)
    if len(set(names)) != count or len(names) != count:
        raise ConfigError(f"{len(set(names))} different class names for a head of {count} classes")
    data = adapter_bytes(model, AdapterInfo(method, backbone, side, names, base, model.head.spec))
    with TemporaryDirectory(prefix="vitadapt-") as folder:
        trial = Path(folder, ADAPTER)
        trial.write_bytes(data)
        try:
            load_adapter(trial, plain, base)
        except WeightsError as error:
            reason = error.__cause__ or error  # the error without the name of the temporary file
            raise ConfigError(f"this model cannot be saved as {method_text(method)} on {backbone}: {reason}") from error
    target = Path(path) if Path(path).suffix == Path(ADAPTER).suffix else Path(path, ADAPTER)
    write_atomic(target, data)
    return target


def load_model(
    folder: Path | str, device: str = "cpu", setting: Setting | None = None, backbone: str | None = None
) -> Model:
    """The model in `folder` (made by `vitadapt fit`), or in an adapter file, with its backbone.

    backbone: where its backbone is now, e.g. "file:/new/place/vit.safetensors"; it must hold the same weights.
    Raises WeightsError when there is no model or it does not fit its backbone, and what `load_backbone` raises.
    """
    path = Path(folder)
    path = path / ADAPTER if path.is_dir() else path
    if not path.is_file():
        raise WeightsError(
            f"{folder}: no model there (no {ADAPTER}); make one with 'vitadapt fit PHOTOS --out {folder}'"
        )
    info, _ = read_adapter(path)
    info = replace(info, backbone=backbone or find_backbone(info.backbone, path))
    network, base = cached_backbone(info.backbone, info.image_size, device)
    classifier = load_adapter(path, network, base)
    return Model(classifier, info, path, replace(setting or Setting(), device=device))


def find_backbone(name: str, adapter: Path) -> str:
    """`name`; if it is file:PATH and PATH does not exist, the file of that name in or beside the folder of `adapter`.

    Raises WeightsError when there is none either.
    """
    scheme, _, rest = name.partition(":")
    if scheme != "file":
        return name
    path, query = split_query(rest)
    folder = adapter.resolve().parent
    below = Path(path.name) if path.is_absolute() else path
    for place in (path, folder / below, folder.parent / below):
        if place.exists():
            return f"file:{place}" + (f"?{query}" if query else "")
    raise WeightsError(
        f"{adapter}: its backbone {path} is not there any more; name its new place with --backbone file:PATH "
        "(in Python: load_model(..., backbone=...))"
    )


def absolute_backbone(name: str) -> str:
    """`name`, a file:PATH with its whole path: it is found from every folder."""
    scheme, _, rest = name.partition(":")
    if scheme != "file":
        return name
    path, query = split_query(rest)
    return f"file:{path.resolve()}" + (f"?{query}" if query else "")
