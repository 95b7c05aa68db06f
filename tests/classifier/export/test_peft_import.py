"""PEFT's adapters of transformers' image classifiers: its own answers, or a refusal that names the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_cases import BACKBONE
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitadapt.classifier.export.certificate import TARGETS, Options
from vitadapt.classifier.export.deployed import PlainHead, TrainedModel, load_trained
from vitadapt.classifier.export.hugging_face import library_model
from vitadapt.classifier.export.peft_import import import_peft
from vitadapt.classifier.model import load_model
from vitadapt.methods import LinearProbe, LoRA
from vitadapt.nn.head import Classifier, Head, backbone_of
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.nn.surgery import adapt, seeded
from vitadapt.training.adapter_file import AdapterInfo
from vitadapt.utils.errors import NotApplicable, VitadaptError, WeightsError
from vitadapt.weights import load_backbone

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def random_images(size: int) -> Tensor:
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def in_transformers(tmp_path: Path) -> Any:
    """The tiny backbone as a live transformers classifier, and our own."""
    base: Any = load_backbone(BACKBONE)
    head = Head(base.features, 3)
    with seeded(3):
        head.linear.weight.data.normal_()
    info = AdapterInfo(LinearProbe(), BACKBONE, base.image_size, ("a", "b", "c"), "")
    return library_model(base, PlainHead(head), info).model


def trained(model: Any, config: Any, folder: Path) -> Any:
    """The model as PEFT leaves it after some training, saved."""
    with seeded(4):
        adapted = peft.get_peft_model(model, config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape)
    adapted.peft_config["default"].base_model_name_or_path = "elsewhere"
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return adapted.eval()


def names(model: Any) -> list[str]:
    known = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return ["q_proj", "fc1"] if "q_proj" in known else ["query", "intermediate.dense"]


@pytest.mark.parametrize("kind", ["lora", "rslora with patterns", "lokr", "lokr of two factors"])
def test_adapters_made_by_peft_give_pefts_answers(kind: str, in_transformers: Any, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"target_modules": names(in_transformers), "modules_to_save": ["classifier"]}
    config = {
        "lora": lambda: peft.LoraConfig(r=3, lora_alpha=5, **usual),
        "rslora with patterns": lambda: peft.LoraConfig(
            r=2, lora_alpha=5, use_rslora=True, rank_pattern={names(in_transformers)[0]: 4}, **usual
        ),
        "lokr": lambda: peft.LoKrConfig(r=2, alpha=3, **usual),
        "lokr of two factors": lambda: peft.LoKrConfig(r=1, alpha=3, decompose_both=True, decompose_factor=4, **usual),
    }[kind]()
    theirs = trained(in_transformers, config, tmp_path / "peft")
    path, _ = import_peft(tmp_path / "peft", BACKBONE, None, tmp_path / "ours")
    ours = load_trained(path)
    images = random_images(ours.image_size)
    pixels = ours.base.normalise(images)  # type: ignore[operator]
    wanted = theirs(pixel_values=pixels).logits.detach()
    torch.testing.assert_close(ours.classifier(images).detach(), wanted, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_imported_is_told(in_transformers: Any, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=names(in_transformers), modules_to_save=["classifier"])
    trained(in_transformers, config, tmp_path / "peft")
    about = json.loads((tmp_path / "peft" / "adapter_config.json").read_text("utf-8"))

    def refused(error: type[Exception], message: str, **changes: Any) -> None:
        (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({**about, **changes}), "utf-8")
        with pytest.raises(error, match=message):
            import_peft(tmp_path / "peft", BACKBONE, None, tmp_path / "ours")

    refused(WeightsError, "IA3", peft_type="IA3")
    refused(NotApplicable, "use_dora", use_dora=True)
    file = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: t for name, t in tensors.items() if "classifier" not in name}, file)
    refused(NotApplicable, "no classifier")
    save_file({name.replace(".0.", ".7."): t for name, t in tensors.items()}, file)
    refused(NotApplicable, "no linear layer")
    assert not (tmp_path / "ours").exists()


CLASSIFIER = "base_model.model.classifier.weight"
TINY = {
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8},
    **{"num_labels": 5, "initializer_range": 0.1},
}
USUAL = {
    **{"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "do_rescale": True, "do_normalize": True},
    **{"rescale_factor": 1 / 255, "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}},
    "resample": 3,
}


def adapter_of(folder: Path, kind: str = "ViT", processor: dict[str, Any] | None = None, **config: Any) -> Any:
    """FOLDER/base and FOLDER/peft, an adapter of it with every trained tensor changed -> PEFT's own model."""
    with seeded(3):
        settings = getattr(transformers, f"{kind}Config")(**TINY, **({} if kind == "ViT" else {"mlp_ratio": 2}))
        model = getattr(transformers, f"{kind}ForImageClassification")(settings).eval()
    model.save_pretrained(folder / "base")
    if processor is not None:
        (folder / "base" / "preprocessor_config.json").write_text(json.dumps(processor))
    usual = {"r": 2, "lora_alpha": 8, "target_modules": names(model), "modules_to_save": ["classifier"]}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{**usual, **config})).eval()
    with seeded(5), torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape)
        for name, parameter in adapted.named_parameters():
            if name.endswith("classifier.modules_to_save.default.weight"):
                parameter[:, 64:] = 0  # DINOv2's: the average of the patches
    adapted.save_pretrained(folder / "peft", save_embedding_layers=False)
    return adapted


