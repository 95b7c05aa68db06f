"""Every converter gives the features of the source library's own module, and its tensors back bit for bit."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import weights_cases as cases
from torch import nn
from weights_cases import CASES, Case, images, largest

from vitadapt.nn.vit import Preprocess
from vitadapt.utils.errors import VitadaptError, WeightsError
from vitadapt.weights import CONVERTERS, build, from_module, read_state, write_state
from vitadapt.weights.catalog import backbones
from vitadapt.weights.hints import hints_of_config

TOLERANCE = 1e-5
OPTIONAL = {"reg_token", "embeddings.register_tokens", "visual_projection.weight"}
"""Tensors without which a state dict is that of another complete model."""
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each_case
def test_live_module_and_its_copy_agree(case: Case) -> None:
    module = cases.model(case.name)
    vit = from_module(module, preprocess=cases.UNUSUAL)
    assert vit.preprocess == cases.UNUSUAL
    assert not any(p.requires_grad for p in vit.parameters()) and not vit.training
    x = images()
    with torch.no_grad():
        assert largest(case.features(module, vit.normalise(x)), vit(x)) <= TOLERANCE


@pytest.mark.parametrize("case", [c for c in CASES if c.resized is not None], ids=lambda case: case.name)
@pytest.mark.parametrize("size", [24, 56])
def test_they_agree_at_another_image_size(case: Case, size: int) -> None:
    """Not for open_clip, which resamples positions only when it loads a file."""
    vit, x = from_module(cases.model(case.name), preprocess=cases.UNUSUAL), images(size)
    with torch.no_grad():
        assert case.resized is not None
        theirs = case.resized(cases.model(case.name), vit.normalise(x))
        assert largest(theirs, vit(x)) <= TOLERANCE
        vit.resize(size)
        assert largest(theirs, vit(x)) <= TOLERANCE


@each_case
def test_state_dict_alone_and_hints_give_the_same_model(case: Case) -> None:
    module = cases.model(case.name)
    state = module.state_dict()
    converted = read_state(state, case.hints)
    assert converted.layout.startswith(case.layout)  # the library's version decides which of two spellings it is
    assert converted.config == from_module(module, case.hints.preprocess).config
    vit, x = build(converted.config, converted.state), images()
    with torch.no_grad():
        assert largest(case.features(module, vit.normalise(x)), vit(x)) <= TOLERANCE


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_round_trip_is_exact(case: Case, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in cases.model(case.name).state_dict().items()}
    converted = read_state(state, case.hints)
    back = CONVERTERS[converted.layout].write(converted.config, converted.state, converted.prefix)
    assert back.keys() | converted.rest.keys() == state.keys() and not back.keys() & converted.rest.keys()
    for name, tensor in (back | converted.rest).items():
        assert tensor.dtype == dtype and tensor.shape == state[name].shape and torch.equal(tensor, state[name]), name


@each_case
def test_copy_shares_no_memory_and_leaves_the_module_as_it_was(case: Case) -> None:
    module = copy.deepcopy(cases.model(case.name)).train()
    vit = from_module(module)
    theirs = {p.data_ptr() for p in module.parameters()}
    assert all(p.data_ptr() not in theirs for p in vit.parameters())
    assert all(m.training for m in module.modules())


@each_case
@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("blocks.0.attn.gate.weight", "gated attention"),
        ("dist_token", "a distillation token"),
        ("something.else", "a tensor that a plain ViT lacks"),
    ],
)
def test_a_tensor_that_no_plain_vit_has_is_refused(case: Case, name: str, feature: str) -> None:
    state = cases.model(case.name).state_dict()
    prefix = read_state(state, case.hints).prefix
    with pytest.raises(WeightsError, match=f"{feature}.*{re.escape(name)}.*the nearest backbone that can: ") as raised:
        read_state(state | {prefix + name: torch.zeros(2)}, case.hints)
    assert str(raised.value).rpartition(": ")[2].rstrip(")") in backbones()


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("timm vit_base_patch32_clip_224", "heads, activation"),
        ("timm vit_medium_patch16_gap_240", "heads, activation, preprocess"),
        ("timm deit", "heads, preprocess"),
        ("open_clip gelu", "activation"),
        ("open_clip average pooling without ln_pre", "activation, pooling"),
        ("hf CLIPVisionModel", "activation"),
        ("hf ViTModel", "heads, activation, norm_eps, preprocess"),
    ],
)
def test_what_tensors_do_not_tell_is_asked_for_and_never_guessed(name: str, unknown: str) -> None:
    with pytest.raises(WeightsError, match=f"do not tell {unknown}; add them"):
        read_state(cases.model(name).state_dict())


@each_case
def test_any_tensor_that_is_missing_or_mis_shaped_is_named(case: Case) -> None:
    state = cases.model(case.name).state_dict()
    converted = read_state(state, case.hints)
    used = sorted(state.keys() - converted.rest.keys())
    for name in used:
        if name in OPTIONAL or (name == "cls_token" and not converted.config.class_position):
            continue
        without = {other: t for other, t in state.items() if other != name}
        with pytest.raises(WeightsError):
            read_state(without, case.hints)
    ends = (
        "1.mlp.fc2.weight",
        "1.mlp.c_proj.weight",
        "1.output.dense.weight",
        "1.mlp.down_proj.weight",
        "1.ffn.down_proj.weight",
    )
    name = next(n for n in used if n.endswith(ends))
    layer = name.rpartition("mlp")[0] or name.rpartition("output")[0] or name.rpartition("ffn")[0]
    with pytest.raises(WeightsError, match="tensors disagree.*" + re.escape(layer[-8:])):
        read_state(state | {name: torch.zeros(8, 8)}, case.hints)


@pytest.mark.parametrize(
    "name", ["timm vit_small_patch14_dinov2", "timm vit_small_patch14_reg4_dinov2", "hf Dinov2Model"]
)
@pytest.mark.parametrize("target", ["timm", "hf-dinov2", "hf-dinov2-memory", "dinov2"])
def test_a_model_can_move_to_another_library(name: str, target: str) -> None:
    vit = from_module(cases.model(name))
    state = write_state(vit, target)
    if target == "dinov2":
        state["mask_token"] = torch.zeros(1, 64)  # part of every such file, of no use to us
    hints = hints_of_config(vit.config)
    converted = CONVERTERS[target].read(state, hints)
    moved, x = build(converted.config, converted.state), images()
    with torch.no_grad():
        assert largest(moved(x), vit(x)) <= TOLERANCE


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("hf-dinov2", r"it needs blocks\.0\.scale1\.gamma"),
        ("openai-clip", "it needs projection|it has no place for patches"),
        ("nonsense", "unknown checkpoint layout"),
    ],
)
def test_a_layout_that_cannot_hold_the_model_says_why(target: str, reason: str) -> None:
    with pytest.raises(VitadaptError, match=reason):
        write_state(from_module(cases.model("timm deit")), target)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("timm vit_small_patch16_dinov3", "hf-dinov3"),
        ("timm vit_small_plus_patch16_dinov3_qkvb global_pool", "hf-dinov3-memory-swiglu"),
        ("hf DINOv3ViTModel", "timm-eva"),
        ("timm vit_base_patch16_siglip_224", "hf-siglip"),
        ("hf SiglipVisionModel", "open-clip-timm"),
        ("timm aimv2_large_patch14_224 mlp_ratio", "hf-aimv2"),
        ("timm beit_base_patch16_224 num_classes", "hf-beit-memory"),
        ("hf BeitModel", "timm-beit-fc-norm"),
    ],
)
def test_parts_can_move_to_another_library(name: str, target: str) -> None:
    vit = from_module(cases.model(name), cases.UNUSUAL)
    hints = replace(hints_of_config(vit.config), more={**hints_of_config(vit.config).more, "image_size": 32})
    converted = CONVERTERS[target].read(write_state(vit, target), hints)
    moved, x = build(converted.config, converted.state), images()
    with torch.no_grad():
        assert largest(moved(x), vit(x)) <= TOLERANCE


def test_registers_of_hugging_face_load_strictly_into_timm() -> None:
    vit = from_module(cases.model("hf Dinov2WithRegistersModel num_register_tokens"))
    target = cases.timm_model("vit_small_patch14_reg4_dinov2", num_classes=0, reg_tokens=3, mlp_ratio=4)
    target.load_state_dict(write_state(vit, "timm"), strict=True)
    x = images()
    with torch.no_grad():
        assert largest(cases.timm_features(target, vit.normalise(x)), vit(x)) <= TOLERANCE


def test_registers_of_timm_load_strictly_into_hugging_face() -> None:
    """There the class token has a position, which must be zero."""
    vit = from_module(cases.model("timm vit_small_patch14_reg4_dinov2"))
    config = {"num_register_tokens": 4, "mlp_ratio": 4}
    target: Any = cases.hf_model("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **config)
    newer = any("q_proj" in name for name in target.state_dict())  # names in memory; those in files stayed as they were
    state = write_state(vit, "hf-dinov2-memory" if newer else "hf-dinov2")
    target.load_state_dict(state | {"embeddings.mask_token": torch.zeros(1, 64)}, strict=True)
    x = images()
    with torch.no_grad():
        assert largest(target(pixel_values=vit.normalise(x)).pooler_output, vit(x)) <= TOLERANCE


def test_plain_norm_is_written_with_neutral_weights() -> None:
    vit = from_module(cases.model("timm deit"))
    state = {name: t for name, t in vit.state_dict().items() if not name.startswith("norm.")}
    plain = build(replace(vit.config, final_norm="plain"), state)
    written = write_state(plain, "timm")
    assert torch.equal(written["norm.weight"], torch.ones(64)) and torch.equal(written["norm.bias"], torch.zeros(64))


def test_the_image_tower_alone_and_half_precision() -> None:
    """`visual` is as good as the whole CLIP, and a module in half precision gives float32 weights."""
    clip: Any = cases.model("open_clip quick gelu")
    whole, tower, half = from_module(clip), from_module(clip.visual), from_module(copy.deepcopy(clip).half())
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, tower.state_dict()[name])
        assert half.state_dict()[name].dtype == torch.float32 and torch.equal(tensor.half(), half.state_dict()[name])


def test_real_open_clip_architecture() -> None:
    """ViT-B/32 with quick GELU, full size: what OpenAI's own weights are loaded into."""
    open_clip = pytest.importorskip("open_clip")
    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    config["text_cfg"] = cases.TINY_TEXT
    module = cases.shaken(open_clip.CLIP(**config), size=0.01)
    vit, x = from_module(module), images(224, count=1)
    assert vit.config.activation == "quick_gelu" and vit.features == 512 and vit.config.heads == 12
    with torch.no_grad():
        assert largest(module.encode_image(vit.normalise(x)), vit(x)) <= TOLERANCE


