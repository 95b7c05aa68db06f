"""PEFT's LoRA and LoKr adapters of Hugging Face image classifiers, as an adapter of ours.

Read as data: adapter_config.json and adapter_model.safetensors; PEFT itself is not needed. A LoKr update
scale * W1 (x) W2 becomes the low-rank update that it is. Reading is closed-world: every setting, every tensor and the
image processor are either taken exactly or refused by name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ...methods import LoRA
from ...nn.backbone import backbone_digest
from ...nn.block import SLOTS, Slot, SlotLinear
from ...nn.head import Classifier, Head
from ...nn.surgery import State, adapt, load_trainable_state, require_vit, trainable
from ...nn.vit import ViT
from ...training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes, read_adapter
from ...utils.errors import ConfigError, NotApplicable, VitadaptError, WeightsError, damaged
from ...utils.files import parse_json, read_text, write_atomic
from ...weights import CONVERTERS, load_backbone, load_state_file
from ...weights.checkpoint_files import read_json
from ...weights.hints import refuse_unknown
from ...weights.hugging_face_config import PROCESSOR_FILE, Processor, processor_of
from ...weights.sources import settings_folder
from .peft_lora import LAYERS, low_rank

_FACTOR = re.compile(r"(?P<module>.+?)\.(?P<kind>(?:lora|lokr)_\w+)(?:\.(?P<leaf>weight|bias))?")
_SIMPLE = re.compile(r"(?:[\w.|^$-]|\\[.dw]){0,200}[*+]?(?:[\w.|^$-]|\\[.dw]){0,200}[*+]?(?:[\w.|^$-]|\\[.dw]){0,200}")
"""Patterns with two repetitions at most and no groups: others could take for ever."""
_LAYOUTS = {
    "vit.": ("hf-vit", "hf-vit-memory"),
    "dinov2.": ("hf-dinov2", "hf-dinov2-memory"),
    "dinov2_with_registers.": ("hf-dinov2", "hf-dinov2-memory"),
}
"""How the names of a classifier's transformer begin -> its layouts. (CLIP's classifier averages patches.)"""
_CLASSES = ("ViTForImageClassification", "Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification")
_VALUES: dict[str, tuple[Any, ...]] = {
    "bias": (None, "none"),
    "modules_to_save": (None, [], ["classifier"]),
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal", "eva"),  # the others change the base
    "revision": (None, "main"),
}
"""Setting -> the values that can be taken exactly."""

Updates = dict[tuple[int, Slot], tuple[Tensor, Tensor]]


_log = logging.getLogger(__name__)


def import_peft(folder: Path | str, backbone: str, image_size: int | None, out: Path | str) -> tuple[Path, int]:
    """Write OUT/adapter.safetensors -> its path and the rank of its LoRA.

    Images are prepared as the preprocessor_config.json beside the adapter, or else beside the backbone, says. Classes
    are named by a labels.json or config.json beside the adapter, else numbered. Raises WeightsError when the folder is
    no such adapter or is not understood, NotApplicable for what an adapter of ours cannot hold.
    """
    folder, out = Path(folder), Path(out)
    if (out / ADAPTER).exists():
        raise ConfigError(f"{out / ADAPTER} exists already; choose another folder with -o")
    config, state = read_json(folder / "adapter_config.json"), load_state_file(folder / "adapter_model.safetensors")
    with damaged(folder, "save it again with PEFT", WeightsError, "cannot be understood as PEFT's"):
        try:
            _check(config)
            processor = _processor(folder, backbone)
            base = require_vit(load_backbone(backbone, image_size or (processor.size if processor else None)))
            info = AdapterInfo(LoRA(), backbone, base.image_size, (), backbone_digest(base))
            if processor is not None:
                _check_processor(processor, base)
                info = replace(info, squash=processor.preprocess.squash and processor.preprocess.resize == 1)
            updates, classifier = _taken(config, state, base)
            model, method = _adapted(base, updates)
            head = _head(classifier, base)
            info = replace(info, method=method, classes=_labels(folder, head.linear.out_features), head=head.spec)
            data = adapter_bytes(Classifier(model, head).eval(), info)
            read_adapter(folder, data)  # refuses what could not be loaded again
        except VitadaptError as error:
            raise type(error)(f"{folder}: {error}") from error
    write_atomic(out / ADAPTER, data)
    if processor is None:
        _log.warning(
            f"{folder}: no {PROCESSOR_FILE} says how images were prepared in training; ours are {base.preprocess}"
        )
    return out / ADAPTER, method.rank


def _check(config: Mapping[str, Any]) -> None:
    """Raises NotApplicable naming a setting that makes the update another function than the one computed here."""
    if config.get("peft_type") not in ("LORA", "LOKR"):
        raise WeightsError(f"a PEFT adapter of type {config.get('peft_type')}; LORA and LOKR can be imported")
    for name, allowed in _VALUES.items():
        if (value := config.get(name)) not in allowed:
            raise NotApplicable(
                f"the PEFT setting {name}={value!r} cannot be taken exactly; merge it with PEFT instead"
            )
    model = (config.get("auto_mapping") or {}).get("base_model_class", _CLASSES[0])
    if model not in _CLASSES:
        raise NotApplicable(f"was trained on a {model}, whose features may be others; known are {', '.join(_CLASSES)}")
    try:
        refuse_unknown(config, "peft", "adapter_config.json")
    except WeightsError as error:
        raise NotApplicable(f"{error}; merge it with PEFT instead") from error


def _processor(folder: Path, backbone: str) -> Processor | None:
    """How images were prepared; None when no file says so."""
    places = (place for place in (folder, settings_folder(backbone)) if place is not None)
    file = next((place / PROCESSOR_FILE for place in places if (place / PROCESSOR_FILE).is_file()), None)
    return processor_of(read_json(file)) if file else None


def _check_processor(processor: Processor, base: ViT) -> None:
    """Raises NotApplicable unless the backbone prepares images in the same way."""
    ours, theirs, size = base.preprocess, processor.preprocess, base.image_size
    whole = theirs.squash and theirs.resize == 1  # which any model of ours can be told
    values = {
        "the image size": (size, processor.size),
        "the shorter side": (None, None) if whole else tuple(round(size * p.resize) for p in (ours, theirs)),
        "squash": (None, None) if whole else (ours.squash, theirs.squash),
        "interpolation": (ours.interpolation, theirs.interpolation),
        "image_mean": (ours.mean, theirs.mean),
        "image_std": (ours.std, theirs.std),
    }
    for what, (here, there) in values.items():
        if here != there:
            raise NotApplicable(f"{what} was {there} in training and is {here} for this backbone")


def _taken(config: Mapping[str, Any], state: State, vit: ViT) -> tuple[Updates, State]:
    """(block, slot) -> P (D_out, R) and Q (D_in, R), their scale included; and the classifier's tensors."""
    modules: dict[str, State] = {}
    classifier: State = {}
    for full, tensor in state.items():
        if not tensor.is_floating_point():
            raise NotApplicable(f"{full} holds {tensor.dtype}, which are no numbers that were trained")
        name, tensor = full.removeprefix("base_model.model."), tensor.float()
        if match := _FACTOR.fullmatch(name):
            if match["leaf"] != "bias":
                modules.setdefault(match["module"], {})[match["kind"]] = tensor
            elif tensor.any():
                raise NotApplicable(f"{name} is a bias, which our LoRA lacks; merge it with PEFT instead")
        elif name in ("classifier.weight", "classifier.bias"):
            classifier[name.rpartition(".")[2]] = tensor
        else:
            raise NotApplicable(f"{name} was trained, too, and an adapter of ours cannot hold it; merge it with PEFT")
    return _updates(config, modules, vit), classifier


