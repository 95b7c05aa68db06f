"""Export to transformers: a folder for `from_pretrained`, written by the library itself.

ViT and DINOv2 become image classifiers with their labels. The library's CLIP classifier averages patches, which is
another function than ours; a CLIP becomes its vision model, with the head in a file of its own (`heads`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...nn.vit import ViT, ViTConfig
from ...report.model_card import model_card
from ...training.adapter_file import AdapterInfo
from ...utils.errors import NotApplicable, WeightsError
from ...utils.optional import package
from ...weights import write_state
from ...weights.checkpoint_files import read_json
from ..documents import CARD, fitted_of, split_of
from ..fit_record import RECORD, read_record
from .certificate import TARGETS, Run, Target, normaliser, write_json
from .deployed import PlainHead, TrainedModel, merged, read_head, write_head

_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}


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


def family_of(config: ViTConfig) -> Family:
    """The kind of model that can hold this network. Raises NotApplicable."""
    if config.parts:
        raise NotApplicable(
            f"no classifier of transformers has {config.parts[0]} like this; export --to onnx or torch-export"
        )
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
        "layer_norm_eps": config.norm_eps,
    }
    if family in (_DINOV2, _REGISTERS):
        if config.mlp_width % config.width:
            raise NotApplicable("transformers' DINOv2 has an MLP of a whole multiple of its width; use timm or onnx")
        settings |= {"mlp_ratio": config.mlp_width // config.width, "qkv_bias": config.qkv_bias}
    else:
        settings["intermediate_size"] = config.mlp_width
    if family is _VIT:
        settings["qkv_bias"] = config.qkv_bias
    if config.projection:
        settings["projection_dim"] = config.projection
    if config.registers:
        settings["num_register_tokens"] = config.registers
    return settings


def _state_for(model: nn.Module, vit: ViT, family: Family) -> tuple[dict[str, Tensor], str]:
    """The weights under the names that the installed version of the library uses, and the layout that has them."""
    known = model.state_dict().keys()
    for layout in family.layouts:
        state = write_state(vit, layout, family.prefix)
        if state.keys() <= known:
            return state, layout
    raise WeightsError(f"this version of transformers names the tensors of {family.model} in a new way; use onnx")


def _classifier(config: ViTConfig, family: Family, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The head in the library's place for it: DINOv2's classifier reads class token and patch average side by side."""
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
    squash = trained.geometry.squash
    content = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": square if squash else {"shortest_edge": trained.shorter_side},
        "resample": 3,
        "do_center_crop": not squash,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    write_json(folder / "preprocessor_config.json", content)


def _write(trained: TrainedModel, folder: Path) -> None:
    vit, head = merged(trained, "transformers"), PlainHead(trained.classifier.head)
    library = library_model(vit, head, trained.info)
    with quiet():
        library.model.save_pretrained(folder)
    write_processor(trained, folder)
    if not library.family.classifies:
        write_head(head, folder, trained.info.classes)
    elif trained.folder is not None and (trained.folder / RECORD).exists():  # what is known of it, for the hub
        record = read_record(trained.folder)
        fitted = fitted_of(record, split_of(record), trained.folder, thresholds=trained.info.thresholds)
        (folder / CARD).write_text(model_card(fitted, "transformers"), "utf-8")


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block transformers shows no progress bars, and says nothing of what will change in its own code."""
    logging = package("transformers", "hf").utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _reopen(folder: Path, trained: TrainedModel) -> Run:
    transformers = package("transformers", "hf")
    kind = read_json(folder / "config.json")["architectures"][0]
    with quiet():
        model = getattr(transformers, kind).from_pretrained(folder, local_files_only=True).eval()
    return runner(model, folder, read_json(folder / "preprocessor_config.json"))


def runner(model: Any, folder: Path, processor: dict[str, Any]) -> Run:
    """Logits of a live model: its own, or of the head beside it over its features."""
    normalised = normaliser({"mean": processor["image_mean"], "std": processor["image_std"]})
    head = read_head(folder)

    def run(images: Tensor) -> Tensor:
        out = model(pixel_values=normalised(images))
        if head is None:
            logits: Tensor = out.logits
            return logits
        return head(out.image_embeds if "image_embeds" in out else out.pooler_output)

    return run


TARGETS.register("hf")(Target("Hugging Face transformers", ("transformers",), _write, _reopen))
