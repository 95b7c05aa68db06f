"""The adapter file: what was learnt, as safetensors with metadata. Kilobytes, never code. docs/adapter-format.md.

Tensors: `backbone.NAME` for every trainable tensor of the adapted backbone, `constant.NAME` for what its method drew
at random and does not train, `text.NAME` and `text-constant.NAME` for the same of a text tower, `head.NAME` for the
classifier head with its feature statistics, `novelty.NAME` for how unlike the training images an image is,
`test.images` and `test.logits` for the self-test. Metadata: one entry
`vitadapt`, a JSON object of the fields of `AdapterInfo` (one entry, because the order of several is left to chance and
the same run must give the same bytes), and `checksum` of all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from ..data.images import VERSION
from ..methods.spec import method_of, plain_method
from ..nn.backbone import Backbone, backbone_digest
from ..nn.head import Classifier, Head, backbone_of
from ..nn.head_spec import ZERO, HeadSpec, plain_head
from ..nn.novelty import Novelty
from ..nn.surgery import Method, adapt, constants, learnt_state, load_trainable_state, trainable
from ..utils.errors import ConfigError, UnknownName, VitadaptError, WeightsError, damaged
from ..utils.fields import build
from ..utils.files import parse_json
from .adapter_checks import (
    check_all,
    check_file,
    is_copy,
    is_half,
    logits_of,
    pictures_of_the_test,
    require_change,
    require_self_test,
)

if TYPE_CHECKING:
    from ..text import TextTower

FORMAT = "vitadapt-adapter/4"
FORMATS = ("vitadapt-adapter/1", "vitadapt-adapter/2", "vitadapt-adapter/3", FORMAT)
_NO_SELF_TEST, _NO_CHECKSUM = FORMATS[:1], FORMATS[:2]
_PARTS = ("backbone", "constant", "text", "text-constant", "head", "novelty", "test")


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter file says about itself.

    base: digest of the backbone that it was trained on, all of whose weights its outputs depend on.
    squash, and what `adapter_bytes` adds: activation and preprocess (how images became numbers), must be the same when
    it is used. names and templates: what the head was made of, if of words; without a stored head it is made again.
    thresholds: of a model of several labels per image, the probability from which each class counts as present.
    training: a summary, plain JSON values. licence: of this file; base_licence: of the backbone's weights.
    """

    method: Method
    backbone: str
    image_size: int
    classes: tuple[str, ...]
    base: str
    head: HeadSpec = ZERO
    squash: bool = False
    activation: str = ""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    base_licence: str = ""
    format: str = FORMAT


def adapter_bytes(model: Classifier, info: AdapterInfo, with_head: bool = True) -> bytes:
    """The file's contents. Without the head it must have been made of words and not been trained.

    Raises ConfigError when a head that is left out could not be made again.
    """
    tensors = {f"backbone.{name}": t for name, t in learnt_state(model.backbone).items()}
    tensors |= {f"constant.{name}": t.detach().cpu() for name, t in constants(model.backbone).items()}
    if model.head.texts is not None:
        network = model.head.texts.network
        tensors |= {f"text.{name}": t for name, t in learnt_state(network).items()}
        tensors |= {f"text-constant.{name}": t.detach().cpu() for name, t in constants(network).items()}
    if with_head:
        tensors |= {f"head.{name}": t.cpu() for name, t in model.head.own_state().items()}
    elif not (info.names and info.templates) or trainable(model.head):
        raise ConfigError("a head can be left out only when it was made of class names and templates, and not trained")
    if model.novelty is not None:
        tensors |= {f"novelty.{name}": t.detach().cpu() for name, t in model.novelty.state_dict().items()}
    pictures = pictures_of_the_test()
    logits = logits_of(model, pictures).cpu()  # their type tells the precision of the network that gave them
    tensors |= {"test.images": pictures, "test.logits": logits.to(next(model.backbone.parameters()).dtype)}
    info = replace(info, **facts_of(model.backbone, info), format=FORMAT)
    about = _plain(info)
    metadata = {"vitadapt": json.dumps({**about, "checksum": checksum_of(about, tensors)})}
    data: bytes = save({name: t.contiguous() for name, t in tensors.items()}, metadata)
    return data


