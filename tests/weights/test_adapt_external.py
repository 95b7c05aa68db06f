"""A live model of another library, adapted: the same numbers as our own ViT, and still that library's model."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

import more_methods
import pytest
import torch
import weights_cases
from pairs import turns
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

import vitadapt as va
from vitadapt.methods import METHODS as REGISTERED
from vitadapt.methods import SSF, VPT, Adapter, Attention, BitFit, Compacter, FineTune, KAdaptation, LinearProbe, LoRA
from vitadapt.methods.released import LoRAReleased
from vitadapt.nn.surgery import Method, towers_of, trainable
from vitadapt.utils.errors import NotApplicable, NotMergeable, WeightsError
from vitadapt.weights import from_module

ALL_SLOTS = ("q", "k", "v", "o", "fc1", "fc2")
CASES = {
    "timm vit_tiny_patch16_224": "timm",
    "timm vit_small_patch14_reg4_dinov2": "timm",
    "open_clip quick gelu": "open_clip",
    "open_clip layer scale, mlp ratio 3": "open_clip",
    "hf CLIPVisionModelWithProjection": "transformers",
    "hf ViTModel": "transformers",
    "hf Dinov2Model": "transformers",
}
SMALL: dict[str, Method] = {
    "lora": LoRA(targets=ALL_SLOTS),
    "kadaptation": KAdaptation(n=8),
    "kadaptation, full rules": KAdaptation(n=8, rule_rank=0),
    "adapter": Adapter(bottleneck=8),
    "compacter": Compacter(bottleneck=8),
}
METHODS: dict[str, Method] = {
    **{name: kind() for name, kind in REGISTERED.items() if not kind.breaks},  # those of installed plugins, too
    "ssf": SSF(blocks="last:1"),  # of all blocks it has places at both ends, which live models lack
    **SMALL,
    **more_methods.BY_NAME,
}
LACKING = ["ssf", "side", "dtl", "clip-adapter", "maple"]
EVERY = [n for n, method in METHODS.items() if n not in (*LACKING[1:], "prolip") and towers_of(method) != "text"]
PAIRS = [(case, method) for case in CASES for method in ("lora", "kadaptation, full rules", "adapter", "vpt, deep")]
PAIRS += [(case, method) for method, case in turns(EVERY, list(CASES)) if (case, method) not in PAIRS]
PAIRS += [("open_clip quick gelu", "prolip"), ("hf CLIPVisionModelWithProjection", "prolip")]


@dataclass(frozen=True)
class Shaken(Method):
    """A method whose tensors have been moved, so that what it adds is not zero; for both ways the same."""

    inner: Method

    def adapt(self, vit: Any) -> None:
        self.inner.adapt(vit)
        for parameter in trainable(vit).values():
            parameter.data = parameter.data + 0.05 * torch.randn(parameter.shape)


def features(case: str, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return weights_cases.BY_NAME[case].features(model, images)


def inside(model: nn.Module) -> dict[str, nn.Parameter]:
    """What trains, apart from a classifier behind the features."""
    return {name: p for name, p in trainable(model).items() if not name.startswith("head.")}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(CASES[request.param])
    return request.param


@pytest.mark.parametrize(("case", "method"), PAIRS, indirect=["case"])
def test_outputs_and_gradients_are_those_of_our_own_vit(case: str, method: str) -> None:
    live, shaken = weights_cases.model(case), Shaken(METHODS[method])
    ours, theirs = va.adapt(from_module(live), shaken), va.adapt(live, shaken)
    images = weights_cases.images()
    wanted, found = ours(images), features(case, theirs, ours.normalise(images))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    if not trainable(ours):
        return
    assert weights_cases.largest(wanted.detach(), from_module(live)(images)) > 1e-3
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3))
    (wanted * weights).sum().backward()
    (found * weights).sum().backward()
    grads = [[p.grad for p in tensors.values()] for tensors in (trainable(ours), inside(theirs))]
    assert sum(g.numel() for g in grads[0]) == sum(g.numel() for g in grads[1])
    norms = [float(torch.cat([g.flatten().double() for g in those]).norm()) for those in grads]
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize("method", LACKING)
def test_what_stands_at_the_ends_or_beside_the_blocks_cannot_be_moved_and_is_named(method: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(NotApplicable, match="which cannot be moved to a live model"):
        va.adapt(weights_cases.timm_model("vit_tiny_patch16_224"), REGISTERED[method]())


@pytest.mark.parametrize("method", [n for n, method in REGISTERED.items() if towers_of(method()) == "text"])
def test_a_method_of_the_text_tower_is_refused(method: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(NotApplicable, match="acts on the text tower alone"):
        va.adapt(weights_cases.timm_model("vit_tiny_patch16_224"), REGISTERED[method]())


def test_it_is_still_the_librarys_model(case: str) -> None:
    live = weights_cases.model(case)
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    adapted = va.adapt(live, Shaken(LoRA(targets=ALL_SLOTS)))
    assert type(adapted) is type(live)
    assert live.state_dict().keys() <= adapted.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in live.state_dict().items())
    outputs = [
        model(pixel_values=weights_cases.images()) if CASES[case] == "transformers" else None
        for model in (live, adapted)
    ]
    if outputs[0] is not None:
        assert outputs[0].keys() == outputs[1].keys()
        assert [t.shape for t in outputs[0].to_tuple()] == [t.shape for t in outputs[1].to_tuple()]


def test_copies_modes_and_files_keep_working(case: str) -> None:
    live, images = weights_cases.model(case), weights_cases.images()
    adapted = va.adapt(live, Shaken(KAdaptation(n=8)))
    with torch.no_grad():
        wanted = features(case, adapted, images)
        twin = copy.deepcopy(adapted)
        assert torch.equal(features(case, twin, images), wanted)
        for parameter in trainable(adapted).values():
            parameter.zero_()
        assert torch.equal(features(case, twin, images), wanted), "a copy has tensors of its own"
        file = io.BytesIO()
        torch.save(twin.state_dict(), file)
        file.seek(0)
        adapted.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(features(case, adapted, images), wanted)
        torch.testing.assert_close(features(case, adapted.train().eval(), images), wanted)
        double = features(case, adapted.to(torch.float64), images.double())
    torch.testing.assert_close(double.float(), wanted, atol=1e-5, rtol=1e-5)


def test_merged_it_is_the_plain_class_with_other_weights(case: str) -> None:
    live, images = weights_cases.model(case), weights_cases.images()
    adapted = va.adapt(live, Shaken(KAdaptation(n=8, targets=ALL_SLOTS)))
    wanted = features(case, adapted, images).detach()
    merged = va.merge(adapted)
    assert merged.state_dict().keys() == live.state_dict().keys()
    assert [type(m) for m in merged.modules()] == [type(m) for m in live.modules()]
    torch.testing.assert_close(features(case, merged, images).detach(), wanted, atol=1e-5, rtol=1e-5)


def test_a_training_step_moves_what_the_method_made_and_nothing_else(case: str) -> None:
    live, images = weights_cases.model(case), weights_cases.images()
    adapted = va.adapt(live, LoRA()).train()
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    optimiser = torch.optim.AdamW(inside(adapted).values(), lr=1e-2)
    for _ in range(2):  # A moves only once B is no longer zero
        optimiser.zero_grad()
        features(case, adapted, images).square().mean().backward()
        optimiser.step()
    moved = {name for name, tensor in adapted.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == inside(adapted).keys()


def test_a_whole_clip_is_adapted_in_its_image_tower_alone() -> None:
    live = weights_cases.open_clip_model()
    adapted = va.adapt(live, LoRA())
    assert type(adapted) is type(live)
    assert all(name.startswith("visual.") for name in trainable(adapted))


def test_a_classifier_behind_the_features_trains_with_the_method() -> None:
    pytest.importorskip("timm")
    live = weights_cases.timm_model("vit_tiny_patch16_224", num_classes=3)
    assert {"head.weight", "head.bias"} <= trainable(va.adapt(live, LoRA())).keys()
    assert trainable(va.adapt(live, LinearProbe())).keys() == {"head.weight", "head.bias"}


def test_a_hugging_face_classifier_keeps_its_outputs_and_trains_its_head() -> None:
    pytest.importorskip("transformers")
    live: Any = weights_cases.hf_model("Dinov2ForImageClassification", "Dinov2Config", num_labels=3)
    adapted: Any = va.adapt(live, LoRA())
    labels = torch.tensor([0, 2])
    out, plain = (model(pixel_values=weights_cases.images(), labels=labels) for model in (adapted, live))
    assert type(out) is type(plain)
    torch.testing.assert_close(out.loss, plain.loss)
    assert {"classifier.weight", "classifier.bias"} <= trainable(adapted).keys()


def test_bottlenecks_cannot_be_merged_and_say_so() -> None:
    pytest.importorskip("timm")
    adapted = va.adapt(weights_cases.timm_model("vit_tiny_patch16_224"), Adapter(bottleneck=8))
    with pytest.raises(NotMergeable, match="inserted"):
        va.merge(adapted)


@pytest.mark.parametrize("name", ["vpt, deep", "vpt, shallow", "adaptformer", "shared gain"])
def test_what_is_no_delta_cannot_be_merged_and_says_so(name: str) -> None:
    pytest.importorskip("timm")
    adapted = va.adapt(weights_cases.timm_model("vit_tiny_patch16_224"), more_methods.BY_NAME[name])
    with pytest.raises(NotMergeable):
        va.merge(adapted)


@dataclass(frozen=True)
class ByHooks(Method):
    """Deep prompts that are put in and taken away by hooks on the blocks."""

    def adapt(self, vit: Any) -> None:
        for i, block in enumerate(vit.blocks):
            vit.shared[f"prompt{i}"] = nn.Linear(1, 1)
            block.register_forward_pre_hook(lambda module, args: args)


@dataclass(frozen=True)
class Wraps(Method):
    """An MLP in another's place."""

    def adapt(self, vit: Any) -> None:
        for block in vit.blocks:
            block.mlp = nn.Sequential(block.mlp, nn.Linear(vit.config.width, vit.config.width))


