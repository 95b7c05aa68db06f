"""Export to transformers: a folder for `from_pretrained`, written by the library itself.

ViT, DINOv2, BEiT and I-JEPA become image classifiers with their labels. For DINOv3, SigLIP's pooling and AIMv2 the
library has none, and its CLIP classifier averages patches, which is another function than ours: these become their
vision models, with the head in a file of its own (`heads`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from ...nn.text_transformer import TextConfig
from ...nn.vit import Rotary, ViT, ViTConfig
from ...report.model_card import model_card
from ...training.adapter_file import AdapterInfo
from ...utils.errors import NotApplicable, WeightsError
from ...utils.optional import package, quiet_transformers
from ...weights import CONVERTERS, write_state
from ...weights.checkpoint_files import load_state_file, read_json
from ..documents import CARD, fitted_of, split_of
from ..fit_record import RECORD, read_record
from .certificate import TARGETS, Options, Program, Target, normaliser, write_json
from .comparison import Run
from .deployed import PlainHead, TrainedModel, merged, read_head, write_head
from .text import FILE, write_text

_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}
_ACTIVATIONS |= {"relu": "relu", "silu": "silu"}


@dataclass(frozen=True)
class Family:
    """A kind of model in transformers: its classes, our layouts for it, and how its tensors' names begin."""

    config: str
    model: str
    layouts: tuple[str, ...]
    prefix: str = ""
    classifies: bool = True


_CLIP_LAYOUTS = ("hf-clip", "hf-clip-tower")
_VIT = Family("ViTConfig", "ViTForImageClassification", ("hf-vit", "hf-vit-memory"), "vit.")
_DINO_LAYOUTS = ("hf-dinov2", "hf-dinov2-memory")
_DINOV2 = Family("Dinov2Config", "Dinov2ForImageClassification", _DINO_LAYOUTS, "dinov2.")
_REGISTERS = Family(
    *("Dinov2WithRegistersConfig", "Dinov2WithRegistersForImageClassification", _DINO_LAYOUTS),
    prefix="dinov2_with_registers.",
)
_PROJECTED = Family("CLIPVisionConfig", "CLIPVisionModelWithProjection", _CLIP_LAYOUTS, classifies=False)
_CLIP = Family("CLIPVisionConfig", "CLIPVisionModel", _CLIP_LAYOUTS, classifies=False)

_SWIGLU = Family("Dinov2Config", _DINOV2.model, tuple(f"{name}-swiglu" for name in _DINO_LAYOUTS), "dinov2.")
_IJEPA = Family("IJepaConfig", "IJepaForImageClassification", ("hf-ijepa", "hf-ijepa-memory"), "ijepa.")
_DINOV3, _DINOV3_GATED = (
    Family("DINOv3ViTConfig", "DINOv3ViTModel", (f"hf-dinov3{end}", f"hf-dinov3-memory{end}"), classifies=False)
    for end in ("", "-swiglu")
)
_SIGLIP = Family("SiglipVisionConfig", "SiglipVisionModel", ("hf-siglip",), classifies=False)
_AIMV2 = Family("Aimv2VisionConfig", "Aimv2VisionModel", ("hf-aimv2",), classifies=False)
_BEIT = Family("BeitConfig", "BeitForImageClassification", ("hf-beit", "hf-beit-memory"), "beit.")
_WITH_PARTS: dict[frozenset[str], Family] = {
    frozenset({"pool_heads"}): _SIGLIP,
    frozenset({"gated"}): _SWIGLU,
    frozenset({"rotary", "positions"}): _DINOV3,
    frozenset({"rotary", "positions", "gated"}): _DINOV3_GATED,
    frozenset({"norm", "patch_norm", "gated", "linear_bias"}): _AIMV2,
    frozenset({"relative_grid"}): _BEIT,
    frozenset({"relative_grid", "positions"}): _BEIT,
}


def _with_parts(config: ViTConfig, parts: frozenset[str]) -> Family:
    """The kind that has these parts, and no others. Raises NotApplicable."""
    family = _WITH_PARTS.get(parts)
    pool = (config.pool_heads, config.pool_hidden or 4 * config.width, config.prefix)
    same_pool = family is not _SIGLIP or pool == (config.heads, config.mlp_width, 0)
    same_angles = config.rotary is None or config.rotary == Rotary(config.rotary.temperature)
    same_end = not config.projection and config.norm_after_pool == (family is _BEIT)
    if family is None or not (same_pool and same_angles and same_end):
        raise NotApplicable(f"no model of transformers has {min(parts)} like this; export --to timm or onnx")
    return family


