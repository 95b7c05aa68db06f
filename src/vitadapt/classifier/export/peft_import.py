"""PEFT's LoRA and LoKr adapters of Hugging Face vision models, as an adapter of ours or as a merged checkpoint.

Read as data: adapter_config.json and adapter_model.safetensors; PEFT itself is not needed. A LoKr update
scale * W1 (x) W2 becomes the low-rank update that it is.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ...methods import LoRA
from ...nn.backbone import backbone_digest
from ...nn.head import Classifier, Head
from ...nn.surgery import adapt, load_trainable_state, require_vit, trainable
from ...nn.vit import SLOTS, Slot, ViT
from ...training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes
from ...utils.errors import ConfigError, NotApplicable, VitadaptError, WeightsError
from ...utils.files import parse_json, read_text, write_atomic
from ...weights import CONVERTERS, load_backbone, load_state_file
from ...weights.checkpoint_files import read_json
from .peft_lora import LAYERS, low_rank

_PARTS = re.compile(
    r"^(?:base_model\.model\.)?(?P<module>.+?)\.(?P<kind>(?:lora|lokr)_\w+)(?:\.(?P<leaf>weight|bias))?$"
)
_SIMPLE = re.compile(r"(?:[\w.|^$-]|\\[.dw]){0,200}[*+]?(?:[\w.|^$-]|\\[.dw]){0,200}[*+]?(?:[\w.|^$-]|\\[.dw]){0,200}")
"""Patterns with two repetitions at most and no groups: others could take for ever."""
_LAYOUTS = ("hf-vit", "hf-vit-memory", "hf-dinov2", "hf-dinov2-memory", "hf-clip", "hf-clip-tower")
_UNKNOWN = ("use_dora", "fan_in_fan_out", "alora_invocation_tokens", "layers_to_transform", "layer_replication")
"""Settings that, when set, make the update another function than the one computed here."""

Updates = dict[tuple[int, Slot], tuple[Tensor, Tensor]]


def import_peft(folder: Path | str, backbone: str, image_size: int | None, out: Path | str) -> tuple[Path, int]:
    """Write OUT/adapter.safetensors -> its path and the rank of its LoRA.

    The classes are numbered as the adapter's classifier has them, or named as a config.json beside it says. Raises
    WeightsError when the folder is no such adapter, NotApplicable for what an adapter of ours cannot hold.
    """
    folder, out = Path(folder), Path(out)
    if (out / ADAPTER).exists():
        raise ConfigError(f"{out / ADAPTER} exists already; choose another folder with -o")
    config, state = read_json(folder / "adapter_config.json"), load_state_file(folder / "adapter_model.safetensors")
    base = require_vit(load_backbone(backbone, image_size))
    try:
        updates = _updates(config, state, base, folder)
        model, rank = _adapted(base, updates)
        head, classes = _head(state, base, folder)
    except VitadaptError as error:
        raise type(error)(f"{folder}: {str(error).removeprefix(f'{folder}: ')}") from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, re.error) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{folder}: cannot be understood as PEFT's ({reason}); was it saved by PEFT?") from error
    info = AdapterInfo(
        LoRA(rank, float(rank), tuple(slot for slot in SLOTS if any(s == slot for _, s in updates))),
        *(backbone, base.image_size, classes, backbone_digest(base)),
    )
    write_atomic(out / ADAPTER, adapter_bytes(Classifier(model, head).eval(), replace(info, head=head.spec)))
    return out / ADAPTER, rank


def _updates(config: dict[str, Any], state: dict[str, Tensor], vit: ViT, folder: Path) -> Updates:
    """(block, slot) -> P (D_out, R) and Q (D_in, R), their scale included."""
    kind = config.get("peft_type")
    if kind not in ("LORA", "LOKR"):
        raise WeightsError(f"{folder}: a PEFT adapter of type {kind}; LORA and LOKR can be imported")
    if strange := [name for name in _UNKNOWN if config.get(name)]:
        raise NotApplicable(f"{folder}: the PEFT setting {strange[0]} is not supported; merge it with PEFT instead")
    modules = _modules(state, folder)
    places = _places(vit)
    updates: Updates = {}
    for name, parts in modules.items():
        place = next((place for ending, place in places.items() if f".{name}".endswith(f".{ending}")), None)
        if place is None:
            raise NotApplicable(f"{folder}: {name} is no linear layer of a plain vision transformer's blocks")
        scale = _scale(config, name)
        updates[place] = _lora(parts, scale) if kind == "LORA" else _lokr(parts, scale)
    if not updates:
        raise WeightsError(f"{folder}: adapter_model.safetensors holds no {kind} factors; was it saved by PEFT?")
    return updates


def _modules(state: dict[str, Tensor], folder: Path) -> dict[str, dict[str, Tensor]]:
    """Module name -> kind of factor -> tensor. Raises NotApplicable for biases, which LoRA has none of here."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _PARTS.match(name)
        if match is None:
            continue
        if match["leaf"] == "bias":
            if tensor.any():
                raise NotApplicable(f"{folder}: {name} is a bias, which our LoRA lacks; merge it with PEFT instead")
            continue
        modules.setdefault(match["module"], {})[match["kind"]] = tensor.float()
    return modules