@dataclass(frozen=True)
class OwnForward(Method):
    def adapt(self, vit: Any) -> None:
        vit.blocks[1].norm1.forward = torch.tanh


@dataclass(frozen=True)
class OnTheBackbone(Method):
    """A parameter where nothing uses it but a method of one's own."""

    def adapt(self, vit: Any) -> None:
        vit.gain = nn.Parameter(torch.ones(3))


UNMOVABLE: list[tuple[Method, str]] = [
    (ByHooks(), r"blocks\.0 \(a hook or a forward of its own\)"),
    (Wraps(), r"blocks\.0\.mlp \(a module of class Sequential\)"),
    (OwnForward(), r"blocks\.1\.norm1 \(a hook or a forward of its own\)"),
    (OnTheBackbone(), "gain"),
]


@pytest.mark.parametrize(
    ("case", "method", "named"),
    [(case, *what) for case, what in turns(CASES, UNMOVABLE)],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else None,
    indirect=["case"],
)
def test_what_cannot_be_moved_or_merged_is_named(case: str, method: Method, named: str) -> None:
    live = weights_cases.model(case)
    with pytest.raises(NotApplicable, match=rf"made or changed {named}, which cannot be moved to a live model"):
        va.adapt(live, method)
    own = va.adapt(from_module(live), method)
    if not isinstance(method, OnTheBackbone):
        with pytest.raises(NotMergeable, match=rf"changed {named}, which cannot be folded"):
            va.merge(own)