def family_of(config: ViTConfig) -> Family:
    """The kind of model that can hold this network. Raises NotApplicable."""
    exact = {"resampling"} if config.resampling != "crop" else set()  # the size of images is fixed
    if parts := frozenset(config.parts) - exact:
        return _with_parts(config, parts)
    if (config.class_token, config.pooling, config.norm_after_pool, config.registers) == (False, "average", False, 0):
        return _IJEPA
    if not config.class_token or config.norm_after_pool:
        raise NotApplicable("no model of transformers has this way of pooling; export --to timm or onnx")
    if config.ln_pre:
        if config.pooling != "class":
            raise NotApplicable("transformers' CLIP reads the class token alone; export --to timm or onnx")
        return _PROJECTED if config.projection else _CLIP
    if config.layer_scale:
        return _REGISTERS if config.registers else _DINOV2
    return _VIT


@dataclass(frozen=True)
class LibraryModel:
    """A live model of transformers that holds a network of ours, and in which layout."""

    model: Any
    family: Family
    layout: str


def library_model(vit: ViT, head: PlainHead, info: AdapterInfo) -> LibraryModel:
    """The transformers model that holds the merged `vit`, and the head where the model has a place for it.

    Raises NotApplicable, WeightsError when a part has no place, NotMergeable for a head that is not linear.
    """
    transformers = package("transformers", "hf")
    family = family_of(vit.config)
    names = dict(enumerate(info.classes))
    about = {**_settings(vit.config, family), "id2label": names, "label2id": {name: i for i, name in names.items()}}
    about |= {"problem_type": "multi_label_classification"} if info.thresholds else {}
    model = getattr(transformers, family.model)(getattr(transformers, family.config)(**about)).eval()
    state, layout = _state_for(model, vit, family)
    if family.classifies:
        state |= _classifier(vit.config, family, *head.linear())
    lost = model.load_state_dict(state, strict=False).missing_keys
    if strange := [name for name in lost if not name.endswith(("mask_token", "position_ids"))]:
        raise WeightsError(f"transformers' {family.model} also needs {strange[0]}, which this model lacks; use onnx")
    return LibraryModel(model.requires_grad_(False), family, layout)


