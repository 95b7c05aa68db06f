"""Where models can be exported to: one entry per target, and the one way through all of them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..files import storage_error
from ..registry import Registry
from ..vit import Preprocess
from .certificate import Certificate, Run, certify
from .shipment import Shipment


@dataclass(frozen=True)
class Target:
    """A format of another program: how it is written, and how that program itself opens and runs what was written.

    packages: the distributions that run it, named in the certificate.
    """

    title: str
    packages: tuple[str, ...]
    write: Callable[[Shipment, Path], None]
    reopen: Callable[[Path, Shipment], Run]


TARGETS: Registry[Target] = Registry("export target")


def export(shipment: Shipment, to: str, folder: Path | str) -> Certificate:
    """Write the model for `to` into the new `folder`, all or nothing, and certify it.

    Raises UnknownName, ConfigError when `folder` is in use, NotApplicable and NotMergeable when the target cannot hold
    the model, WeightsError when its library is missing or computes something else, and StorageError.
    """
    from . import graphs, hugging_face, open_clip, peft_lora, timm  # noqa: F401 - each registers its target

    target, folder = TARGETS[to], Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is in use already; choose another folder with -o, or empty it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise storage_error(folder, error) from error
    try:
        target.write(shipment, temporary)
        write_json(temporary / "labels.json", list(shipment.info.classes))
        certificate = certify(to, target.packages, shipment, target.reopen(temporary, shipment), temporary)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except OSError as error:
        raise storage_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return certificate


def write_json(path: Path, content: Any) -> None:
    """One JSON value, readable by people too."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def normaliser(preprocess: Preprocess | Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """uint8 images (B, 3, S, S) -> what a library's own image processor gives a model of this mean and std."""
    known = preprocess if isinstance(preprocess, Mapping) else {"mean": preprocess.mean, "std": preprocess.std}
    mean, std = (torch.tensor(known[name], dtype=torch.float32).view(3, 1, 1) for name in ("mean", "std"))
    return lambda images: (images.float() / 255 - mean) / std