def wrapped(kind: str) -> tuple[nn.Module, str]:
    """A model that cannot be adapted as it is, and the remedy."""
    live = weights_cases.timm_model("vit_tiny_patch16_224")
    if kind == "data parallel":
        return nn.DataParallel(live), r"adapt model\.module"
    if kind == "compiled":
        return cast(nn.Module, torch.compile(live)), r"adapt model\._orig_mod"
    if kind in ("adapted", "adapted with tokens"):
        method = LoRA() if kind == "adapted" else VPT()
        return va.adapt(live, method), "already adapted; merge it first"
    if kind == "ours, adapted":
        return va.adapt(from_module(live), LoRA()), "already adapted; merge it first"
    if kind == "quantised":
        return torch.ao.quantization.quantize_dynamic(live, {nn.Linear}), "is quantised; adapt it in fp32"
    if kind == "int8 parameters":
        live.blocks[0].mlp.fc1.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
        return live, "is quantised; adapt it in fp32"
    if kind == "peft":
        peft = pytest.importorskip("peft")
        return peft.get_peft_model(live, peft.LoraConfig(target_modules=["qkv"])), "merge_and_unload"
    if kind == "pruned":
        prune.l1_unstructured(live.requires_grad_(True).blocks[0].mlp.fc1, "weight", 0.5)
        return live, "make it permanent first"
    return (from_module(live) if kind == "ours, meta" else live).to("meta"), "meta device and holds no weights"


