"""Where models can be exported to: one entry per target, and the one way through all of them."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..drafts import draft_folder, make_folder
from ..errors import ConfigError, StorageError
from ..files import sha256_of, storage_error
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
SUMS = "SHA256SUMS"


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
        make_folder(folder.parent)
        with draft_folder(folder) as new:
            target.write(shipment, new)
            write_json(new / "labels.json", list(shipment.info.classes))
            certificate = certify(to, target.packages, shipment, target.reopen(new, shipment), new)
            _write_sums(new)
    except (OSError, SafetensorError) as error:
        raise _refusal(folder, error) from error
    return certificate


def _write_sums(folder: Path) -> None:
    """SHA256SUMS of all files in `folder`, as `sha256sum --check SHA256SUMS` reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), "utf-8")


def _refusal(folder: Path, error: OSError | SafetensorError) -> StorageError:
    """safetensors reports a full disk in words of its own."""
    if isinstance(error, OSError):
        return storage_error(folder, error)
    full = "No space left" in str(error) or "StorageFull" in str(error)
    return storage_error(folder, OSError(errno.ENOSPC if full else errno.EIO, str(error)))


def write_json(path: Path, content: Any) -> None:
    """One JSON value, readable by people too."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def normaliser(preprocess: Preprocess | Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """uint8 images (B, 3, S, S) -> what a library's own image processor gives a model of this mean and std."""
    known = preprocess if isinstance(preprocess, Mapping) else {"mean": preprocess.mean, "std": preprocess.std}
    mean, std = (torch.tensor(known[name], dtype=torch.float32).view(3, 1, 1) for name in ("mean", "std"))
    return lambda images: (images.float() / 255 - mean) / std
