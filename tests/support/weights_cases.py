"""Models of the source libraries at toy size, with every tensor randomised: data for the converter tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitadapt.nn.surgery import seeded
from vitadapt.nn.vit import Preprocess, Rotary
from vitadapt.weights import Hints

Features = Callable[[Any, Tensor], Tensor]
TINY_TEXT = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1}
UNUSUAL = Preprocess((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@dataclass(frozen=True)
class Case:
    """One model of one library: how to build it, its own features, and its features at another size if it can."""

    name: str
    library: str
    layout: str
    make: Callable[[], nn.Module]
    features: Features
    resized: Features | None = None
    hints: Hints = field(default_factory=Hints)


def shaken(module: nn.Module, seed: int = 0, size: float = 0.1) -> Any:
    """`module` in eval mode with noise on every parameter, so that no tensor can be swapped or left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def timm_model(name: str, **changes: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    tiny = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
    tiny |= {} if name.startswith(("beit", "naflex")) else {"dynamic_img_size": True}
    with seeded(0):
        return shaken(timm.create_model(name, pretrained=False, **{**tiny, **changes}))


def timm_features(module: Any, images: Tensor) -> Tensor:
    return module.forward_head(module.forward_features(images), pre_logits=True)


def _timm(name: str, layout: str = "timm", label: str = "", **changes: Any) -> Case:
    make = lambda: timm_model(name, **changes)  # noqa: E731
    activation = changes.get("act_layer", "quick_gelu" if "quickgelu" in name else "gelu")
    hints = Hints(heads=4, activation=activation, preprocess=UNUSUAL)
    if changes.get("fc_norm") is False:
        hints = Hints(heads=4, pooling="average", preprocess=UNUSUAL)
    return Case(f"timm {label or name}", "timm", layout, make, timm_features, timm_features, hints)


def open_clip_model(quick: bool = True, **vision: Any) -> nn.Module:
    open_clip = pytest.importorskip("open_clip")
    tiny = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 16, "layers": 2}
    with seeded(0):
        return shaken(open_clip.CLIP(48, {**tiny, **vision}, TINY_TEXT, quick_gelu=quick))


def _open_clip(label: str, quick: bool = True, **vision: Any) -> Case:
    average = vision.get("pool_type") == "avg"
    hints = Hints(
        heads=4,
        activation="quick_gelu" if quick else "gelu",
        pooling="average" if average else "class",
        norm_after_pool=average,
        norm_eps=vision.get("norm_kwargs", {}).get("eps"),
    )
    make = lambda: open_clip_model(quick, **vision)  # noqa: E731
    return Case(f"open_clip {label}", "open_clip", "openai-clip", make, lambda m, x: m.encode_image(x), None, hints)


_HF_TINY = {
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8},
    **{"intermediate_size": 96, "projection_dim": 48},
}


def hf_model(kind: str, config: str, **changes: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, kind):
        pytest.skip(f"transformers {transformers.__version__} has no {kind} yet")
    with seeded(0):
        return shaken(getattr(transformers, kind)(getattr(transformers, config)(**{**_HF_TINY, **changes})))


def _hf(kind: str, config: str, layouts: str, features: Features, resized: Features, **changes: Any) -> Case:
    make = lambda: hf_model(kind, config, **changes)  # noqa: E731
    label = " ".join([kind, *changes])
    activation = {"gelu_new": "gelu_tanh"}.get(changes.get("hidden_act", ""))
    usual = "quick_gelu" if "CLIP" in kind else "gelu"
    eps = {"CLIPVisionConfig": 1e-5, "ViTConfig": 1e-12}.get(config, 1e-6)
    hints = Hints(heads=4, activation=activation or usual, norm_eps=eps, preprocess=UNUSUAL)  # type: ignore[arg-type]
    return Case(f"hf {label}", "transformers", layouts, make, features, resized, hints)


def _first_token(**extra: Any) -> Features:
    return lambda m, x: m(pixel_values=x, **extra).last_hidden_state[:, 0]


def _embeds(**extra: Any) -> Features:
    return lambda m, x: m(pixel_values=x, **extra).image_embeds


def _pooled(**extra: Any) -> Features:
    return lambda m, x: m(pixel_values=x, **extra).pooler_output


def _mean(**extra: Any) -> Features:
    return lambda m, x: m(pixel_values=x, **extra).last_hidden_state.mean(dim=1)


def _summary(module: Any, images: Tensor) -> Tensor:
    """C-RADIO normalises images itself; those that the tests give are normalised already."""
    scale = module.input_conditioner
    return module(pixel_values=images * scale.norm_std + scale.norm_mean).summary


