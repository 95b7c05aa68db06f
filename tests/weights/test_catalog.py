"""Every named backbone with random weights: its source's own architecture becomes a ViT of the size that the row says.

Without memory: the networks are on torch's meta device, where tensors have shapes and no values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from fault_cases import TASTE
from torch import nn

from vitadapt.nn.vit import ViT, ViTConfig
from vitadapt.utils.errors import WeightsError
from vitadapt.weights import config_of, layouts, read_state
from vitadapt.weights.catalog import BackboneRow, backbones
from vitadapt.weights.hints import Hints
from vitadapt.weights.hugging_face_config import describe as describe_hugging_face
from vitadapt.weights.open_clip_timm import hints_of_open_clip

AUTHORS = ("dinov2-", "dinov3-", "eupe-")
"""Those that are offered at the size of their authors' evaluation, not at that of the last epochs of their training."""


def converted(module: nn.Module, hints: Hints, prefix: str = "") -> ViTConfig:
    """What our ViT for `module` looks like. Positions get values: whether they are sines and cosines is asked."""
    state = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    return read_state(
        {n: torch.ones(t.shape) if n.endswith("pos_embed") else t for n, t in state.items()}, hints
    ).config


@cache
def from_timm(name: str, **changes: Any) -> ViTConfig | float:
    """Of a network that is no ViT, which gives features alone, the parameters in millions."""
    library = pytest.importorskip("timm")
    with torch.device("meta"):
        module = library.create_model(name, num_classes=0, **changes)
    try:
        live = next((live for live in (describe(module) for describe in layouts._DESCRIBE) if live is not None), None)
    except WeightsError:
        live = None
    if live is None:
        return sum(parameter.numel() for parameter in module.parameters()) / 1e6
    return converted(live.tower, live.hints)


@cache
def from_open_clip(arch: str, tag: str) -> ViTConfig | float:
    """As `from_timm`."""
    library = pytest.importorskip("open_clip")
    about, weights = library.get_model_config(arch), library.get_pretrained_cfg(arch, tag)
    with torch.device("meta"):
        tower = library.model._build_vision_tower(about["embed_dim"], about["vision_cfg"], about.get("quick_gelu"))
    if not isinstance(tower, (library.transformer.VisionTransformer, library.timm_model.TimmModel)):
        return sum(parameter.numel() for parameter in tower.parameters()) / 1e6
    return converted(tower, hints_of_open_clip(about, weights), "visual.")


def from_hugging_face(model: str, config: str, **sizes: Any) -> ViTConfig:
    library = pytest.importorskip("transformers")
    with torch.device("meta"):
        module = getattr(library, model)(getattr(library, config)(**sizes))
    live = describe_hugging_face(module)
    assert live is not None
    return converted(module, live.hints)


_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
_HUGE = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120}
ELSEWHERE: dict[str, Callable[[], ViTConfig | float]] = {
    "mocov3-b16": lambda: config_of("mocov3-b16"),
    "uni-l16": lambda: from_timm("vit_large_patch16_224", init_values=1e-5),
    "bioclip2-l14": lambda: from_open_clip("ViT-L-14", "laion2b_s32b_b82k"),
    "ijepa-h14": lambda: from_hugging_face("IJepaModel", "IJepaConfig", **_HUGE, patch_size=14),
    "phikon-v2-l16": lambda: from_hugging_face("Dinov2Model", "Dinov2Config", **_LARGE, patch_size=16, image_size=224),
    "c-radio-v4-h16": lambda: from_hugging_face("RadioModel", "RadioConfig"),
}
"""Rows whose architecture no library knows by name: as their authors describe it."""


LARGE = 60  # millions of parameters, above which a row takes a quarter of a second or more


@pytest.mark.parametrize("row", backbones().values(), ids=lambda row: row.name)
def test_a_row_is_what_its_source_builds(row: BackboneRow) -> None:
    if (row.parameters or 0) > LARGE and TASTE:
        pytest.skip("takes minutes: make test-faults (or VITADAPT_KILLS=12)")
    found = []
    for source in row.sources:
        scheme, _, rest = source.partition(":")
        if scheme == "timm":
            found.append(from_timm(rest))
        elif scheme == "open_clip":
            found.append(from_open_clip(*rest.split("/")))
    if row.name in ELSEWHERE:
        found.append(ELSEWHERE[row.name]())
    if not found and row.source.startswith(("offline:", "url:")):
        pytest.skip("its own test reads it")
    for config in found:
        if isinstance(config, float):
            assert config == pytest.approx(row.parameters, abs=0.06)
            continue
        with torch.device("meta"):
            millions = sum(parameter.numel() for parameter in ViT(config).parameters()) / 1e6
        assert millions == pytest.approx(row.parameters, abs=0.06)
        native = config.image_size // config.patch * config.patch
        assert row.image_size == native or row.name.startswith(AUTHORS) or row.name in ELSEWHERE
        assert row.image_size % config.patch == 0
    assert found and len({config.features for config in found if isinstance(config, ViTConfig)}) <= 1
    assert row.text == (row.source.startswith("open_clip:") or row.name == "bioclip2-l14")