def _updates(config: Mapping[str, Any], modules: Mapping[str, State], vit: ViT) -> Updates:
    """The factors of every module. Raises NotApplicable and WeightsError for those that do not fit the backbone."""
    spellings = _spellings(vit)
    places = next((one for one in spellings if modules.keys() <= one.keys()), None)
    if places is None:
        known = {name for one in spellings for name in one}
        foreign = next((name for name in modules if name not in known), "a mixture of two spellings of its names")
        raise NotApplicable(f"{foreign} is no linear layer of the blocks of a ViT or DINOv2 classifier")
    updates = {places[name]: _update(config, name, parts) for name, parts in modules.items()}
    if not any(p.any() and q.any() for p, q in updates.values()):
        raise WeightsError("adapter_model.safetensors holds no factors that change anything; was it trained?")
    _check_complete(config, modules, places)
    for (block, slot), (p, q) in updates.items():
        layer = cast(SlotLinear, vit.get_submodule(f"blocks.{block}.{LAYERS[slot][0]}"))
        shape, expected = (len(p), len(q)), (layer.out_features // len(layer.slots), layer.in_features)
        if shape != expected or p.shape[1] != q.shape[1]:
            raise WeightsError(f"block {block}, {slot}: its factors are {shape}, and the backbone's layer {expected}")
    return updates


def _check_complete(config: Mapping[str, Any], modules: Mapping[str, State], places: Mapping[str, Any]) -> None:
    """Raises WeightsError naming a layer that the settings adapt and that has no factors: another base, or a lost file.

    Only lists of names can be checked; other settings leave layers out on purpose.
    """
    targets = config.get("target_modules")
    if not isinstance(targets, list) or any(config.get(name) for name in ("layers_to_transform", "exclude_modules")):
        return
    for name in places:
        if name not in modules and any(name == target or name.endswith(f".{target}") for target in targets):
            raise WeightsError(f"{name} of this backbone has no factors; was another backbone adapted?")


def _spellings(vit: ViT) -> list[dict[str, tuple[int, Slot]]]:
    """For every spelling of the library: the names of linear layers -> (block, slot)."""
    return [
        {
            prefix + rules[f"blocks.{i}.{layer}.weight"].theirs[at].removesuffix(".weight"): (i, slot)
            for i in range(vit.config.depth)
            for slot, (layer, at) in LAYERS.items()
        }
        for prefix, layouts in _LAYOUTS.items()
        for rules in (CONVERTERS[layout].rules_of(vit.config.depth) for layout in layouts)
    ]


def _update(config: Mapping[str, Any], name: str, parts: State) -> tuple[Tensor, Tensor]:
    """P and Q of one layer: alpha / r (rsLoRA: alpha / sqrt(r)) times B A or W1 (x) W2, which may be products."""
    rank = _pattern(config.get("rank_pattern"), name, config["r"])
    lora = config["peft_type"] == "LORA"
    alpha = _pattern(config.get("alpha_pattern"), name, config["lora_alpha" if lora else "alpha"])
    scale = float(alpha / (rank**0.5 if config.get("use_rslora") else rank))
    if lora:
        if parts.keys() != {"lora_A", "lora_B"} or len(parts["lora_A"]) != rank:
            raise WeightsError(f"{name}: expected lora_A and lora_B of rank {rank}, found {', '.join(sorted(parts))}")
        return scale * parts["lora_B"], parts["lora_A"].T
    products = {
        f"lokr_{w}": parts.pop(f"lokr_{w}_a") @ parts.pop(f"lokr_{w}_b") for w in ("w1", "w2") if f"lokr_{w}_a" in parts
    }
    factors = parts | products
    if factors.keys() != {"lokr_w1", "lokr_w2"}:
        raise NotApplicable(f"{name}: expected lokr_w1 and lokr_w2, found {', '.join(sorted(factors))}")
    return low_rank(scale * torch.kron(factors["lokr_w1"], factors["lokr_w2"]))


def _pattern(patterns: Mapping[str, float] | None, name: str, usual: float) -> float:
    for pattern, value in (patterns or {}).items():
        if not _SIMPLE.fullmatch(pattern):
            raise WeightsError(f"the pattern {pattern[:60]!r} is none that names modules; merge it with PEFT instead")
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return usual


def _adapted(base: ViT, updates: Updates) -> tuple[ViT, LoRA]:
    """`base` with the updates as one LoRA; its rank is the largest among them."""
    rank = max(p.shape[1] for p, _ in updates.values())
    method = LoRA(rank, float(rank), tuple(slot for slot in SLOTS if any(s == slot for _, s in updates)))
    model = adapt(base, method)
    state = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in trainable(model).items()}
    for (block, slot), (p, q) in updates.items():
        at = f"blocks.{block}.{LAYERS[slot][0]}.deltas.{slot}"
        for name, factor in ((f"{at}.a", q.T), (f"{at}.b", p)):
            room = state[name].shape
            padding = (0, room[1] - factor.shape[1], 0, room[0] - factor.shape[0])
            state[name] = F.pad(factor, padding).contiguous()
    load_trainable_state(model, state)
    return model, method


