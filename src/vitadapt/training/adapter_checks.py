"""Is what an adapter file says of itself possible? Asked before anything is built from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..utils.errors import WeightsError
from ..utils.limits import ADAPTER_FILE, IMAGE_SIDE, METHOD_SIZE, MIB

_TEXTS = ("backbone", "base", "activation", "licence", "base_licence")
_LISTS = ("classes", "names", "templates")
_TABLES = ("preprocess", "training")
_PICTURES = 1 << 20  # numbers in the pictures of the self-test


class Unsound(WeightsError):
    """What an adapter file says cannot be."""


def check_file(path: Path | str) -> None:
    """Raises OSError when there is no such regular file, or it is larger than any adapter."""
    if not os.path.isfile(path):
        raise FileNotFoundError("no such file")
    if (size := os.stat(path).st_size) > ADAPTER_FILE:
        raise OSError(f"{size // MIB} MiB, more than any adapter has")


def check_all(path: Path | str, info: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raises WeightsError naming the file for everything that `check_info` and `check_tensors` refuse."""
    try:
        check_info(info)
        check_tensors(info, tensors)
    except Unsound as error:
        raise WeightsError(f"{path}: {error}; the file is damaged, make it again") from error


def check_info(info: Any) -> None:
    """Raises Unsound for an `AdapterInfo` with a field of another kind, or a number that nothing can be built of."""
    for name in _TEXTS:
        _require(isinstance(getattr(info, name), str), name)
    for name in _LISTS:
        _require(all(isinstance(text, str) for text in getattr(info, name)), name)
    for name in _TABLES:
        _require(isinstance(getattr(info, name), Mapping), name)
    _require(bool(info.classes), "classes")
    _require(isinstance(info.squash, bool), "squash")
    _require(type(info.image_size) is int and 1 <= info.image_size <= IMAGE_SIDE, "image_size")
    _require(not info.backbone.startswith("url:"), "backbone (a file must not make this machine ask an address)")
    for name, value in asdict(cast(Any, info.method)).items():
        _require(not isinstance(value, int) or abs(value) <= METHOD_SIZE, f"method's {name}")


def check_tensors(info: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raises Unsound for numbers that are none, and for shapes that do not fit what the file says of itself."""
    for name, tensor in tensors.items():
        _require(bool(torch.isfinite(tensor).all()), f"{name}, which holds NaN or infinite values")
    weight = tensors.get("head.linear.weight")
    _require(weight is None or len(weight.shape) == 2, "head")
    count = len(info.classes)
    _require(weight is None or len(weight) == count, f"head, which does not fit its {count} classes")
    pictures = tensors.get("test.images")
    _require(pictures is None or (pictures.ndim == 4 and pictures.numel() <= _PICTURES), "test.images")
    _require(pictures is None or pictures.shape[-1] == 3, "test.images")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Unsound(f"impossible {what}")