@pytest.mark.parametrize(("name", "heads"), [("vit_tiny_patch16_224", 3), ("vit_base_patch32_clip_224", 12)])
def test_real_timm_architectures(name: str, heads: int) -> None:
    timm = pytest.importorskip("timm")
    module = cases.shaken(timm.create_model(name, pretrained=False), size=0.01)
    vit, x = from_module(module), images(224, count=1)
    assert vit.config.heads == heads and vit.image_size == 224
    assert vit.preprocess.mean == tuple(module.pretrained_cfg["mean"])
    with torch.no_grad():
        assert largest(cases.timm_features(module, vit.normalise(x)), vit(x)) <= TOLERANCE


UNCONVERTIBLE = {
    "patch dropout": lambda: cases.timm_model("vit_base_patch16_224", patch_drop_rate=0.2),
    "class VisionTransformerDistilled": lambda: cases.timm_model("deit_tiny_distilled_patch16_224"),
    "pooling 'max'": lambda: cases.timm_model("vit_base_patch16_224", global_pool="max"),
    "blocks of class ResPost": lambda: cases.timm_model("vit_tiny_patch16_224", block_fn=_other()),
    "not a multiple": lambda: cases.timm_model("vit_tiny_patch16_224", img_size=30, dynamic_img_size=False),
    "attention pooling ": lambda: cases.open_clip_model(attentional_pool=True),
    "patch dropout ": lambda: cases.open_clip_model(patch_dropout=0.5),
    "blocks of class CustomResidual": lambda: cases.open_clip_model(qk_norm=True),
    "activation 'mish'": lambda: cases.hf_model("ViTModel", "ViTConfig", hidden_act="mish"),
    "patches beside other tokens": lambda: cases.timm_model("vit_base_patch16_224", global_pool="map"),
    "the setting is_native": lambda: cases.hf_model("Aimv2VisionModel", "Aimv2VisionConfig", is_native=True),
    "aligned corners": lambda: cases.timm_model("naflexvit_base_patch16_radio_v3", pos_embed_grid_size=(8, 8)),
    "positions of class RotaryEmbeddingMixed": lambda: cases.timm_model("vit_small_patch16_rope_mixed_224"),
    "the class Data2VecVisionModel": lambda: cases.hf_model("Data2VecVisionModel", "Data2VecVisionConfig"),
    "use_mean_pooling=False": lambda: cases.hf_model("BeitModel", "BeitConfig", use_mean_pooling=False),
    "is not known": lambda: nn.Linear(3, 3),
}


