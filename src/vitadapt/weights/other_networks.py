"""Checkpoints of networks that are no ViTs: told by their tensors or settings, computed by a library that has them.

CLIP's ResNets (open_clip), Swin transformers in their authors' names, alone or as the image tower of a UniCL-like model
(timm), and transformers' networks that pool images themselves. They become a `FeatureExtractor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import isqrt
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..nn.backbone import Preprocess
from ..nn.surgery import State
from ..utils.errors import WeightsError, damaged
from ..utils.optional import package, quiet_transformers
from .checkpoint_files import load_state_file
from .converter import BESIDE
from .feature_extractor import FeatureExtractor, extractor
from .hints import NORMALISATIONS, Hints, expect, square
from .hugging_face_config import processor_of

_PREFIXES = ("visual.", "", "module.visual.", "module.", "model.")
_POSITIONS = "attnpool.positional_embedding"
_SWIN = "layers.0.blocks.0.attn.relative_position_bias_table"
_BUFFERS = ("*.relative_position_index", "*.attn_mask", "head.*")
"""What a Swin's checkpoint holds besides the network."""
_PROJECTION = "vision_projection"
_POOLING = {
    **{"swin": "SwinModel", "swinv2": "Swinv2Model", "convnext": "ConvNextModel", "convnextv2": "ConvNextV2Model"},
    "dinov3_convnext": "DINOv3ConvNextModel",
}
"""Model types of transformers -> a class whose output holds pooled features."""


def network_of_state(state: State, hints: Hints) -> FeatureExtractor | None:
    """The network that `state` holds; None when it is of no kind that is known here.

    Raises WeightsError naming a tensor that it has and the network lacks, or the other way round.
    """
    for anchor, build in ((_POSITIONS, _clip_resnet), (_SWIN, _swin)):
        for prefix in _PREFIXES:
            if prefix + anchor in state:
                inside = {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}
                outside = {name: t for name, t in state.items() if not name.startswith(prefix)}
                return build(inside, outside, hints)
    return None