def checksum_of(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b of all that a file says: its metadata, and name, type, shape and bytes of every tensor."""
    state = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        state.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def facts_of(backbone: Backbone, info: AdapterInfo) -> dict[str, Any]:
    """What must be the same where the adapter is used: the activation, and the way from an image to numbers."""
    preprocess = {
        **backbone.preprocess.settings(),
        "image_size": info.image_size,
        "squash": info.squash,
        "pixels": VERSION,
    }
    return {"activation": getattr(backbone.config, "activation", ""), "preprocess": json.loads(json.dumps(preprocess))}


def _plain(info: AdapterInfo) -> dict[str, Any]:
    """As JSON values; what is at its default is left out."""
    required = {
        "format": info.format,
        "method": plain_method(info.method),
        "backbone": info.backbone,
        "image_size": info.image_size,
    }
    required |= {"classes": info.classes, "base": info.base}
    rest = {name: getattr(info, name) for name in _OPTIONAL if getattr(info, name)}
    return {**required, **({"head": plain_head(info.head)} if info.head != ZERO else {}), **rest}


_LISTS = ("names", "templates", "thresholds")
_OPTIONAL = ("squash", "activation", "preprocess", *_LISTS, "training", "licence", "base_licence")


def read_adapter(path: Path | str, data: bytes | None = None) -> tuple[AdapterInfo, dict[str, Tensor]]:
    """What the file at `path` holds. `data` is its content, for a caller that has read it already.

    Raises WeightsError when the file is missing, damaged, not an adapter, or of a newer format.
    """
    with damaged(path, "copy it again, completely", WeightsError, "cannot be read as an adapter"):
        if data is None:
            check_file(path)
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        else:
            tensors = load(data)  # checks the header
            header = data[8 : 8 + int.from_bytes(data[:8], "little")]
            metadata = json.loads(header).get("__metadata__", {})
    with damaged(path, "make or copy it again", WeightsError, "has damaged metadata"):
        about = parse_json(metadata.get("vitadapt", "{}"))
        if about.get("format") not in FORMATS:
            known = " or ".join(FORMATS)
            raise WeightsError(f"{path}: not an adapter of this format ({about.get('format')}, expected {known})")
        if not _is_whole(about, tensors):
            raise WeightsError(f"{path}: damaged (its checksum does not match); copy or make it again")
        try:
            info = _info(about)
            check_all(path, info, tensors)
        except (ConfigError, UnknownName) as error:
            raise WeightsError(f"{path}: {error}; a newer vitadapt may know it") from error
    return info, tensors


def _is_whole(about: dict[str, Any], tensors: dict[str, Tensor]) -> bool:
    """Older formats have no checksum; one that is there must be right whatever the format says: that may be damaged."""
    if "checksum" not in about:
        return about["format"] in _NO_CHECKSUM
    rest = {name: value for name, value in about.items() if name != "checksum"}
    return checksum_of(rest, tensors) == str(about["checksum"])


def _info(about: dict[str, Any]) -> AdapterInfo:
    method = method_of(about["method"])
    rest = {name: about[name] for name in _OPTIONAL if name in about}
    rest |= {name: tuple(rest[name]) for name in _LISTS if name in rest}
    head = build(HeadSpec, about.get("head", {}), "head")
    required = (method, about["backbone"], about["image_size"], tuple(about["classes"]), about["base"], head)
    if not all(isinstance(about.get(name, []), list) for name in ("classes", *_LISTS)):
        raise ValueError("a text where a list was expected")
    if rest.get("thresholds") and len(rest["thresholds"]) != len(about["classes"]):
        raise ValueError(f"{len(rest['thresholds'])} thresholds for {len(about['classes'])} classes")
    return AdapterInfo(*required, **rest, format=about["format"])


def load_adapter(
    path: Path | str, backbone: Backbone, base: str | None = None, data: bytes | None = None
) -> Classifier:
    """`backbone` adapted with what the file holds -> a classifier in eval mode.

    `base` is the digest of `backbone` and `data` the content of the file, if they are known already. Raises
    WeightsError for another backbone, activation or preprocessing than it was trained with, missing or unexpected
    tensors, an adapter that changes nothing, and a self-test whose answers are not the stored ones.
    """
    info, tensors = read_adapter(path, data)
    with damaged(path, "make it again", WeightsError, "holds what does not fit its method"):
        try:
            _check_base(info, backbone, base)
            return _assembled(info, tensors, backbone)
        except VitadaptError as error:
            raise WeightsError(f"{path}: {error}") from error


def _check_base(info: AdapterInfo, backbone: Backbone, base: str | None) -> None:
    facts = facts_of(backbone, info)
    if info.activation and info.activation != facts["activation"]:
        raise WeightsError(
            f"was trained with the activation {info.activation}, and this backbone computes {facts['activation']}; "
            f"load {info.backbone}"
        )
    size = backbone.image_size
    if size != info.image_size:
        raise WeightsError(f"was trained on images of {info.image_size} pixels; load the backbone with that image_size")
    for name, value in facts["preprocess"].items():
        if info.preprocess and info.preprocess.get(name) != value:
            was = info.preprocess.get(name)
            raise WeightsError(f"was trained with the preprocessing {name}={was}, and here it is {value}")
    if is_half(backbone) and info.format not in _NO_SELF_TEST:
        return  # rounded weights have another digest; the self-test tells whether they are the same network's
    own = base or backbone_digest(backbone)
    if own != info.base and not is_copy(backbone, info.base):
        raise WeightsError(
            f"was trained on {info.backbone} (digest {info.base}), and this backbone is another ({own}); load that one"
        )


def _assembled(info: AdapterInfo, tensors: dict[str, Tensor], backbone: Backbone) -> Classifier:
    strange = sorted(name for name in tensors if name.partition(".")[0] not in _PARTS)
    if strange:
        raise WeightsError(f"has unexpected tensors {', '.join(strange[:3])}; was it made by something else?")
    backbone = backbone_of(backbone, info.head)
    adapted = adapt(backbone, info.method)
    load_trainable_state(adapted, _part(tensors, "backbone."))
    _load_constants(adapted, _part(tensors, "constant."), info)
    head = _head(info, _part(tensors, "head."), backbone)
    novelty = _novelty(_part(tensors, "novelty."), head.linear.in_features)
    model = Classifier(adapted, head, novelty).to(next(backbone.parameters()).device).eval()
    require_change(model, backbone)
    if info.format not in _NO_SELF_TEST:
        require_self_test(model, _part(tensors, "test."))
    return model


def adapted_text_tower(path: Path | str, backbone: Backbone, tower: TextTower | None = None) -> TextTower:
    """The text tower as the method of the file at `path` changed it, for the names of new classes.

    backbone: the plain image tower that the file was trained on. tower: the plain text tower beside it, if it is known
    already. Raises WeightsError for tensors that do not fit, and what `load_text_tower` raises.
    """
    from ..text import load_text_tower

    info, tensors = read_adapter(path)
    with damaged(path, "make it again", WeightsError, "holds what does not fit its method"):
        try:
            _check_base(info, backbone, None)
            return _adapted_tower(info, tensors, tower or load_text_tower(info.backbone, backbone))
        except VitadaptError as error:
            raise type(error)(f"{path}: {error}") from error


def _adapted_tower(info: AdapterInfo, tensors: dict[str, Tensor], tower: TextTower) -> TextTower:
    network = adapt(tower.network, info.method)
    load_trainable_state(network, _part(tensors, "text."))
    _load_constants(network, _part(tensors, "text-constant."), info)
    return tower.of(network)


def _load_constants(adapted: nn.Module, stored: dict[str, Tensor], info: AdapterInfo) -> None:
    own = constants(adapted)
    for name, constant in own.items():
        if name not in stored or stored[name].shape != constant.shape:
            raise WeightsError(f"lacks {name}, which {info.method} needs; was it copied completely?")
        constant.copy_(stored[name])
    if extra := sorted(stored.keys() - own.keys()):
        raise WeightsError(f"has unexpected constants {', '.join(extra[:3])}; was it made with another method?")


def _head(info: AdapterInfo, stored: dict[str, Tensor], backbone: Backbone) -> Head:
    count = len(stored["keys"]) if "keys" in stored and stored["keys"].ndim else 0
    head = Head(backbone.features, len(info.classes), info.head, pretrained=1.0, count=count)
    if not stored and info.names and info.templates:
        return _head_of_words(info, backbone)
    try:
        head.load_state_dict(stored)
    except RuntimeError as error:
        own = head.state_dict()
        missing, extra = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
        what = f"missing {missing[:3]}, unexpected {extra[:3]}" if missing or extra else "shapes differ"
        raise WeightsError(f"its head does not fit its {len(info.classes)} classes: {what}") from error
    return head if info.method.trains_head else head.requires_grad_(False)


def _novelty(stored: dict[str, Tensor], features: int) -> Novelty | None:
    if not stored:
        return None
    try:
        novelty = Novelty(**stored)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"its novelty does not hold together: {error}") from error
    if len(stored["centre"]) != features:
        raise WeightsError(f"its novelty is of {len(stored['centre'])} features, and its head takes {features}")
    return novelty


def _head_of_words(info: AdapterInfo, backbone: Backbone) -> Head:
    """The head made again of class names and templates, by the text tower beside `backbone`."""
    from ..text import load_text_tower, text_matrix
    from ..text.prompts import fill

    tower = load_text_tower(info.backbone, backbone)
    matrix = text_matrix(tower, [[fill(template, name) for template in info.templates] for name in info.names])
    head = Head(matrix.shape[1], len(info.classes), info.head, tower.logit_scale)
    head.start_from(matrix)
    return head.requires_grad_(False)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


ADAPTER = "adapter.safetensors"
