"""Decoded images and labels for the training loops of other programs: a data loader of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import Examples
from ..data.pixels.pixels import Pixels
from ..nn.backbone import Backbone
from .features import Environment, pixels_of

Batch = tuple[Tensor, Tensor]  # uint8 (B, 3, S, S); class numbers (B,) or 0 and 1 (B, C)


class _Rows(Dataset[Batch]):
    """Images with their labels; a batch of rows is fetched at once."""

    def __init__(self, pixels: Pixels, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> Batch:
        images, labels = self.__getitems__([row])
        return images[0], labels[0]

    def __getitems__(self, rows: list[int]) -> Batch:
        index = torch.tensor(rows)
        return self.pixels.gather(index), self.labels[index]


def make_loader(
    examples: Examples, backbone: Backbone, batch_size: int = 32, shuffle: bool = False, seed: int = 0, **options: Any
) -> DataLoader[Batch]:
    """Batches of (images, labels) as `backbone` wants them: uint8 (B, 3, S, S), which it scales itself, and (B,) or
    (B, C).

    seed: of the order, with `shuffle`. options: `cache`, a folder in which decoded images are kept (without one they
    are decoded when they are asked for), and those of torch's DataLoader. Raises DataError for images that cannot be
    read, with a cache at once.
    """
    cache = options.pop("cache", None)
    pixels = pixels_of(examples, backbone, Environment(cache=None if cache is None else Path(cache)))
    rows = _Rows(pixels, torch.from_numpy(examples.labels))
    order = torch.Generator().manual_seed(seed)
    return DataLoader(rows, batch_size, shuffle, generator=order, collate_fn=_whole, **options)


def _whole(batch: Any) -> Any:
    """It is one already."""
    return batch