def imported(folder: Path) -> Any:
    import_peft(folder / "peft", f"hf:{folder / 'base'}", None, folder / "ours")
    return load_model(folder / "ours")


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"layers_to_transform": [1]},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"rank_pattern": {r".*\.0\..*": 3}, "alpha_pattern": {r".*\.1\..*": 5}},
    ],
    ids=str,
)
def test_what_peft_trains_beside_a_base_of_transformers(kind: str, config: dict[str, Any], tmp_path: Path) -> None:
    theirs = adapter_of(tmp_path, kind, **config)
    ours = imported(tmp_path)
    images = random_images(32)
    with torch.no_grad():
        wanted = theirs(ours.classifier.backbone.normalise(images)).logits
        torch.testing.assert_close(ours.classifier(images), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"bias": "all"}, "bias='all'"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"modules_to_save": ["classifier", "layernorm"]}, "modules_to_save"),
        ({"modules_to_save": ["classifier", "patch_embeddings"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "pissa_niter_2"}, "init_lora_weights='pissa_niter_2'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"use_dora": True}, "use_dora=True"),
        ({"modules_to_save": None}, "no classifier"),
    ],
    ids=str,
)
def test_what_a_lora_of_ours_cannot_hold_is_refused_by_name(config: dict[str, Any], name: str, tmp_path: Path) -> None:
    adapter_of(tmp_path, **config)
    with pytest.raises(NotApplicable, match=name):
        imported(tmp_path)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bias": "none", "some_new_option": 3}, "some_new_option=3"),
        ({"corda_config": {"x": 1}}, "corda_config"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"r": 3}, "of rank 3"),
        ({"revision": "v2"}, "revision='v2'"),
        ({"auto_mapping": {"base_model_class": "MyViTWithMeanPooling"}}, "MyViTWithMeanPooling"),
        ({"auto_mapping": {"base_model_class": "CLIPForImageClassification"}}, "CLIPForImageClassification"),
    ],
)
def test_settings_that_were_changed_are_not_ignored(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    adapter_of(tmp_path)
    file = tmp_path / "peft" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes))
    with pytest.raises(VitadaptError, match=reason):
        imported(tmp_path)


def test_tensors_that_nobody_takes_are_named(tmp_path: Path) -> None:
    adapter_of(tmp_path)
    file = tmp_path / "peft" / "adapter_model.safetensors"
    for name in ("base_model.model.vit.layernorm.weight", "base_model.model.vit.embeddings.cls_token"):
        save_file({**load_file(file), name: torch.zeros(2)}, file)
        with pytest.raises(NotApplicable, match="was trained, too"):
            imported(tmp_path)


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("lora_A.weight", lambda t: t[:, :32], r"factors are \(\d+, 32\)"),
        ("lora_B.weight", lambda t: t[:32], r"factors are \(32, "),
        ("lora_B.weight", lambda t: t.T, "its factors are"),
        ("lora_B.weight", lambda t: t[:, :1], "its factors are"),
        ("lora_B.weight", lambda t: (10 * t).to(torch.int8), "torch.int8"),
        ("lora_B.weight", torch.zeros_like, "no factors that change anything"),
        ("lora_A.weight", lambda t: t * float("nan"), "NaN"),
        ("classifier.bias", lambda t: t[:1], "different numbers of classes"),
        ("layers.1.attention.q_proj.lora_A.weight", None, "expected lora_A and lora_B"),
        ("layers.1.attention.q_proj.lora_", None, "has no factors; was another backbone adapted"),
    ],
)
def test_factors_that_do_not_fit_the_backbone_are_refused(part: str, change: Any, reason: str, tmp_path: Path) -> None:
    adapted = adapter_of(tmp_path)
    file = tmp_path / "peft" / "adapter_model.safetensors"
    if "q_proj" not in names(adapted):
        part = part.replace("layers.1.attention.q_proj", "layer.1.attention.attention.query")
    state = {name: change(t) if change and part in name else t for name, t in load_file(file).items()}
    state = {name: t.contiguous() for name, t in state.items() if change or part not in name}
    save_file(state, file)
    with pytest.raises(VitadaptError, match=reason):
        imported(tmp_path)
    assert not (tmp_path / "ours").exists()


