"""What Hugging Face's configurations tell about a checkpoint or a live module, beyond the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from ..nn.vit import ACTIVATIONS, Activation, Preprocess
from ..utils.errors import WeightsError
from .hints import NORMALISATIONS, Hints, Live, expect, square

_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {"num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "vit": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "dinov2": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "dinov2_with_registers": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
}
"""Per model type, what a field means that config.json leaves out (the library's defaults)."""

_NORMALISATION = {"clip_vision_model": "clip", "vit": "half"}
_ACTIVATIONS: dict[str, Activation] = {
    **{name: name for name in ACTIVATIONS},
    **{"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"},
}


def hints_of_config(config: Mapping[str, Any], processor: Mapping[str, Any] | None = None) -> Hints:
    """What config.json and preprocessor_config.json (absent: the library's defaults) tell.

    Raises WeightsError for a model type or a feature that cannot be converted.
    """
    kind = config.get("model_type", "")
    if kind == "clip":
        return hints_of_config({"model_type": "clip_vision_model", **config.get("vision_config", {})}, processor)
    if kind not in _DEFAULTS:
        raise WeightsError(f"Hugging Face model type {kind!r} is not supported; known are clip, {', '.join(_DEFAULTS)}")
    full = {**_DEFAULTS[kind], **config}
    expect(not full.get("use_swiglu_ffn"), "a gated (SwiGLU) MLP")
    activation = activation_named(full["hidden_act"])
    return Hints(
        heads=full["num_attention_heads"],
        activation=activation,
        norm_eps=full["layer_norm_eps"],
        pooling="class",
        norm_after_pool=False,
        antialias=kind == "dinov2_with_registers",
        preprocess=_preprocess(processor or {}, NORMALISATIONS[_NORMALISATION.get(kind, "imagenet")]),
    )


def activation_named(name: str) -> Activation:
    """Our name of the library's `hidden_act`. Raises WeightsError for an activation that we do not have."""
    expect(name in _ACTIVATIONS, f"the activation {name!r}")
    return _ACTIVATIONS[name]


def _preprocess(processor: Mapping[str, Any], usual: Preprocess) -> Preprocess:
    mean, std = (tuple(processor.get(f"image_{name}", getattr(usual, name))) for name in ("mean", "std"))
    shorter, crop = _side(processor.get("size")), _side(processor.get("crop_size"))
    return Preprocess(mean, std, shorter / crop if shorter and crop else usual.resize)


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("shortest_edge", size.get("height"))
    return size if isinstance(size, int) else None


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
    """Projected features of a CLIP, else the class token behind the final norm."""

    def features(images: Tensor) -> Tensor:
        if hasattr(tower, "visual_projection"):
            return cast(Tensor, tower.visual_projection(tower.vision_model(pixel_values=images).pooler_output))
        out = tower(pixel_values=images)
        return cast(Tensor, out.pooler_output if "CLIP" in type(tower).__name__ else out.last_hidden_state[:, 0])

    return features