@pytest.mark.parametrize(
    "kind",
    [
        *("data parallel", "compiled", "adapted", "adapted with tokens", "ours, adapted"),
        *("quantised", "int8 parameters", "peft", "meta", "ours, meta", "pruned"),
    ],
)
@pytest.mark.parametrize("method", [LoRA(), BitFit()], ids=lambda method: type(method).__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_model_that_cannot_be_adapted_as_it_is_is_refused_with_the_remedy(kind: str, method: Method) -> None:
    pytest.importorskip("timm")
    model, remedy = wrapped(kind)
    with pytest.raises(NotApplicable, match=remedy) as refusal:
        va.adapt(model, method)
    assert "\n" not in str(refusal.value)


def test_merge_reaches_into_wrapped_models_and_refuses_compiled_ones() -> None:
    adapted = va.adapt(weights_cases.timm_model("vit_tiny_patch16_224"), Shaken(LoRA()))
    with pytest.raises(NotMergeable, match=r"merge model\._orig_mod"):
        va.merge(cast(nn.Module, torch.compile(adapted)))
    with torch.no_grad():
        wanted = adapted(weights_cases.images())
        merged = va.merge(nn.DataParallel(adapted))
        torch.testing.assert_close(merged(weights_cases.images()), wanted, atol=1e-5, rtol=1e-5)
    assert not [name for name in merged.state_dict() if "delta" in name]


HELD = [*turns(CASES, [*SMALL, "shared gain"])]
HALVES = list(product([*SMALL, *more_methods.BY_NAME], [torch.bfloat16, torch.float16]))


def test_a_merged_model_can_be_adapted_again(case: str) -> None:
    live, images = weights_cases.model(case), weights_cases.images()
    once = va.adapt(live, Shaken(KAdaptation(n=8)))
    wanted = features(case, once, images)
    again = va.adapt(va.merge(once), LoRA())
    torch.testing.assert_close(features(case, again, images), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("case", "method", "dtype"),
    [(case, method, dtype) for (method, dtype), case in turns(HALVES, list(CASES))],
    indirect=["case"],
)
def test_a_model_in_half_precision_stays_so(case: str, method: str, dtype: torch.dtype) -> None:
    live = copy.deepcopy(weights_cases.model(case)).to(dtype)
    adapted = va.adapt(live, METHODS[method])
    assert {p.dtype for p in adapted.parameters()} == {dtype}
    found = features(case, adapted, weights_cases.images().to(dtype))
    assert found.dtype == dtype and bool(torch.isfinite(found).all())
    found.float().square().sum().backward()


@pytest.mark.parametrize(("case", "method"), HELD, indirect=["case"])
def test_every_tensor_is_held_once_so_that_safetensors_can_save_it(case: str, method: str, tmp_path: Path) -> None:
    live = weights_cases.model(case)
    adapted = va.adapt(live, Shaken(METHODS[method]))
    state = adapted.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    other = va.adapt(live, METHODS[method], seed=5)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    images = weights_cases.images()
    assert torch.equal(features(case, other, images), features(case, adapted, images))


@pytest.mark.parametrize("method", SMALL)
def test_hugging_face_saves_all_of_an_adapted_model(method: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    live: Any = weights_cases.hf_model("ViTForImageClassification", "ViTConfig", num_labels=3)
    adapted: Any = va.adapt(live, Shaken(METHODS[method]))
    adapted.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert sum(t.numel() for t in saved.values()) == sum(t.numel() for t in adapted.state_dict().values())


def test_published_defects_need_our_own_vit() -> None:
    pytest.importorskip("timm")
    with pytest.raises(NotApplicable, match="our own ViT"):
        va.adapt(weights_cases.timm_model("vit_tiny_patch16_224"), LoRAReleased())


def test_other_networks_take_the_methods_that_choose_among_their_tensors() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet18", pretrained=False, num_classes=0)
    assert trainable(va.adapt(network, BitFit()))
    with pytest.raises(WeightsError, match="ResNet"):
        va.adapt(network, LoRA())


@pytest.mark.parametrize("method", [Attention(), FineTune()])
def test_thawed_tensors_are_the_librarys_own(method: Method) -> None:
    pytest.importorskip("transformers")
    live = weights_cases.model("hf ViTModel")
    adapted = va.adapt(live, method)
    assert adapted.state_dict().keys() == live.state_dict().keys()
    assert trainable(adapted)


GATED = ("gate", "fc1", "fc2")
OF_PARTS: dict[str, tuple[Method, ...]] = {
    "timm vit_small_patch16_dinov3": (LoRA(targets=ALL_SLOTS), Adapter(bottleneck=8), more_methods.Beside()),
    "timm vit_small_plus_patch16_dinov3_qkvb global_pool": (LoRA(targets=("q", *GATED)), KAdaptation(n=8, bias=False)),
    "timm eva02_tiny_patch14_224": (LoRA(targets=("k", *GATED)), Compacter(bottleneck=8)),
    "timm eva02_base_patch16_clip_224": (LoRA(targets=("v", *GATED)), FineTune()),
    "timm vit_pe_core_base_patch16_224": (KAdaptation(n=8), FineTune()),
    "timm vit_base_patch16_siglip_224": (KAdaptation(n=8), VPT(tokens=3, deep=False)),
    "timm aimv2_large_patch14_224 mlp_ratio": (LoRA(targets=("o", *GATED)), VPT(tokens=3)),
    "open_clip siglip tower": (KAdaptation(n=8), BitFit()),
    "open_clip eva02 tower": (LoRA(targets=("q", *GATED)), BitFit()),
    "timm beit_base_patch16_224 num_classes": (LoRA(targets=ALL_SLOTS), Adapter(bottleneck=8), FineTune()),
    "timm naflexvit_base_patch16_siglip pos_embed_grid_size num_classes": (
        LoRA(targets=ALL_SLOTS),
        Adapter(bottleneck=8),
    ),
    "hf BeitModel": (KAdaptation(n=8), LoRA(targets=ALL_SLOTS), BitFit()),
    "hf DINOv3ViTModel": (LoRA(targets=ALL_SLOTS), Adapter(bottleneck=8), FineTune()),
    "hf DINOv3ViTModel use_gated_mlp": (LoRA(targets=GATED),),
    "hf SiglipVisionModel": (LoRA(), BitFit(), FineTune(), VPT(tokens=3)),
    "hf Aimv2VisionModel": (LoRA(targets=GATED), more_methods.Beside(place="attention-parallel")),
    "hf RadioModel": (KAdaptation(n=8), FineTune(), VPT(tokens=3)),
}


@pytest.mark.parametrize(
    ("name", "method"), [(name, m) for name, methods in OF_PARTS.items() for m in methods], ids=str
)
def test_models_with_parts_that_no_plain_vit_has(name: str, method: Method) -> None:
    """What they compute with a trained adapter, and the gradients; and, for deltas, after merging."""
    pytest.importorskip(weights_cases.BY_NAME[name].library)
    live, images = weights_cases.model(name), weights_cases.images()
    thaws = isinstance(method, (BitFit, FineTune))  # theirs may lack biases of keys, which are zero in ours
    shaken = method if thaws else Shaken(method)
    ours, theirs = va.adapt(from_module(live, weights_cases.UNUSUAL), shaken), va.adapt(live, shaken)
    wanted, normalised = ours(images), ours.normalise(images)
    torch.testing.assert_close(features(name, theirs, normalised), wanted, atol=1e-5, rtol=1e-5)
    plain = from_module(live, weights_cases.UNUSUAL)(images)
    assert thaws or weights_cases.largest(wanted.detach(), plain) > 1e-3
    features(name, theirs, normalised).square().sum().backward()
    assert all(p.grad is not None for n, p in inside(theirs).items() if "head" not in n)
    if isinstance(method, (LoRA, KAdaptation)):
        merged = va.merge(theirs)
        assert merged.state_dict().keys() == live.state_dict().keys()
        torch.testing.assert_close(features(name, merged, normalised), wanted, atol=1e-5, rtol=1e-5)


def test_tokens_are_refused_where_the_model_would_turn_them_like_patches() -> None:
    pytest.importorskip("timm")
    with pytest.raises(NotApplicable, match="turn them like patches; use load_backbone"):
        va.adapt(weights_cases.model("timm vit_small_patch16_dinov3"), VPT(tokens=3))


def test_a_place_that_is_no_module_of_the_model_is_named() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(NotApplicable, match="where a BeitLayer has no module of its own; use load_backbone"):
        va.adapt(weights_cases.model("hf BeitModel"), Adapter(bottleneck=8))


def tensors_of(out: Any) -> dict[str, torch.Tensor]:
    """What a model gives, by the names that it has there."""
    if isinstance(out, torch.Tensor):
        return {"": out}
    return {name: value for name, value in out.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("name", [case.name for case in weights_cases.PARTS])
def test_a_training_loop_sees_the_librarys_own_outputs_and_moves_the_adapter_alone(name: str) -> None:
    case, images = weights_cases.BY_NAME[name], weights_cases.images()
    pytest.importorskip(case.library)
    live: Any = weights_cases.model(name)
    adapted: Any = va.adapt(live, LoRA())
    inputs: dict[str, Any] = {"pixel_values": images} if case.library == "transformers" else {"x": images}
    with torch.no_grad():
        plain, out = (model(*inputs.values()) if "x" in inputs else model(**inputs) for model in (live, adapted))
    assert type(out) is type(plain)
    wanted, found = tensors_of(plain), tensors_of(out)
    assert wanted.keys() == found.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, atol=1e-6, rtol=1e-6)
    before = {key: tensor.clone() for key, tensor in adapted.train().state_dict().items()}
    optimiser = torch.optim.AdamW(inside(adapted).values(), lr=1e-2)
    for _ in range(2):  # A moves only once B is no longer zero
        optimiser.zero_grad()
        features(name, adapted, images).square().mean().backward()
        optimiser.step()
    moved = {key for key, tensor in adapted.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved == inside(adapted).keys()
    assert all(p.grad is None for key, p in adapted.named_parameters() if key not in moved and "head." not in key)
