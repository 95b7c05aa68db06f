"""Where models can be exported to: one entry per target, and the one way through all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...nn.vit import Preprocess
from ...utils.registry import Registry
from .certificate import Run
from .deployed import TrainedModel


@dataclass(frozen=True)
class Target:
    """A format of another program: how it is written, and how that program itself opens and runs what was written.

    packages: the distributions that run it, named in the certificate.
    """

    title: str
    packages: tuple[str, ...]
    write: Callable[[TrainedModel, Path], None]
    reopen: Callable[[Path, TrainedModel], Run]


TARGETS: Registry[Target] = Registry("export target")


def write_json(path: Path, content: Any) -> None:
    """One JSON value, readable by people too."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def normaliser(preprocess: Preprocess | Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """uint8 images (B, 3, S, S) -> what a library's own image processor gives a model of this mean and std."""
    known = preprocess if isinstance(preprocess, Mapping) else {"mean": preprocess.mean, "std": preprocess.std}
    mean, std = (torch.tensor(known[name], dtype=torch.float32).view(3, 1, 1) for name in ("mean", "std"))
    return lambda images: (images.float() / 255 - mean) / std