def _other() -> type[nn.Module]:
    from timm.models.vision_transformer import ResPostBlock

    return ResPostBlock


@pytest.mark.parametrize("feature", UNCONVERTIBLE)
def test_what_a_plain_vit_cannot_be_is_refused_by_name(feature: str) -> None:
    module = UNCONVERTIBLE[feature]()
    with pytest.raises(WeightsError, match=feature.strip()):
        from_module(module)


def test_a_difference_that_no_attribute_shows_is_noticed() -> None:
    """The features are compared before the copy is handed out, so an unforeseen part cannot slip through."""
    module = copy.deepcopy(cases.model("timm deit"))
    module.blocks[1].ls2 = nn.Hardtanh(-0.05, 0.05)  # no parameters, and nowhere looked at
    with pytest.raises(WeightsError, match="not recognised"):
        from_module(module)


def test_a_module_that_does_not_tell_its_normalisation_needs_one() -> None:
    timm = pytest.importorskip("timm")
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2
    )
    with pytest.raises(WeightsError, match="preprocess=Preprocess"):
        from_module(vit)
    assert from_module(vit, Preprocess()).config.heads == 2


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("naflexvit_base_patch16_siglip", {"pos_embed_grid_size": (4, 4)}),
        ("naflexvit_huge_patch16_radio_v4", {"pos_embed_grid_size": (8, 8), "reg_tokens": 3}),
    ],
)
def test_naflex_at_other_sizes_and_aspects(name: str, changes: dict[str, Any]) -> None:
    module = cases.timm_model(name, num_classes=0, **changes)
    if "radio" in name:
        module.pretrained_cfg["input_size"] = (3, 32, 32)
    vit = from_module(module, cases.UNUSUAL)
    for size in ((32, 32), (24, 40), (56, 32)):
        x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert largest(cases.timm_features(module, vit.normalise(x)), vit(x)) <= TOLERANCE


def test_relative_positions_at_other_aspects() -> None:
    module: Any = cases.model("hf BeitModel")
    vit, x = from_module(module, cases.UNUSUAL), torch.rand(2, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert largest(module(pixel_values=vit.normalise(x)).pooler_output, vit(x)) <= TOLERANCE