def open_clip_tower(name: str, pool: str, proj: str, **changes: Any) -> nn.Module:
    """An image tower of open_clip that is a ViT of timm."""
    tower = pytest.importorskip("open_clip.timm_model")
    timm = pytest.importorskip("timm")
    tiny = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, **changes}
    with seeded(0), pytest.MonkeyPatch.context() as patch:
        create = timm.create_model
        patch.setattr(tower.timm, "create_model", lambda name, **more: create(name, **tiny, **more))
        return shaken(tower.TimmModel(name, 48, 32, pool, proj))


def _parts(label: str, layout: str, hints: Hints, resized: bool = True, **changes: Any) -> Case:
    """A model of timm with parts that no plain ViT has."""
    changes = {"dynamic_img_size": True, **changes} if resized else changes
    make = lambda: timm_model(label, **changes)  # noqa: E731
    name = " ".join(["timm", label, *(name for name in changes if name != "dynamic_img_size")])
    return Case(name, "timm", layout, make, timm_features, timm_features if resized else None, hints)


def _hf_parts(kind: str, config: str, layout: str, features: Features, resized: Features | None, **hints: Any) -> Case:
    changes = hints.pop("changes", {})
    told = Hints(**{"heads": 4, "activation": "gelu", "norm_eps": 1e-6, "preprocess": UNUSUAL, **hints})
    label = " ".join(["hf", kind, *(name for name in changes if name in ("use_gated_mlp", "use_swiglu_ffn"))])
    return Case(label, "transformers", layout, lambda: hf_model(kind, config, **changes), features, resized, told)


