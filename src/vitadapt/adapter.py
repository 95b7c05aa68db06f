"""The adapter file: what was learnt, as safetensors with metadata. Kilobytes, never code.

Tensors: `backbone.NAME` for every trainable tensor of the adapted backbone, `constant.NAME` for what its method drew
at random and does not train, `head.NAME` for the classifier head with
its feature statistics. Metadata: one entry `vitadapt`, a JSON object with format, method, backbone, image_size,
classes, base and, unless it is the usual one, head (one entry, because the order of several is left to chance and the
same run must give the same bytes).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .config import build
from .errors import WeightsError
from .head import ZERO, Classifier, Head, HeadSpec, unprojected
from .methods import METHODS
from .surgery import Method, adapt, constants, load_trainable_state, trainable_state

FORMAT = "vitadapt-adapter/1"


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter file says about itself. `base` is the digest of the backbone it was trained on."""

    method: Method
    backbone: str
    image_size: int
    classes: tuple[str, ...]
    base: str
    head: HeadSpec = ZERO


def adapter_bytes(model: Classifier, info: AdapterInfo) -> bytes:
    """The file's contents."""
    tensors = {f"backbone.{name}": t for name, t in trainable_state(model.backbone).items()}
    tensors |= {f"constant.{name}": t.detach().cpu() for name, t in constants(model.backbone).items()}
    tensors |= {f"head.{name}": t.detach().cpu().contiguous() for name, t in model.head.state_dict().items()}
    method = {"name": METHODS.name_of(info.method), **asdict(cast(Any, info.method))}
    about = {
        "format": FORMAT,
        "method": method,
        "backbone": info.backbone,
        "image_size": info.image_size,
        "classes": info.classes,
        "base": info.base,
    }
    about |= {"head": asdict(info.head)} if info.head != ZERO else {}
    metadata = {"vitadapt": json.dumps(about)}
    data: bytes = save({name: t.contiguous() for name, t in tensors.items()}, metadata)
    return data


def read_adapter(path: Path | str) -> tuple[AdapterInfo, dict[str, Tensor]]:
    """Raises WeightsError when the file is missing, damaged or not an adapter."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as an adapter ({error}); was it copied completely?") from error
    about = json.loads(metadata.get("vitadapt", "{}"))
    if about.get("format") != FORMAT:
        raise WeightsError(f"{path}: not an adapter of this format ({about.get('format')}, expected {FORMAT})")
    fields = about["method"]
    method = build(METHODS[fields.pop("name")], fields, "method")
    classes = tuple(about["classes"])
    head = build(HeadSpec, about.get("head", {}), "head")
    return AdapterInfo(method, about["backbone"], about["image_size"], classes, about["base"], head), tensors


def load_adapter(path: Path | str, backbone: nn.Module, base: str | None = None) -> Classifier:
    """`backbone` adapted with what the file holds -> a classifier in eval mode.

    `base` is the digest of `backbone`; when given it must be the one the adapter was trained on. Raises WeightsError.
    """
    info, tensors = read_adapter(path)
    if base is not None and base != info.base:
        raise WeightsError(f"{path}: was trained on {info.backbone} ({info.base}), and this backbone is {base}")
    if info.head.projection == "merged":
        backbone, _ = unprojected(backbone)
    adapted = adapt(backbone, info.method)
    load_trainable_state(adapted, _part(tensors, "backbone."))
    kept = _part(tensors, "constant.")
    for name, constant in constants(adapted).items():
        if name not in kept:
            raise WeightsError(f"{path}: lacks {name}, which {info.method} needs; was it copied completely?")
        constant.copy_(kept[name])
    head = Head(tensors["head.linear.weight"].shape[1], len(info.classes), info.head, pretrained=1.0)
    try:
        head.load_state_dict(_part(tensors, "head."))
    except RuntimeError as error:
        raise WeightsError(f"{path}: its head does not fit its {len(info.classes)} classes") from error
    return Classifier(adapted, head).to(next(backbone.parameters()).device).eval()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