def _clip_resnet(state: State, outside: State, hints: Hints) -> FeatureExtractor:
    """The ResNet of Radford et al. 2021 (section 2.4), whose last layer pools by attention."""
    _refuse(outside, ())
    blocks = [{n.split(".")[1] for n in state if n.startswith(f"layer{stage}.")} for stage in (1, 2, 3, 4)]
    width = len(state["layer1.0.conv1.weight"])
    size = 32 * isqrt(len(state[_POSITIONS]) - 1)
    features = len(state["attnpool.c_proj.weight"])
    kind = package("open_clip.modified_resnet", "clip").ModifiedResNet
    with torch.device("meta"):
        network = kind([len(those) for those in blocks], features, width // 2, size, width)
    return _made("CLIP ResNet", network, state, size, hints.preprocess or NORMALISATIONS["clip"])


def _swin(state: State, outside: State, hints: Hints) -> FeatureExtractor:
    """A Swin transformer (Liu et al. 2021), and what projects its features where it is a model's image tower."""
    projection = {name: t for name, t in outside.items() if name.removeprefix("module.") == _PROJECTION}
    _refuse({name: t for name, t in outside.items() if name not in projection}, ("text_projection",))
    timm = package("timm.models.swin_transformer", "timm")
    patch, stages = state["patch_embed.proj.weight"].shape, range(_count(state, "layers."))
    window = (isqrt(len(state[_SWIN])) + 1) // 2
    mask = state.get("layers.0.blocks.1.attn_mask")  # of all windows: the one tensor that tells the size of images
    size = patch[-1] * window * (8 if mask is None else isqrt(len(mask)))
    about = {
        "img_size": size,
        "patch_size": patch[-1],
        "embed_dim": patch[0],
        "depths": tuple(_count(state, f"layers.{stage}.blocks.") for stage in stages),
        "num_heads": tuple(state[_SWIN.replace("0", str(stage), 1)].shape[1] for stage in stages),
        "window_size": window,
        "mlp_ratio": len(state["layers.0.blocks.0.mlp.fc1.weight"]) / patch[0],
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in state,
    }
    with damaged("this network", "download it again", WeightsError, "is no plain Swin"):
        network = timm.SwinTransformer(num_classes=0, drop_path_rate=0.0, **about)
        plain = {n: t for n, t in state.items() if not any(fnmatchcase(n, pattern) for pattern in _BUFFERS)}
        plain = timm.checkpoint_filter_fn(plain, network)
    preprocess = hints.preprocess or NORMALISATIONS["imagenet"]
    if not projection:
        return _made("Swin", network, plain, size, preprocess)
    (matrix,) = projection.values()
    whole = nn.Sequential(network, nn.Linear(matrix.shape[0], matrix.shape[1], bias=False))
    plain = {f"0.{name}": t for name, t in plain.items()} | {"1.weight": matrix.T}
    return _made("Swin with projection", whole, plain, size, preprocess)


def _count(state: State, before: str) -> int:
    return len({name[len(before) :].split(".")[0] for name in state if name.startswith(before)})


def _refuse(outside: State, known: tuple[str, ...]) -> None:
    """What stands beside the network may not be a part that changes its features."""
    for name in outside:
        plain = name.removeprefix("module.")
        if plain not in known and not any(fnmatchcase(plain, pattern) for pattern in BESIDE):
            raise WeightsError(f"beside the network stands {name}, which may change its features")


def _made(name: str, network: nn.Module, state: State, size: int, preprocess: Preprocess) -> FeatureExtractor:
    """`network` holding `state`, all of it. Raises WeightsError naming the tensor that is missing, foreign or odd."""
    own = network.state_dict()
    for tensor in sorted(own.keys() ^ state.keys()):
        what = "is missing" if tensor in own else f"has no place in a {name}"
        raise WeightsError(f"{tensor} {what}; the file is damaged or of another network")
    for tensor, value in state.items():
        kind, shape = own[tensor].is_floating_point(), tuple(own[tensor].shape)
        if value.is_floating_point() != kind or tuple(value.shape) != shape:
            raise WeightsError(f"{tensor} is {value.dtype} {tuple(value.shape)}; a {name} has shape {shape}")
    network.load_state_dict({n: t.detach().to("cpu", copy=True) for n, t in state.items()}, assign=True)
    return extractor(name, network.float().eval().requires_grad_(False), size, preprocess)


class Pooled(nn.Module):
    """A network of transformers as a function: normalised images (B, 3, S, S) -> the features (B, E) that it pools."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(pixel_values=images).pooler_output)


def pools(config: Mapping[str, Any]) -> bool:
    """Is this the config.json of a network of transformers that is known here?"""
    kind = config.get("model_type")
    return isinstance(kind, str) and kind in _POOLING


def network_of_folder(folder: Path, config: Mapping[str, Any], processor: Mapping[str, Any]) -> FeatureExtractor:
    """The network of transformers in `folder`. Raises WeightsError when a tensor is missing or strange."""
    transformers = package("transformers", "hf")
    kind: Any = getattr(transformers, _POOLING[config["model_type"]], None)
    expect(kind is not None, f"the model type {config['model_type']!r}, which this version of transformers lacks")
    state = load_state_file(folder)
    with damaged(folder, "download the folder again", WeightsError, "cannot be understood"), quiet_transformers():
        if (deep := sum(config.get("depths", ()))) > len(state):  # building them would take its time
            raise WeightsError(f"{folder}: config.json tells of {deep} blocks; there are {len(state)} tensors")
        about = kind.config_class(**config)
        network, found = kind.from_pretrained(None, config=about, state_dict=state, output_loading_info=True)
        size = square(network.config.image_size)
    for what in ("missing", "mismatched", "unexpected"):
        if strange := [name for name in map(str, found[f"{what}_keys"]) if not name.startswith("classifier.")]:
            raise WeightsError(f"{folder}: {strange[0]} is {what}; the file is damaged or of another network")
    usual = NORMALISATIONS["imagenet"]
    preprocess = processor_of(processor, config["model_type"]).preprocess if processor else usual
    try:
        return extractor(kind.__name__, Pooled(network.float()).requires_grad_(False), size, preprocess)
    except WeightsError as error:
        raise WeightsError(f"{folder}: {error}") from error