def _head(classifier: State, base: ViT) -> Head:
    """The classifier that was saved with the adapter. Raises NotApplicable without one, or one for other features."""
    if classifier.keys() != {"weight", "bias"}:
        raise NotApplicable(
            "the adapter holds no classifier, which a model of ours needs; train it in PEFT with "
            "modules_to_save=['classifier']"
        )
    if base.config.pooling != "class" or base.config.projection:
        raise NotApplicable("its classifier reads the class token, and this backbone's features are others")
    weight, width = classifier["weight"], base.features
    if base.config.layer_scale and weight.shape[1] == 2 * width:  # DINOv2's: class token, average of the patches
        if weight[:, width:].any():
            raise NotApplicable("its classifier reads the average of the patches, too, which our features lack")
        weight = weight[:, :width]
    elif base.config.layer_scale or weight.shape[1] != width:
        raise NotApplicable(f"its classifier reads {weight.shape[1]} features, which are not those of this backbone")
    if classifier["bias"].shape != weight.shape[:1]:
        raise WeightsError("the weight and the bias of its classifier have different numbers of classes")
    head = Head(width, len(weight))
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(classifier["bias"])
    return head


def _labels(folder: Path, count: int) -> tuple[str, ...]:
    """The names in labels.json, or in id2label of config.json by their numbers; else the numbers."""
    names: dict[int, Any] = {}
    if (folder / "labels.json").is_file():
        names = dict(enumerate(parse_json(read_text(folder / "labels.json"))))
    elif (folder / "config.json").is_file():
        names = {int(i): name for i, name in read_json(folder / "config.json").get("id2label", {}).items()}
    if names and names.keys() != set(range(count)):
        raise WeightsError(f"its classifier has {count} classes, and the file beside it names others; correct it")
    return tuple(str(names.get(i, i)) for i in range(count))
