"""Checks of adapter files: of what they say, before anything is built from it, and of what was built."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..nn.backbone import Backbone, digest_of
from ..nn.head import Classifier
from ..nn.surgery import HALF, trainable
from ..nn.vit import ViT
from ..utils.errors import WeightsError
from ..utils.limits import ADAPTER_FILE, IMAGE_SIDE, METHOD_SIZE, MIB

_TEXTS = ("backbone", "base", "activation", "licence", "base_licence")
_LISTS = ("classes", "names", "templates")
_TABLES = ("preprocess", "training")
TOLERANCE = 0.01  # of the self-test: this part of the largest expected logit, and of 1 at least
HALF_TOLERANCE = 0.1  # where one of both networks is in half precision
_PICTURE = 8  # pixels of a side of the pictures of the self-test
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
    for method in getattr(info.method, "methods", (info.method,)):
        for name, value in asdict(cast(Any, method)).items():
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


def pictures_of_the_test() -> Tensor:
    """The two small pictures of the self-test, uint8 (2, 8, 8, 3): a fixed pattern without any period."""
    return torch.arange(2 * _PICTURE * _PICTURE * 3).mul(131).remainder(251).to(torch.uint8).view(2, 8, 8, 3)


def enlarged(pictures: Tensor, size: int, channels: int = 3) -> Tensor:
    """Pictures (N, h, w, 3) -> (N, K, S, S): pixel i of a side is that of number floor(i h / S), so nothing rounds;
    channel k is colour k modulo 3.
    """
    rows, columns = (torch.arange(size) * side // size for side in pictures.shape[1:3])
    colours = pictures.permute(0, 3, 1, 2)[:, torch.arange(channels) % 3]
    return colours[:, :, rows][:, :, :, columns].contiguous()


@torch.no_grad()
def logits_of(model: Classifier, pictures: Tensor) -> Tensor:
    """Logits (N, C) in fp32 of small pictures (N, h, w, 3)."""
    was, _ = model.training, model.eval()
    device = next(model.parameters()).device
    images = enlarged(pictures, model.backbone.image_size, model.backbone.preprocess.channels)
    logits: Tensor = model(images.to(device)).float()
    model.train(was)
    return logits


@torch.no_grad()
def require_change(model: Classifier, backbone: Backbone) -> None:
    """Raises WeightsError when the adapted backbone does what the plain one does, or a bare head answers one thing."""
    nothing = WeightsError("changes nothing: what it holds leaves every output as it was; train it, and save it again")
    if trainable(model.backbone):
        size, device = backbone.image_size, next(backbone.parameters()).device
        images = enlarged(pictures_of_the_test(), size, backbone.preprocess.channels).to(device)
        if torch.equal(model.backbone(images), backbone(images)):
            raise nothing
    elif not model.head.linear.weight.any():
        raise nothing


def is_copy(backbone: Backbone, digest: str) -> bool:
    """Is `digest` that of the same network in the copy of another library, as far as images of its own size tell?

    Libraries differ in how they resample the positions to other sizes, and in whether the class token beside registers
    has a position of its own or is the sum of both.
    """
    if not isinstance(backbone, ViT) or backbone.config.position_grid:
        return False
    config, state = backbone.config, backbone.state_dict()
    spellings = [(config, state)]
    if config.registers and config.class_position and "position" in state:
        first, patches = state["position"][0], state["position"][1:]
        summed = {**state, "class_token": state["class_token"] + first, "position": patches}
        spellings.append((replace(config, class_position=False), summed))
    return any(
        digest_of(replace(known, antialias=antialias, resampling=how), tensors) == digest
        for known, tensors in spellings
        for antialias in (False, True)
        for how in ("bicubic", "bilinear")
    )


def require_self_test(model: Classifier, stored: Mapping[str, Tensor]) -> None:
    """Raises WeightsError unless the logits of the stored pictures are those from when the file was saved."""
    if stored.keys() != {"images", "logits"}:
        raise WeightsError("lacks its self-test; was it copied completely?")
    expected = stored["logits"]
    found = logits_of(model, stored["images"]).cpu()
    if found.shape != expected.shape:
        raise WeightsError(f"its self-test is of {expected.shape[-1]} classes, and it has {found.shape[-1]}")
    most = float((found - expected).abs().max())
    rounded = is_half(model.backbone) or expected.dtype in HALF
    limit = HALF_TOLERANCE if rounded else TOLERANCE
    if not most <= limit * max(1.0, float(expected.abs().max())):
        raise WeightsError(
            f"fails its self-test: its answers differ by {most:.3g} from those when it was saved; "
            "the file is damaged or was made for other software"
        )


def is_half(backbone: nn.Module) -> bool:
    return next(backbone.parameters()).dtype in HALF
