"""A model folder in memory: the classifier, what its file says of itself, and answers about any images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..data import Examples, Geometry, open_pixels
from ..data.examples import ImageRef
from ..data.readers.arrays import to_refs
from ..methods.spec import method_text
from ..nn.backbone import Backbone
from ..nn.head import Classifier
from ..nn.setting import Progress, Setting
from ..nn.surgery import Method
from ..training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes, load_adapter, read_adapter
from ..training.features import cached_backbone
from ..training.loop import forward_all
from ..utils.errors import ConfigError, WeightsError
from ..utils.files import write_atomic

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """A trained classifier, ready to be asked. `path` is its adapter file."""

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
        return geometry_of(self.classifier.backbone, self.info)

    def with_progress(self, progress: Progress | None) -> Model:
        """The same model, which reports how far it is."""
        return replace(self, setting=replace(self.setting, progress=progress))

    def predict_proba(self, images: Any) -> Floats:
        """(N, C) probabilities of paths, PIL images, uint8 arrays (N, H, W, 3) or tensors (N, 3, H, W).

        Raises DataError naming what is not an image.
        """
        return self.predict_refs(image_refs(images, "images"))

    def predict_refs(self, refs: Sequence[ImageRef], cache: Path | None = None) -> Floats:
        """(N, C) probabilities of undecoded images. Raises DataError naming all that cannot be read."""
        if not len(refs):
            return np.zeros((0, len(self.classes)), dtype=np.float32)
        examples = Examples(tuple(refs), np.zeros(len(refs), dtype=np.int64))
        pixels = open_pixels(examples, self.geometry, cache)
        logits = forward_all(self.classifier, pixels, self.setting, "predict")
        return probabilities_of(logits)


def geometry_of(backbone: Backbone, info: AdapterInfo) -> Geometry:
    """How images become squares for an adapter on `backbone`."""
    return Geometry(info.image_size, backbone.preprocess.resize, info.squash)


def probabilities_of(logits: Tensor) -> Floats:
    """Logits (N, C) in fp32 on the CPU -> probabilities (N, C)."""
    probabilities: Floats = logits.softmax(dim=1).numpy()
    return probabilities


def image_refs(images: Any, name: str) -> Sequence[ImageRef]:
    """One reference per image, in whatever form they come; a table's column of paths is one, too. Raises DataError."""
    if hasattr(images, "__array__") and not hasattr(images, "detach"):
        array = np.asarray(images)
        if array.dtype.kind in "OUS" and array.size == len(array):  # (N,) or (N, 1)
            images = [str(one) if isinstance(one, str) else one for one in array.ravel().tolist()]
    return to_refs(images, name)


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
        draft = Path(folder, ADAPTER)
        draft.write_bytes(data)
        try:
            load_adapter(draft, plain, base)
        except WeightsError as error:
            why = str(error).removeprefix(f"{draft}: ")
            raise ConfigError(f"this model cannot be saved as {method_text(method)} on {backbone}: {why}") from error
    target = Path(path) if Path(path).suffix == Path(ADAPTER).suffix else Path(path, ADAPTER)
    write_atomic(target, data)
    return target


def load_model(folder: Path | str, device: str = "cpu", setting: Setting | None = None) -> Model:
    """The model in `folder` (made by `vitadapt fit`), or in an adapter file, with its backbone.

    Raises WeightsError when there is none, or it does not fit its backbone, and what `load_backbone` raises.
    """
    path = Path(folder)
    path = path / ADAPTER if path.is_dir() else path
    if not path.is_file():
        raise WeightsError(
            f"{folder}: no model there (no {ADAPTER}); make one with 'vitadapt fit PHOTOS --out {folder}'"
        )
    info, _ = read_adapter(path)
    backbone, base = cached_backbone(info.backbone, info.image_size, device)
    classifier = load_adapter(path, backbone, base)
    return Model(classifier, info, path, replace(setting or Setting(), device=device))