@pytest.mark.filterwarnings("ignore:.*LoRA tensor.*have invalid shape")
def test_a_bias_of_the_factors_is_refused(tmp_path: Path) -> None:
    adapter_of(tmp_path, lora_bias=True)
    with pytest.raises(NotApplicable, match="is a bias"):
        imported(tmp_path)


def test_the_average_of_the_patches_is_not_dropped(tmp_path: Path) -> None:
    adapter_of(tmp_path, "Dinov2")
    file = tmp_path / "peft" / "adapter_model.safetensors"
    save_file(
        {n: torch.ones_like(t) if n.endswith("classifier.weight") else t for n, t in load_file(file).items()}, file
    )
    with pytest.raises(NotApplicable, match="average of the patches"):
        imported(tmp_path)


RESIZED = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {**RESIZED, "image_processor_type": "BitImageProcessor"},
        {"resample": 2},
        {"size": {"height": 40, "width": 40}, "do_center_crop": True, "crop_size": 32},
    ],
    ids=str,
)
def test_pictures_are_prepared_as_by_the_processor_of_the_base(change: dict[str, Any], tmp_path: Path) -> None:
    theirs = adapter_of(tmp_path, processor={**USUAL, **change})
    fast = {"use_fast": True} if transformers.__version__ < "5" else {}  # the other one of transformers 4 never crops
    ours, processor = imported(tmp_path), transformers.AutoImageProcessor.from_pretrained(tmp_path / "base", **fast)
    for shape in ((32, 32), (40, 120), (120, 40), (64, 64)):
        blocks = np.random.default_rng(0).integers(64, 192, (shape[0] // 4, shape[1] // 4, 3))
        image = Image.fromarray(np.kron(blocks, np.ones((4, 4, 1))).astype(np.uint8))
        with torch.no_grad():
            wanted = theirs(processor(image, return_tensors="pt")["pixel_values"]).logits.softmax(-1)[0].numpy()
        assert np.abs(wanted - ours.predict_proba([image])[0]).max() < 0.02


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"resample": 6}, "resample=6"),
        ({"do_resize": False}, "do_resize=false"),
        ({"image_processor_type": "LevitImageProcessor"}, "LevitImageProcessor"),
        ({"do_pad": True}, "do_pad=True"),
        ({"size": {"height": 32, "width": 40}}, "size="),
        ({"size": {"shortest_edge": 32}}, "size="),
        ({"size": {"longest_edge": 32}}, "size="),
    ],
    ids=str,
)
def test_another_way_to_prepare_pictures_is_refused_by_name(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    adapter_of(tmp_path, processor={**USUAL, **change})
    with pytest.raises(WeightsError, match=reason):
        imported(tmp_path)


def test_a_processor_beside_the_adapter_must_fit_the_backbone(tmp_path: Path) -> None:
    adapter_of(tmp_path, processor=USUAL)
    for change, what in (({"image_mean": [0.1] * 3}, "image_mean"), ({"size": {"height": 64, "width": 64}}, "")):
        (tmp_path / "peft" / "preprocessor_config.json").write_text(json.dumps({**USUAL, **change}))
        if what:
            with pytest.raises(NotApplicable, match=what):
                imported(tmp_path)
    assert imported(tmp_path).info.image_size == 64


def test_labels_are_read_by_their_numbers(tmp_path: Path) -> None:
    adapter_of(tmp_path)
    file = tmp_path / "peft" / "config.json"
    file.write_text(json.dumps({"id2label": {str(i): f"class{i}" for i in (4, 0, 3, 1, 2)}}))
    assert imported(tmp_path).classes == ("class0", "class1", "class2", "class3", "class4")
    (tmp_path / "ours" / "adapter.safetensors").unlink()
    for wrong in ({str(i): "x" for i in range(4)}, {str(i): "x" for i in range(1, 6)}):
        file.write_text(json.dumps({"id2label": wrong}))
        with pytest.raises(WeightsError, match="has 5 classes"):
            imported(tmp_path)


@pytest.mark.parametrize("spec", [HeadSpec(blocks=2), HeadSpec(mirror=True)], ids=str)
def test_a_head_on_other_features_than_those_of_the_library_is_not_exported(spec: HeadSpec, tmp_path: Path) -> None:
    base = backbone_of(load_backbone(BACKBONE), spec)
    model = Classifier(adapt(base, LoRA(rank=2)), Head(base.features, 2, spec))
    info = AdapterInfo(LoRA(rank=2), BACKBONE, base.image_size, ("a", "b"), "", head=spec)
    with pytest.raises(NotApplicable, match="features of several blocks or of the mirror image"):
        TARGETS["peft"].write(TrainedModel(model, base, info), tmp_path, Options())