def _settings(config: ViTConfig, family: Family) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "hidden_act": _ACTIVATIONS[config.activation],
        "rms_norm_eps" if family is _AIMV2 else "layer_norm_eps": config.norm_eps,
    }
    if family is _SWIGLU:
        settings |= {"use_swiglu_ffn": True, "mlp_ratio": _swiglu_ratio(config), "qkv_bias": config.qkv_bias}
    elif family in (_DINOV2, _REGISTERS):
        if config.mlp_width % config.width:
            raise NotApplicable("transformers' DINOv2 has an MLP of a whole multiple of its width; use timm or onnx")
        settings |= {"mlp_ratio": config.mlp_width // config.width, "qkv_bias": config.qkv_bias}
    else:
        settings["intermediate_size"] = config.mlp_width
    if family in (_VIT, _IJEPA):
        settings["qkv_bias"] = config.qkv_bias
    if family in (_DINOV3, _DINOV3_GATED):
        bias = {"query_bias": config.qkv_bias, "value_bias": config.qkv_bias, "key_bias": False}
        theta = cast(Rotary, config.rotary).temperature
        settings |= {"rope_theta": theta, "use_gated_mlp": config.gated, **bias}
    if family is _AIMV2:
        settings["use_head"] = False
    if family is _BEIT:
        settings |= {"use_relative_position_bias": True, "use_absolute_position_embeddings": config.positions}
        settings["layer_scale_init_value"] = 0.1 if config.layer_scale else 0
    if config.projection:
        settings["projection_dim"] = config.projection
    if config.registers:
        settings["num_register_tokens"] = config.registers
    return settings


def _swiglu_ratio(config: ViTConfig) -> int:
    """DINOv2's setting that makes an MLP of this width: two thirds of the product, rounded up to a multiple of 8."""
    for ratio in range(1, 33):
        if (int(config.width * ratio * 2 / 3) + 7) // 8 * 8 == config.mlp_width:
            return ratio
    raise NotApplicable(f"transformers' DINOv2 has no gated MLP of width {config.mlp_width}; use timm or onnx")


def _state_for(model: nn.Module, vit: ViT, family: Family) -> tuple[dict[str, Tensor], str]:
    """The weights under the names that the installed version of the library uses, and the layout that has them."""
    known = model.state_dict().keys()
    for layout in family.layouts:
        for prefix in dict.fromkeys((family.prefix, *CONVERTERS[layout].prefixes)):
            state = write_state(vit, layout, prefix)
            if state.keys() <= known:
                return state, layout
    raise WeightsError(f"this version of transformers names the tensors of {family.model} in a new way; use onnx")


def _classifier(config: ViTConfig, family: Family, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The head in the library's place for it: DINOv2's classifier reads class token and patch average side by side."""
    if family in (_IJEPA, _BEIT):
        return {"classifier.weight": weight, "classifier.bias": bias}
    if family is _VIT:
        if config.pooling != "class":
            raise NotApplicable("transformers' ViT classifies by the class token alone; export --to timm or onnx")
    elif config.pooling != "class+average":
        zeros = torch.zeros_like(weight)
        weight = torch.cat([weight, zeros] if config.pooling == "class" else [zeros, weight], dim=1)
    return {"classifier.weight": weight, "classifier.bias": bias}


def write_processor(trained: TrainedModel, folder: Path) -> None:
    """preprocessor_config.json: shorter side to a length and centre crop, or both sides squashed; mean and std."""
    size, preprocess = trained.image_size, trained.base.preprocess
    square = {"height": size, "width": size}
    squash, side = trained.geometry.squash, trained.shorter_side
    content = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side} if squash else {"shortest_edge": side},
        "resample": int(Image.Resampling[trained.geometry.interpolation.upper()]),
        "do_center_crop": not squash or side > size,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    write_json(folder / "preprocessor_config.json", content)


def _write(trained: TrainedModel, folder: Path, _: Options) -> None:
    vit, head = merged(trained, "transformers"), PlainHead(trained.classifier.head)
    library = library_model(vit, head, trained.info)
    with quiet_transformers():
        library.model.save_pretrained(folder)
    write_processor(trained, folder)
    write_text(trained, folder, "hf")
    if not library.family.classifies:
        write_head(head, folder, trained.info.classes)
    elif trained.folder is not None and (trained.folder / RECORD).exists():  # what is known of it, for the hub
        record = read_record(trained.folder)
        fitted = fitted_of(record, split_of(record), trained.folder, thresholds=trained.info.thresholds)
        (folder / CARD).write_text(model_card(fitted, "transformers"), "utf-8")


def _reopen(folder: Path, trained: TrainedModel, _: Options) -> Program:
    transformers = package("transformers", "hf")
    kind = read_json(folder / "config.json")["architectures"][0]
    with quiet_transformers():
        model = getattr(transformers, kind).from_pretrained(folder, local_files_only=True).eval()
    found = program(model, folder)
    return found if trained.text_tower is None else replace(found, text=_text(trained.text_tower.config, folder))


def _text_model(config: TextConfig) -> Any:
    """A model of transformers with a text tower like this, and the smallest of image towers. Raises NotApplicable."""
    kind, reading, causal = ("Siglip", "last", False) if config.projection_bias else ("CLIP", "end", True)
    if (config.pooling, config.causal, config.layer_scale) != (reading, causal, False) or not config.projection:
        raise NotApplicable("transformers' CLIP and SigLIP have no text tower like this; export --to open_clip")
    text: dict[str, Any] = {
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "hidden_act": _ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
        "eos_token_id": config.end,
    }
    size = "projection_size" if config.projection_bias else "projection_dim"
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    transformers, shared = package("transformers", "hf"), {} if config.projection_bias else {size: config.projection}
    both = {"text_config": {**text, size: config.projection}, "vision_config": vision, **shared}
    return getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**both)).eval()


def _text(config: TextConfig, folder: Path) -> Run:
    """Token numbers (N, L) -> features (N, E) by the text file, loaded over a model as docs/export.md says."""
    model = _text_model(config)
    if strange := model.load_state_dict(load_state_file(folder / FILE), strict=False).unexpected_keys:
        raise WeightsError(f"this version of transformers names {strange[0]} in a new way; export --to open_clip")

    def run(tokens: Tensor) -> Tensor:
        found = model.get_text_features(input_ids=tokens)
        features: Tensor = getattr(found, "pooler_output", found)
        return features

    return run


def program(model: Any, folder: Path) -> Program:
    """Logits of a live model: its own, or of the head beside it; pictures are prepared by its processor."""
    transformers, about = package("transformers", "hf"), read_json(folder / "preprocessor_config.json")
    normalised = normaliser({"mean": about["image_mean"], "std": about["image_std"]})
    head, processor = read_head(folder), transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def logits(pixels: Tensor) -> Tensor:
        out = model(pixel_values=pixels)
        if head is None:
            found: Tensor = out.logits
            return found
        if "image_embeds" in out:
            return head(out.image_embeds)
        pooled = getattr(out, "pooler_output", None)
        return head(out.last_hidden_state.mean(dim=1) if pooled is None else pooled)

    def answer(file: Path) -> Tensor:
        image = transformers.image_utils.load_image(str(file))
        return logits(processor(image, return_tensors="pt")["pixel_values"])[0]

    return Program(lambda images: logits(normalised(images)), answer)


TARGETS.register("hf")(Target("Hugging Face transformers", ("transformers",), _write, _reopen))