def _places(vit: ViT) -> dict[str, tuple[int, Slot]]:
    """How names of linear layers may end, in every spelling of the library -> (block, slot)."""
    return {
        CONVERTERS[layout]
        .rules_of(vit.config.depth)[f"blocks.{i}.{layer}.weight"]
        .theirs[at]
        .removesuffix(".weight"): (
            i,
            slot,
        )
        for layout in _LAYOUTS
        for i in range(vit.config.depth)
        for slot, (layer, at) in LAYERS.items()
    }


def _scale(config: dict[str, Any], name: str) -> float:
    """alpha / r, or alpha / sqrt(r), with the exceptions that the patterns make for this module."""
    rank = _pattern(config.get("rank_pattern"), name, config["r"])
    alpha = _pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", config.get("alpha", rank)))
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _pattern(patterns: dict[str, float] | None, name: str, usual: float) -> float:
    for pattern, value in (patterns or {}).items():
        if not _SIMPLE.fullmatch(pattern):
            raise WeightsError(f"the pattern {pattern[:60]!r} is none that names modules; merge it with PEFT instead")
        if re.search(rf"(^|.*\.){pattern}$", name):
            return value
    return usual


def _lora(parts: dict[str, Tensor], scale: float) -> tuple[Tensor, Tensor]:
    if parts.keys() != {"lora_A", "lora_B"}:
        raise WeightsError(f"an incomplete LoRA: found {', '.join(sorted(parts))}, expected lora_A and lora_B")
    return scale * parts["lora_B"], parts["lora_A"].T


def _lokr(parts: dict[str, Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """scale * W1 (x) W2, each a matrix or a product of two."""
    first, second = (
        parts[f"lokr_{w}"] if f"lokr_{w}" in parts else parts[f"lokr_{w}_a"] @ parts[f"lokr_{w}_b"]
        for w in ("w1", "w2")
    )
    return low_rank(scale * torch.kron(first, second))


def _adapted(base: ViT, updates: Updates) -> tuple[ViT, int]:
    """`base` with the updates as one LoRA; its rank is the largest among them."""
    rank = max(p.shape[1] for p, _ in updates.values())
    slots = tuple(slot for slot in SLOTS if any(s == slot for _, s in updates))
    model = adapt(base, LoRA(rank, float(rank), slots))
    state = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in trainable(model).items()}
    for (block, slot), (p, q) in updates.items():
        at = f"blocks.{block}.{LAYERS[slot][0]}.deltas.{slot}"
        for name, factor in ((f"{at}.a", q.T), (f"{at}.b", p)):
            room = state[name].shape
            padding = (0, room[1] - factor.shape[1], 0, room[0] - factor.shape[0])
            state[name] = F.pad(factor, padding).contiguous()
    load_trainable_state(model, state)
    return model, rank


def _head(state: dict[str, Tensor], base: ViT, folder: Path) -> tuple[Head, tuple[str, ...]]:
    """The classifier that was saved with the adapter. Raises NotApplicable without one, or one for other features."""
    found = {name.rpartition(".")[2]: t.float() for name, t in state.items() if ".classifier." in f".{name}"}
    if not {"weight", "bias"} <= found.keys():
        raise NotApplicable(
            f"{folder}: the adapter holds no classifier, which a model of ours needs; train it in PEFT with "
            "modules_to_save=['classifier']"
        )
    weight, width = found["weight"], base.features
    if weight.shape[1] == 2 * width and not weight[:, width:].any():  # DINOv2's: class token, average of the patches
        weight = weight[:, :width]
    if weight.shape[1] != width:
        raise NotApplicable(f"{folder}: its classifier reads {weight.shape[1]} features, and {width} are known here")
    head = Head(width, len(weight))
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(found["bias"])
    return head, _labels(folder, len(weight))


def _labels(folder: Path, count: int) -> tuple[str, ...]:
    for file in (folder / "labels.json", folder / "config.json"):
        if file.is_file():
            content = parse_json(read_text(file))
            names = (
                content
                if isinstance(content, list)
                else list(cast(dict[str, str], content.get("id2label", {})).values())
            )
            if len(names) == count:
                return tuple(map(str, names))
    return tuple(str(i) for i in range(count))
