"""Checkpoints, backbones, adapters and fitted models."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from law import TARGETS, Target, target
from torch import nn

from vitadapt.classifier.fit_record import read_record
from vitadapt.classifier.model import load_model
from vitadapt.classifier.predict import model_facts
from vitadapt.methods import LoRA
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.surgery import adapt, seeded, trainable
from vitadapt.training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes, load_adapter
from vitadapt.weights import load_backbone, load_state_file

# Weights


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.table = nn.Parameter(torch.ones(3, 4).T)
        self.register_buffer("small", torch.arange(3, dtype=torch.float16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) @ self.table


def tensors() -> dict[str, torch.Tensor]:
    with seeded(0):
        return {
            "a.weight": torch.randn(3, 4),
            "a.bias": torch.zeros(3),
            "n": torch.arange(5),
            "h": torch.ones(2).half(),
        }


def _loaded(folder: Path, name: str) -> None:
    from copy import deepcopy

    deepcopy({key: t.float() for key, t in load_state_file(folder / name).items()})


def _weights_target(kind: str, write: Callable[[Path], None]) -> None:
    def prepare(folder: Path) -> list[Path]:
        write(folder / "w.bin")
        return [folder / "w.bin"]

    TARGETS[kind] = Target(kind, "weights", prepare, lambda folder: _loaded(folder, "w.bin"))


def _safe(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors(), path, {"format": "pt"})


_weights_target("safetensors", _safe)
_weights_target("torch zip", lambda path: torch.save({"model": tensors(), "epoch": 3}, path))
_weights_target(
    "torch legacy", lambda path: torch.save({"state_dict": tensors()}, path, _use_new_zipfile_serialization=False)
)
_weights_target("torchscript", lambda path: torch.jit.trace(Scripted(), torch.zeros(2, 3)).save(str(path)))


def _members_target(kind: str, write: Callable[[Path], None]) -> None:
    """The files inside a zip of torch, damaged without breaking the checksums around them."""

    def prepare(folder: Path) -> list[Path]:
        write(folder / "whole")
        with zipfile.ZipFile(folder / "whole") as archive:
            archive.extractall(folder / "members")
        (folder / "whole").unlink()
        return sorted(path for path in (folder / "members").rglob("*") if path.is_file())

    def read(folder: Path) -> None:
        with zipfile.ZipFile(folder / "w.bin", "w") as archive:
            for path in sorted((folder / "members").rglob("*")):
                archive.write(path, path.relative_to(folder / "members"))
        _loaded(folder, "w.bin")

    TARGETS[kind] = Target(kind, "weights", prepare, read)


_members_target("torch zip members", lambda path: torch.save({"model": tensors(), "epoch": 3}, path))
_members_target("torchscript members", lambda path: torch.jit.trace(Scripted(), torch.zeros(2, 3)).save(str(path)))


def _backbone(folder: Path) -> None:
    vit: Any = load_backbone(f"file:{folder}")
    with torch.no_grad():
        vit(torch.zeros(1, 3, vit.image_size, vit.image_size))


_HF = {"model_type": "vit", "hidden_size": 64, "num_attention_heads": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [1.0, 1.0, 0.5],
    "size": {"shortest_edge": 40},
    "crop_size": 32,
}


@target("hugging face folder", "weights", _backbone)
def _folder(folder: Path) -> list[Path]:
    from safetensors.torch import save_file

    from vitadapt.weights import write_state

    vit: Any = load_backbone("random:tiny")
    state = write_state(vit, "hf-vit")
    names = sorted(state)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: state[name].contiguous() for name in held}, folder / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    config = {**_HF, "num_attention_heads": vit.config.heads, "hidden_size": vit.config.width}
    for name, content in {
        "config.json": config,
        "preprocessor_config.json": _PROCESSOR,
        "model.safetensors.index.json": index,
    }.items():
        (folder / name).write_text(json.dumps(content))
    return sorted(folder.iterdir())


@target("timm folder", "weights", _backbone)
def _timm_folder(folder: Path) -> list[Path]:
    from safetensors.torch import save_file

    from vitadapt.weights import write_state

    vit: Any = load_backbone("random:tiny")
    save_file({n: t.contiguous() for n, t in write_state(vit, "timm").items()}, folder / "model.safetensors")
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "interpolation": "bicubic"}
    config = {
        "architecture": "vit_base_patch16_224",
        "model_args": {"num_heads": vit.config.heads},
        "pretrained_cfg": cfg,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return [folder / "config.json"]


@target("open_clip folder", "weights", _backbone)
def _open_clip_folder(folder: Path) -> list[Path]:
    import weights_cases
    from safetensors.torch import save_file

    state = weights_cases.open_clip_model().state_dict()
    save_file({name: t.contiguous().clone() for name, t in state.items()}, folder / "open_clip_model.safetensors")
    vision = {"layers": 2, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 32}
    model = {"embed_dim": 48, "quick_gelu": True, "vision_cfg": vision, "text_cfg": {"width": 32}}
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return [folder / "open_clip_config.json"]


@target("convnext folder", "weights", _backbone)
def _convnext(folder: Path) -> list[Path]:
    import weights_cases
    from transformers import ConvNextConfig, ConvNextModel

    sizes: Any = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32}
    weights_cases.shaken(ConvNextModel(ConvNextConfig(**sizes))).save_pretrained(folder)
    return [folder / "config.json"]


# Adapters and fitted models


@cache
def _tiny() -> tuple[Any, str]:
    backbone: Any = load_backbone("random:tiny")
    return backbone, backbone_digest(backbone)


@cache
def _adapter_bytes() -> bytes:
    backbone, base = _tiny()
    model = Classifier(adapt(backbone, LoRA(rank=1), 1), Head(backbone.features, 3)).eval()
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.05)
    return adapter_bytes(model, AdapterInfo(LoRA(rank=1), "random:tiny", backbone.image_size, ("a", "b", "c"), base))


@target("adapter", "adapters and models", lambda folder: load_adapter(folder / ADAPTER, *_tiny()))
def _adapter(folder: Path) -> list[Path]:
    (folder / ADAPTER).write_bytes(_adapter_bytes())
    return [folder / ADAPTER]


def _model(folder: Path) -> None:
    json.dumps(model_facts(folder))
    read_record(folder)
    model = load_model(folder)
    assert model.predict_proba([np.zeros((9, 9, 3), np.uint8)]).shape == (1, 3)


@target("fitted model", "adapters and models", _model)
def _fitted(folder: Path) -> list[Path]:
    _adapter(folder)
    record = {"format": "vitadapt-fit/1", "test": {"accuracy": 50.0, "interval": [40.0, 60.0], "count": 8}}
    (folder / "fit.json").write_text(json.dumps(record))
    return [folder / ADAPTER, folder / "fit.json"]


def _peft_read(folder: Path) -> None:
    from vitadapt.classifier.export.peft_import import import_peft

    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    import_peft(folder / "peft", "random:tiny", None, out)


@target("peft adapter", "adapters and models", _peft_read)
def _peft(folder: Path) -> list[Path]:
    from safetensors.torch import save_file

    backbone, _ = _tiny()
    d, place = backbone.config.width, folder / "peft"
    place.mkdir()
    state, head = {}, "base_model.model.classifier"
    for block in range(backbone.config.depth):
        at = f"base_model.model.vit.encoder.layer.{block}.attention.attention.query"
        state |= {f"{at}.lora_A.weight": torch.ones(2, d), f"{at}.lora_B.weight": torch.ones(d, 2) / 9}
    state |= {f"{head}.weight": torch.ones(3, backbone.features), f"{head}.bias": torch.zeros(3)}
    save_file(state, place / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "bias": "none"}
    (place / "adapter_config.json").write_text(json.dumps(config))
    (place / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b", "2": "c"}}))
    return sorted(place.iterdir())
