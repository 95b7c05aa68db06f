"""An adapter that was trained on one library's copy of a network loads on another library's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import weights_cases as cases

from vitadapt.methods import LoRA
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.surgery import adapt, seeded, trainable
from vitadapt.training.adapter_file import AdapterInfo, adapter_bytes, load_adapter
from vitadapt.utils.errors import WeightsError
from vitadapt.weights import CONVERTERS, from_module, write_state

_GATED = {"use_gated_mlp": True, "hidden_act": "silu", "query_bias": True, "value_bias": True}
COPIES: dict[str, tuple[str, dict[str, Any]]] = {
    "open_clip quick gelu": ("CLIPVisionModelWithProjection CLIPVisionConfig", {}),
    "timm vit_tiny_patch16_224": ("ViTModel ViTConfig", {"layer_norm_eps": 1e-6}),
    "timm vit_small_patch14_dinov2": ("Dinov2Model Dinov2Config", {"mlp_ratio": 4}),
    "timm vit_small_patch14_reg4_dinov2": (
        "Dinov2WithRegistersModel Dinov2WithRegistersConfig",
        {"mlp_ratio": 4, "num_register_tokens": 4},
    ),
    "timm vit_small_plus_patch16_dinov3_qkvb global_pool": (
        "DINOv3ViTModel DINOv3ViTConfig",
        {"num_register_tokens": 4, **_GATED},
    ),
    "timm vit_base_patch16_siglip_224": ("SiglipVisionModel SiglipVisionConfig", {}),
    "timm aimv2_large_patch14_224 mlp_ratio": ("Aimv2VisionModel Aimv2VisionConfig", {"use_head": False}),
    "timm beit_base_patch16_224 num_classes": (
        "BeitModel BeitConfig",
        {"use_relative_position_bias": True, "layer_norm_eps": 1e-6},
    ),
}
"""A case of timm or open_clip -> the class of transformers, its configuration's, and what its copy needs."""


def copies(case: str) -> tuple[Any, Any]:
    """The networks, in our words, of one library and of transformers' model that was given the same weights."""
    kinds, changes = COPIES[case]
    first = from_module(cases.model(case), cases.UNUSUAL)
    known = {"intermediate_size": first.config.mlp_width, "hidden_act": first.config.activation}
    if first.config.activation == "gelu_tanh":
        known["hidden_act"] = "gelu_pytorch_tanh"
    kind, config = kinds.split()
    model: Any = cases.hf_model(kind, config, **{**known, **changes})
    places = [(layout.name, p) for layout in CONVERTERS.values() if layout.name[:3] == "hf-" for p in layout.prefixes]
    for layout, prefix in places:
        try:
            state = write_state(first, layout, prefix)
        except WeightsError:
            continue
        if state.keys() <= model.state_dict().keys():
            model.load_state_dict(state, strict=False)
            break
    return first, from_module(model, cases.UNUSUAL)


def adapter(backbone: Any, path: Path) -> Classifier:
    with seeded(1):
        adapted = adapt(backbone, LoRA())
        for parameter in trainable(adapted).values():
            parameter.data += 0.05 * torch.randn(parameter.shape)
        model = Classifier(adapted, Head(backbone.features, 3)).eval()
        model.head.linear.weight.data.normal_()
    info = AdapterInfo(LoRA(), "random:tiny", backbone.image_size, ("a", "b", "c"), backbone_digest(backbone))
    path.write_bytes(adapter_bytes(model, info))
    return model


@pytest.mark.parametrize("case", COPIES)
@pytest.mark.parametrize("back", [False, True], ids=["to transformers", "from transformers"])
def test_an_adapter_moves_to_another_librarys_copy(case: str, back: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers"), pytest.importorskip(cases.BY_NAME[case].library)
    here, there = copies(case)[:: -1 if back else 1]
    trained, images = adapter(here, tmp_path / "adapter.safetensors"), cases.images()
    split = here.config.positions and here.config.class_position and here.config.registers
    if back and split:  # the sum of class token and position is no more
        with pytest.raises(WeightsError, match="this backbone is another"):
            load_adapter(tmp_path / "adapter.safetensors", there)
        return
    with torch.no_grad():
        torch.testing.assert_close(
            load_adapter(tmp_path / "adapter.safetensors", there)(images), trained(images), atol=1e-5, rtol=1e-5
        )


def test_other_weights_are_another_backbone(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    name = "timm vit_small_patch14_dinov2"
    here = from_module(cases.model(name), cases.UNUSUAL)
    adapter(here, tmp_path / "adapter.safetensors")
    there = from_module(cases.model(name), cases.UNUSUAL)
    there.blocks[1].norm2.bias.data[0] += 1e-3
    with pytest.raises(WeightsError, match="this backbone is another"):
        load_adapter(tmp_path / "adapter.safetensors", there)