_AT = {"interpolate_pos_encoding": True}
_FOUR = {"heads": 4, "preprocess": UNUSUAL}
_PE = {"rotary": Rotary(10000.0, "patches", 14, 1.0, "xy", "neighbours"), "pool_heads": 8}
_V3, _RADIO = {"rotary": Rotary(), "image_size": 32}, {"image_size": 32}
PARTS: tuple[Case, ...] = (
    _parts("vit_small_patch16_dinov3", "timm-eva-plain", Hints(pooling="average", **_FOUR, more=_V3)),
    _parts(
        "vit_small_plus_patch16_dinov3_qkvb",
        "timm-eva-swiglu",
        Hints(**_FOUR, more=_V3),
        global_pool="token",
    ),
    _parts("eva02_tiny_patch14_224", "timm-eva-fc-norm", Hints(**_FOUR)),
    _parts("eva02_base_patch16_clip_224", "timm-eva-split-swiglu", Hints(**_FOUR)),
    _parts("vit_pe_core_base_patch16_224", "timm", Hints(activation="gelu", norm_eps=1e-5, **_FOUR, more=_PE)),
    _parts("vit_base_patch16_siglip_224", "timm", Hints(activation="gelu", **_FOUR)),
    _parts("aimv2_large_patch14_224", "timm-swiglu", Hints(**_FOUR), mlp_ratio=2.75),
    _parts("vit_base_patch16_224", "timm", Hints(activation="gelu", **_FOUR), qk_norm=True),
    _parts("vit_giant_patch14_dinov2", "timm", Hints(activation="silu", **_FOUR), mlp_ratio=4),
    Case(
        *("open_clip siglip tower", "open_clip", "open-clip-timm"),
        make=lambda: open_clip_tower("vit_base_patch16_siglip_224", "map", "none"),
        features=lambda m, x: m(x),
        hints=Hints(activation="gelu", **_FOUR),
    ),
    Case(
        *("open_clip eva02 tower", "open_clip", "open-clip-timm-eva-split-swiglu"),
        make=lambda: open_clip_tower("eva02_base_patch16_clip_224", "token", ""),
        features=lambda m, x: m(x),
        hints=Hints(**_FOUR),
    ),
    _hf_parts(
        *("DINOv3ViTModel", "DINOv3ViTConfig", "hf-dinov3", _pooled(), _pooled()),
        norm_eps=1e-5,
        more=_V3,
        changes={"num_register_tokens": 2},
    ),
    _hf_parts(
        *("DINOv3ViTModel", "DINOv3ViTConfig", "hf-dinov3", _pooled(), _pooled()),
        norm_eps=1e-5,
        activation="silu",
        more=_V3,
        changes={"num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    _hf_parts(
        *("SiglipVisionModel", "SiglipVisionConfig", "hf-siglip", _pooled(), _pooled(**_AT)), activation="gelu_tanh"
    ),
    _hf_parts(
        *("Aimv2VisionModel", "Aimv2VisionConfig", "hf-aimv2", _mean(), None),
        activation="silu",
        norm_eps=1e-5,
        changes={"use_head": False},
    ),
    _hf_parts(
        *("Tipsv2VisionModel", "Tipsv2VisionConfig", "hf-dinov2", _pooled(), _pooled()),
        antialias=True,
        more={"resampling": "bilinear"},
    ),
    _hf_parts(
        *("RadioModel", "RadioConfig", "hf-radio", _summary, _summary), more=_RADIO, changes={"max_img_size": 64}
    ),
    _hf_parts(*("IJepaModel", "IJepaConfig", "hf-ijepa", _mean(), _mean(**_AT)), norm_eps=1e-12),
    _hf_parts(
        *("MetaClip2VisionModelWithProjection", "MetaClip2VisionConfig", "hf-clip", _embeds(), _embeds(**_AT)),
        activation="quick_gelu",
        norm_eps=1e-5,
    ),
    _parts(
        *("naflexvit_base_patch16_siglip", "timm-naflex", Hints(preprocess=UNUSUAL, heads=4), False),
        **{"pos_embed_grid_size": (4, 4), "num_classes": 0},
    ),
    _parts("beit_base_patch16_224", "timm-beit-fc-norm", Hints(preprocess=UNUSUAL), resized=False, num_classes=0),
    _parts(
        *("beit_base_patch16_224", "timm-beit-shared", Hints(preprocess=UNUSUAL), False),
        **{"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "global_pool": "token"},
    ),
    _hf_parts(
        *("BeitModel", "BeitConfig", "hf-beit", _pooled(), _pooled()),
        norm_eps=1e-12,
        changes={"use_relative_position_bias": True},
    ),
    _hf_parts(
        *("Dinov2Model", "Dinov2Config", "hf-dinov2", _pooled(), _pooled()),
        activation="silu",
        changes={"use_swiglu_ffn": True},
    ),
)

_CLIP = ("CLIPVisionModelWithProjection", "CLIPVisionConfig", "hf-clip", _embeds(), _embeds(**_AT))
CASES: tuple[Case, ...] = (
    _timm("vit_tiny_patch16_224"),
    _timm("vit_small_patch16_224", label="vit without qkv bias", qkv_bias=False),
    _timm("deit_tiny_patch16_224", label="deit", num_classes=7),
    _timm("deit3_small_patch16_224", label="deit3 (layer scale, class token without position)"),
    _timm("vit_base_patch32_clip_224"),
    _timm("vit_base_patch32_clip_quickgelu_224"),
    _timm("vit_small_patch14_dinov2"),
    _timm("vit_small_patch14_reg4_dinov2"),
    _timm("vit_base_patch16_224", "timm-fc-norm", "average pooling, norm behind it", global_pool="avg"),
    _timm("vit_base_patch16_224", label="average pooling behind the norm", global_pool="avg", fc_norm=False),
    _timm("vit_base_patch16_224", label="mlp ratio 3", mlp_ratio=3.0),
    _timm("vit_tiny_patch16_224", label="gelu by tanh", act_layer="gelu_tanh"),
    _timm("vit_medium_patch16_gap_240"),
    _timm("vit_wee_patch16_reg1_gap_256", "timm-fc-norm"),
    _open_clip("quick gelu"),
    _open_clip("gelu", quick=False),
    _open_clip("layer scale, mlp ratio 3", quick=False, ls_init_value=0.3, mlp_ratio=3.0),
    _open_clip("average pooling without ln_pre", False, pool_type="avg", final_ln_after_pool=True, no_ln_pre=True),
    _open_clip("eps", quick=False, norm_kwargs={"eps": 1e-3}),
    _hf("CLIPVisionModelWithProjection", "CLIPVisionConfig", "hf-clip", _embeds(), _embeds(**_AT)),
    _hf(
        "CLIPVisionModelWithProjection", "CLIPVisionConfig", "hf-clip", _embeds(), _embeds(**_AT), hidden_act="gelu_new"
    ),
    _hf("CLIPVisionModel", "CLIPVisionConfig", "hf-clip", _pooled(), _pooled(**_AT)),
    _hf("ViTModel", "ViTConfig", "hf-vit", _first_token(), _first_token(**_AT)),
    _hf("ViTModel", "ViTConfig", "hf-vit", _first_token(), _first_token(**_AT), qkv_bias=False),
    _hf("Dinov2Model", "Dinov2Config", "hf-dinov2", _pooled(), _pooled()),
    _hf(
        *("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "hf-dinov2", _pooled(), _pooled()),
        num_register_tokens=3,
    ),
    *PARTS,
)
BY_NAME = {case.name: case for case in CASES}


@cache
def model(name: str) -> nn.Module:
    """The model of the case, shared by all tests; for reading only."""
    return BY_NAME[name].make()


def images(size: int = 32, count: int = 2) -> Tensor:
    """Float images (count, 3, size, size) in 0..1."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def largest(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def query(**hints: Any) -> str:
    """Hints as they stand behind a file's name."""
    return "?" + "&".join(f"{name}={json.dumps(value).strip(chr(34))}" for name, value in hints.items())
