"""What Hugging Face's configurations tell about a checkpoint or a live module, beyond the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor, nn

from ..nn.backbone import Interpolation
from ..nn.vit import ACTIVATIONS, Activation, Preprocess, Rotary
from ..utils.errors import WeightsError
from .hints import NORMALISATIONS, Hints, Live, expect, refuse_unknown, square

_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {"num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "metaclip_2_vision_model": {"num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip_vision_model": {"num_attention_heads": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
    "aimv2_vision_model": {"num_attention_heads": 8, "hidden_act": "silu", "rms_norm_eps": 1e-5},
    "tipsv2_vision_model": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "vit": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "ijepa": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "dinov2": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "dinov2_with_registers": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "dinov3_vit": {"num_attention_heads": 6, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rope_theta": 100.0},
    "beit": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "use_mean_pooling": True},
    "radio": {"num_attention_heads": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "max_img_size": 2048},
}
"""Per model type, what a field means that config.json leaves out (the library's defaults)."""
_WHOLE = {"clip": "clip_vision_model", "metaclip_2": "metaclip_2_vision_model", "siglip": "siglip_vision_model"}
_WHOLE |= {"aimv2": "aimv2_vision_model", "tipsv2": "tipsv2_vision_model"}
"""Types of models with a text tower -> the type of their image tower."""

_NORMALISATION = {
    **{"clip_vision_model": "clip", "metaclip_2_vision_model": "clip", "aimv2_vision_model": "clip"},
    **{"siglip_vision_model": "half", "vit": "half", "tipsv2_vision_model": "none", "radio": "clip", "beit": "half"},
}
_SMOOTH = ("dinov2_with_registers", "tipsv2_vision_model")
"""Types that resample positions with antialiasing."""
_AVERAGE = ("ijepa", "siglip_vision_model", "aimv2_vision_model", "beit")
_ACTIVATIONS: dict[str, Activation] = {
    **{name: name for name in ACTIVATIONS},
    **{"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"},
}


def hints_of_config(config: Mapping[str, Any], processor: Mapping[str, Any] | None = None) -> Hints:
    """What config.json and preprocessor_config.json (absent: the library's defaults) tell.

    Raises WeightsError for a model type or a feature that cannot be converted.
    """
    kind = config.get("model_type", "")
    if kind in _WHOLE:
        return hints_of_config({**config.get("vision_config", {}), "model_type": _WHOLE[kind]}, processor)
    if kind not in _DEFAULTS:
        known = ", ".join((*_WHOLE, *(name for name in _DEFAULTS if name not in _WHOLE.values())))
        raise WeightsError(f"Hugging Face model type {kind!r} is not supported; known are {known}")
    full = {**_DEFAULTS[kind], **config}
    refuse_unknown(full, "hugging_face", "config.json")
    for name in ("is_native", "use_head", "key_bias", "video_temporal_patch_size"):
        expect(not full.get(name), f"the setting {name}={full.get(name)!r} in config.json")
    expect(full.get("use_mean_pooling", True), "the setting use_mean_pooling=False in config.json")
    return Hints(
        heads=full["num_attention_heads"],
        activation="silu" if full.get("use_swiglu_ffn") else activation_named(full["hidden_act"]),
        norm_eps=full.get("rms_norm_eps", full.get("layer_norm_eps")),
        pooling="average" if kind in _AVERAGE else "class",
        norm_after_pool=kind == "beit",
        antialias=kind in _SMOOTH,
        preprocess=_preprocess(kind, full, processor or {}),
        more=_parts(kind, full),
    )


def _parts(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a network of this kind has beyond a plain ViT."""
    size = config.get("image_size")
    image_size = {"image_size": size} if isinstance(size, int) else {}
    if kind == "dinov3_vit":
        return {"rotary": Rotary(float(config["rope_theta"])), **image_size}
    if kind == "tipsv2_vision_model":
        return {"resampling": "bilinear"}
    if kind == "radio":
        first = list(range(len(config.get("summary_idxs") or [0, 1])))
        expect((config.get("summary_idxs") or first) == first, "a summary that is not of the first tokens")
        grid = config["max_img_size"] // config.get("patch_size", 16)
        parts = {"class_tokens": len(first), "resampling": "crop", "position_grid": grid, "final_norm": "none"}
        return parts | image_size
    return {}


def activation_named(name: str) -> Activation:
    """Our name of the library's `hidden_act`. Raises WeightsError for an activation that we do not have."""
    expect(name in _ACTIVATIONS, f"the activation {name!r}")
    return _ACTIVATIONS[name]


def _preprocess(kind: str, config: Mapping[str, Any], settings: Mapping[str, Any]) -> Preprocess:
    """How images are prepared for a model of this kind, by the settings of its processor, if there are any."""
    usual = NORMALISATIONS[_NORMALISATION.get(kind, "imagenet")]
    if kind != "radio":
        return processor_of(settings, kind).preprocess if settings else usual
    how = processor_of(settings, kind).preprocess if settings else NORMALISATIONS["none"]
    expect((how.mean, how.std) == ((0.0,) * 3, (1.0,) * 3), f"a scale of its own and one in {PROCESSOR_FILE}")
    mean, std = (tuple(config.get(f"norm_{name}") or getattr(usual, name)) for name in ("mean", "std"))
    return replace(how, mean=mean, std=std)


PROCESSOR_FILE = "preprocessor_config.json"
_SQUARE = {"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_CLIP = {"size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True, "crop_size": 224}
_CLIP |= {f"image_{name}": getattr(NORMALISATIONS["clip"], name) for name in ("mean", "std")}
PROCESSORS: dict[str, dict[str, Any]] = {
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "ViT": {**_SQUARE, "resample": 2},
    "Siglip": {**_SQUARE, "resample": 3},
    "Beit": {**_SQUARE, "resample": 3, "crop_size": 224},
    "ConvNext": {**_SQUARE, "resample": 3, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
    "DeiT": {**_SQUARE, "resample": 3, "size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True},
    "DINOv3ViT": {
        **_SQUARE,
        "resample": 2,
        **{f"image_{name}": getattr(NORMALISATIONS["imagenet"], name) for name in ("mean", "std")},
    },
    "Tipsv2": {"resample": 2, "size": {"height": 448, "width": 448}, "do_normalize": False},
}
"""What a field means that preprocessor_config.json leaves out, by the class of the processor."""
_PROCESSOR_OF = {"dinov2": "Bit", "dinov2_with_registers": "Bit", "dinov3_vit": "DINOv3ViT", "vit": "ViT"}
_PROCESSOR_OF |= {"ijepa": "ViT", "siglip_vision_model": "Siglip", "tipsv2_vision_model": "Tipsv2", "beit": "Beit"}
_PROCESSOR_OF |= {"swin": "ViT", "swinv2": "ViT", "convnext": "ConvNext", "convnextv2": "ConvNext"}
_PROCESSOR_OF |= {"dinov3_convnext": "DINOv3ViT"}
"""Type of a model -> its processor, where the file does not name one; CLIP for all others."""
_RESAMPLE: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by their numbers."""


@dataclass(frozen=True)
class Processor:
    """How the library prepares an image: squares of `size` pixels, and the rest."""

    size: int
    preprocess: Preprocess


def processor_of(settings: Mapping[str, Any], model: str = "") -> Processor:
    """preprocessor_config.json (of a type of `model`), understood completely; the library crops half pixels downwards.

    Raises WeightsError naming what we would do otherwise.
    """
    named = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    kind = _PROCESSOR_OF.get(model, "CLIP") if named is None and model else str(named or "")
    for ending in ("Pil", "Fast", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    expect(kind in PROCESSORS, f"the image processor {named!r} in {PROCESSOR_FILE}")
    full = {**PROCESSORS[kind], **{name: value for name, value in settings.items() if value is not None}}
    refuse_unknown(full, "hugging_face_processor", PROCESSOR_FILE)
    expect(full.get("do_resize", True), f"do_resize=false in {PROCESSOR_FILE}")
    number = full["resample"]
    expect(type(number) is int and 0 <= number < len(_RESAMPLE), f"resample={number} in {PROCESSOR_FILE}")
    size, crop = full["size"], full.get("crop_size") if full.get("do_center_crop") else None
    both = isinstance(size, int) and "height" in PROCESSORS[kind]["size"]
    size = ({"height": size, "width": size} if both else {"shortest_edge": size}) if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    if kind == "ConvNext" and size.keys() == {"shortest_edge"}:
        size, crop = _of_convnext(size["shortest_edge"], full["crop_pct"])
    squash = size.keys() == {"height", "width"}
    lengths, sides = {*size.values()}, {*(crop or size).values()}
    known = (squash or (crop is not None and size.keys() == {"shortest_edge"})) and len(lengths) == len(sides) == 1
    expect(known, f"size={full['size']} with the crop {crop} in {PROCESSOR_FILE}")
    side = sides.pop()
    return Processor(side, Preprocess(*_scale(full), lengths.pop() / side, squash, _RESAMPLE[number]))


def _of_convnext(side: int, fraction: float) -> tuple[dict[str, int], dict[str, int]]:
    """The sizes before and after the crop; from 384 pixels on the library squashes."""
    square = {"height": side, "width": side}
    return (square, square) if side >= 384 else ({"shortest_edge": int(side / fraction)}, square)


def _scale(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation for pixels in 0..1, whatever the rescaling is."""
    plain = NORMALISATIONS["none"]
    normalised = settings.get("do_normalize", True)
    mean, std = (tuple(settings[f"image_{name}"]) if normalised else getattr(plain, name) for name in ("mean", "std"))
    factor = (settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale", True) else 1.0
    if abs(255 * factor - 1) > 1e-6:  # (255 factor x - mean) / std for x in 0..1
        mean, std = (tuple(value / (255 * factor) for value in values) for values in (mean, std))
    return mean, std


_CLASSES = {
    "CLIPModel": "",
    "CLIPVisionModelWithProjection": "",
    "CLIPVisionModel": "",
    "ViTModel": "",
    "Dinov2Model": "",
    "Dinov2WithRegistersModel": "",
    "ViTForImageClassification": "vit",
    "Dinov2ForImageClassification": "dinov2",
    "Dinov2WithRegistersForImageClassification": "dinov2_with_registers",
    "MetaClip2Model": "",
    "MetaClip2VisionModel": "",
    "MetaClip2VisionModelWithProjection": "",
    "SiglipVisionModel": "",
    "SiglipModel": "vision_model",
    "SiglipForImageClassification": "vision_model",
    "Aimv2VisionModel": "",
    "Tipsv2VisionModel": "",
    "Tipsv2Model": "vision_model",
    "IJepaModel": "",
    "IJepaForImageClassification": "ijepa",
    "DINOv3ViTModel": "",
    "RadioModel": "",
    "BeitModel": "",
    "BeitForImageClassification": "beit",
}
"""Classes that can be converted -> the attribute that holds the transformer (empty: the module itself)."""


def describe(module: nn.Module) -> Live | None:
    """A live transformers model understood, or None for anything else. Raises WeightsError for unknown classes."""
    if type(module).__module__.partition(".")[0] != "transformers":
        return None
    kind = type(module).__name__
    expect(kind in _CLASSES, f"the class {kind} (known: {', '.join(_CLASSES)})")
    tower: Any = getattr(module, _CLASSES[kind]) if _CLASSES[kind] else module
    config = tower.config.to_dict()
    vision = config.get("vision_config", config)
    return Live(tower, hints_of_config(config), _features(tower), square(vision["image_size"]))


def _features(tower: Any) -> Callable[[Tensor], Tensor]:
    """Projected features of a CLIP, else what the library pools, else the mean of the patches behind the final norm."""
    kind = tower.config.model_type

    def features(images: Tensor) -> Tensor:
        if hasattr(tower, "visual_projection"):
            return cast(Tensor, tower.visual_projection(tower.vision_model(pixel_values=images).pooler_output))
        if kind == "radio":
            scale = tower.input_conditioner  # it normalises, so that what is normalised already must be turned back
            return cast(Tensor, tower(pixel_values=images * scale.norm_std + scale.norm_mean).summary)
        out = tower(pixel_values=images)
        if kind in _AVERAGE and getattr(out, "pooler_output", None) is None:
            return cast(Tensor, out.last_hidden_state.mean(dim=1))
        pooled = kind not in ("vit", "dinov2", "dinov2_with_registers")
        return cast(Tensor, out.pooler_output if pooled else out.last_hidden_state[:, 0])

    return features
