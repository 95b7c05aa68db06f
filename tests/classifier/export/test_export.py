"""Exported models, run by the libraries they are for: the same answers, or a clear refusal."""

from __future__ import annotations

import copy
import json
import os
import runpy
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from export_cases import CLASSES, KRONECKER, trained_model
from PIL import Image
from safetensors.torch import load_file

from vitadapt.classifier.export import certificate, graphs
from vitadapt.classifier.export.deployed import DeployedModel, PlainHead
from vitadapt.classifier.export.export import export
from vitadapt.data.image_file import open_image
from vitadapt.data.images import to_pixels
from vitadapt.methods import Adapter, BitFit, Discriminant, KAdaptation, LinearProbe, LoRA, MaPLe
from vitadapt.nn.head_spec import ZERO, HeadSpec
from vitadapt.nn.surgery import Method
from vitadapt.utils.errors import ConfigError, NotApplicable, NotMergeable, UnknownName, VitadaptError, WeightsError
from vitadapt.weights import load_backbone

NEEDS = {
    "timm": ("timm",),
    "open_clip": ("open_clip",),
    "hf": ("transformers",),
    "peft": ("peft", "transformers"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch-export": (),
}
BLOCKS = HeadSpec(length="unit", blocks=2, mirror=True)
UNIT = HeadSpec(norm="none", length="unit", scale=20.0)


@dataclass(frozen=True)
class Holds:
    """A model that a target can hold."""

    to: str
    family: str
    method: Method = KRONECKER
    spec: HeadSpec = ZERO


HELD = [
    Holds("timm", "clip-like"),
    Holds("timm", "deit-like", BitFit()),
    Holds("timm", "dinov2-like"),
    Holds("timm", "gap-like"),
    Holds("timm", "plain-norm"),
    Holds("timm", "no-qkv-bias", LoRA()),
    *(Holds("timm", name, LoRA()) for name in families.PARTS if name != "radio-like"),
    *(Holds("hf", n, LoRA()) for n in ("dinov3-like", "dinov3-plus-like", "siglip-like", "aimv2-like", "beit-like")),
    Holds("open_clip", "clip-like"),
    Holds("open_clip", "clip-like", KRONECKER, UNIT),
    Holds("open_clip", "clip-like", KRONECKER, HeadSpec(projection="merged")),
    Holds("hf", "clip-like"),
    Holds("hf", "clip-like", LoRA(), UNIT),
    Holds("hf", "deit-like"),
    Holds("hf", "dinov2-like", LinearProbe()),
    Holds("hf", "plain-norm", LoRA()),
    Holds("peft", "deit-like"),
    Holds("peft", "dinov2-like", LoRA(targets=("q", "k", "v", "o", "fc1", "fc2"))),
    Holds("peft", "clip-like", KAdaptation(n=8, rule_rank=2, bias=False)),
    Holds("peft", "deit-like", KAdaptation(n=4, rule_rank=0)),
    Holds("torch-export", "siglip-like", MaPLe()),
    Holds("torch-export", "beit-like"),
    Holds("onnx", "clip-like", KRONECKER, UNIT),
    Holds("onnx", "clip-like", Discriminant(), BLOCKS),
    Holds("torch-export", "dinov2-like", Discriminant(), BLOCKS),
]


@pytest.mark.parametrize("case", HELD, ids=lambda c: f"{c.to} {c.family} {type(c.method).__name__} {c.spec.length}")
def test_the_target_itself_gives_our_answers(case: Holds, tmp_path: Path) -> None:
    for package in NEEDS[case.to]:
        pytest.importorskip(package)
    trained = trained_model(case.family, case.method, case.spec)
    before = os.umask(0o022)
    try:
        found = export(trained, case.to, tmp_path / "out")
    finally:
        os.umask(before)
    assert max(found.self_test, found.random) <= 1e-5 * max(1, found.largest_logit)
    assert found.largest_logit > 0.1
    written = json.loads((tmp_path / "out" / certificate.FILE).read_text("utf-8"))
    assert written["target"] == case.to and written["bytes"] == found.bytes > 0
    assert json.loads((tmp_path / "out" / "labels.json").read_text("utf-8")) == list(CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing else is left behind"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o644}, modes  # everybody may read what the umask lets them
    if case.to in ("timm", "hf") and case.family in families.PARTS and case.family != "pe-like":
        back: Any = load_backbone(f"file:{tmp_path / 'out'}")
        images = families.random_images()
        assert back.image_size == 32 and back.config.parts == trained.base.config.parts
        torch.testing.assert_close(back(images), trained.classifier.backbone(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        (Holds("timm", "class+average"), WeightsError, "class token and average"),
        (Holds("timm", "clip-like", KRONECKER, UNIT), NotMergeable, "onnx"),
        (Holds("timm", "deit-like", Adapter(bottleneck=8)), NotMergeable, "onnx"),
        (Holds("timm", "convnet", LinearProbe()), NotApplicable, "plain vision transformer"),
        (Holds("open_clip", "deit-like"), NotApplicable, "patch embedding"),
        (Holds("hf", "gap-like"), NotApplicable, "pooling"),
        (Holds("hf", "class+average"), NotApplicable, "class token alone"),
        (Holds("peft", "deit-like", BitFit()), NotApplicable, "export --to hf"),
        (Holds("peft", "deit-like", Adapter(bottleneck=8)), NotApplicable, "inserts modules"),
        (Holds("peft", "deit-like", KAdaptation(n=16, rule_rank=0)), NotApplicable, "rank"),
        (Holds("tensorflow", "deit-like"), UnknownName, "torch-export"),
        (Holds("timm", "deit-like", LinearProbe(), BLOCKS), NotApplicable, "several blocks"),
        (Holds("hf", "dinov2-like", LinearProbe(), BLOCKS), NotApplicable, "several blocks"),
        (Holds("open_clip", "clip-like", LinearProbe(), BLOCKS), NotApplicable, "several blocks"),
        (Holds("peft", "deit-like", LoRA(), HeadSpec(blocks=2)), NotApplicable, "several blocks"),
    ],
    ids=lambda c: f"{c.to} {c.family} {type(c.method).__name__}" if isinstance(c, Holds) else "",
)
def test_what_a_target_cannot_hold_is_refused_and_leaves_nothing(
    case: Holds, error: type[VitadaptError], message: str, tmp_path: Path
) -> None:
    for package in NEEDS.get(case.to, ()):
        pytest.importorskip(package)
    with pytest.raises(error, match=message):
        export(trained_model(case.family, case.method, case.spec), case.to, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious", "utf-8")
    with pytest.raises(ConfigError, match="in use"):
        export(trained_model("deit-like"), "timm", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_finished_export_is_left_as_it_is_and_another_one_is_not_taken_for_it(tmp_path: Path) -> None:
    """The command that was killed after its last step is typed again."""
    out, trained = tmp_path / "out", trained_model("deit-like")
    first = export(trained, "torch-export", out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert export(trained, "torch-export", out) == first
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    pytest.importorskip("timm")
    for other, to in ((trained, "timm"), (trained_model("deit-like", LoRA()), "torch-export")):
        with pytest.raises(ConfigError, match="in use"):
            export(other, to, out)
    for change in ("extra.txt", "labels.json"):
        (out / change).write_text("changed", "utf-8")
        with pytest.raises(ConfigError, match="in use"):
            export(trained, "torch-export", out)


def test_open_clip_has_no_place_for_a_margin_around_the_crop(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    trained = replace(trained_model("clip-like"), base=copy.deepcopy(families.common("clip-like")))
    trained.base.config = replace(trained.base.config, preprocess=replace(trained.base.preprocess, resize=40 / 32))
    with pytest.raises(NotApplicable, match="resized to 40 pixels before the crop to 32"):
        export(trained, "open_clip", tmp_path / "out")


def test_another_function_gets_no_certificate(tmp_path: Path) -> None:
    trained, other = trained_model("deit-like"), trained_model("deit-like", LoRA())
    program = certificate.Program(DeployedModel(other).eval())
    target = replace(certificate.TARGETS["torch-export"], reopen=lambda folder, trained, options: program)
    with pytest.raises(WeightsError, match="differ"):
        certificate.certify("torch-export", target, trained, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spec", [ZERO, UNIT, HeadSpec(norm="batch", scale=3.0), HeadSpec(length="unit", scale="classes")]
)
def test_a_plain_head_is_the_head(spec: HeadSpec) -> None:
    head = trained_model("deit-like", LinearProbe(), spec).classifier.head
    if head.channels is not None:
        head.channels.running_mean.normal_()
        head.channels.running_var.uniform_(0.5, 2)
    features = torch.randn(5, head.linear.in_features)
    torch.testing.assert_close(PlainHead(head)(features), head(features), atol=1e-5, rtol=1e-5)


def test_timm_knows_labels_and_preprocessing(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    export(trained_model("deit-like"), "timm", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert tuple(model.pretrained_cfg["label_names"]) == CLASSES
    assert tuple(timm.data.resolve_model_data_config(model)["input_size"]) == (3, 32, 32)


def test_transformers_knows_labels_and_opens_it_without_being_told_the_class(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export(trained_model("dinov2-like"), "hf", tmp_path / "out")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert tuple(model.config.id2label[i] for i in range(4)) == CLASSES
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.crop_size["height"] == 32


def picture() -> Image.Image:
    values = torch.randint(0, 256, (61, 87, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    return Image.fromarray(values.numpy())


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("own", [{}, {"squash": True, "interpolation": "bilinear"}], ids=str)
@pytest.mark.parametrize("to", ["timm", "hf", "open_clip"])
def test_a_picture_goes_the_same_way_in_every_library(to: str, own: Any, squash: bool, tmp_path: Path) -> None:
    for package in NEEDS[to]:
        pytest.importorskip(package)
    trained = trained_model("clip-like")
    config = trained.base.config
    resize = 40 / 32 if to != "open_clip" else 1.0
    longer = replace(config, preprocess=replace(config.preprocess, resize=resize, **own))
    base = copy.deepcopy(trained.base)
    base.config = longer
    trained = replace(trained, base=base, info=replace(trained.info, squash=squash))
    trained.classifier.backbone.config = longer
    export(trained, to, tmp_path / "out")
    wanted = base.normalise(torch.from_numpy(to_pixels(picture(), trained.geometry)).unsqueeze(0))
    torch.testing.assert_close(PREPARED[to](tmp_path / "out", picture()), wanted, atol=0.05, rtol=0)


def by_timm(folder: Path, image: Image.Image) -> torch.Tensor:
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return timm.data.create_transform(**timm.data.resolve_model_data_config(model))(image).unsqueeze(0)


def by_transformers(folder: Path, image: Image.Image) -> torch.Tensor:
    import transformers

    return transformers.AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]


def by_open_clip(folder: Path, image: Image.Image) -> torch.Tensor:
    import open_clip

    known = json.loads((folder / "open_clip_config.json").read_text("utf-8"))["preprocess_cfg"]
    return open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**known), False)(image).unsqueeze(0)


PREPARED = {"timm": by_timm, "hf": by_transformers, "open_clip": by_open_clip}


def test_open_clip_loads_the_image_tower_over_its_own(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    trained, out = trained_model("clip-like"), tmp_path / "out"
    export(trained, "open_clip", out)
    known = json.loads((out / "open_clip_config.json").read_text("utf-8"))
    known["model_cfg"]["text_cfg"] = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1}
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps(known), "utf-8")
    weights = str(out / "visual.safetensors")
    model = open_clip.create_model(f"local-dir:{tmp_path / 'clip'}", pretrained_image_path=weights).eval()
    images = families.random_images()
    pixels = families.common("clip-like").normalise(images)
    torch.testing.assert_close(model.encode_image(pixels), trained.classifier.backbone(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("to", ["timm", "hf", "open_clip"])
def test_exported_weights_come_back_as_a_backbone(to: str, tmp_path: Path) -> None:
    for package in NEEDS[to]:
        pytest.importorskip(package)
    trained = trained_model("clip-like")
    export(trained, to, tmp_path / "out")
    name = {"timm": "", "hf": "", "open_clip": "/visual.safetensors?heads=2&activation=quick_gelu&mean=imagenet"}
    back: Any = load_backbone(f"file:{tmp_path / 'out'}{name[to]}")
    images = families.random_images()
    if to == "timm":  # its head holds the projection
        assert back.config.projection == 0
    else:
        torch.testing.assert_close(back(images), trained.classifier.backbone(images), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear probe as an ONNX file, as `write_network` leaves it."""
    for package in NEEDS["onnx"]:
        pytest.importorskip(package)
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    graphs.write_network(trained_model("deit-like", LinearProbe()), path)
    return path


@pytest.fixture
def written(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of that linear probe take the network that was written already: asked is what stands beside it."""
    monkeypatch.setattr(graphs, "write_network", lambda trained, path: shutil.copyfile(network, path))


def test_onnx_says_its_labels_and_its_preprocessing(written: None, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    export(trained_model("deit-like", LinearProbe()), "onnx", tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    known = {prop.key: json.loads(prop.value) for prop in model.metadata_props if prop.key != "format"}
    assert known["labels"] == list(CLASSES)
    assert known["preprocessing"]["center_crop"] == 32


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("own", [{}, {"squash": True, "interpolation": "bilinear"}], ids=str)
def test_the_program_beside_the_file_prepares_pictures_as_predict_does(
    own: Any, squash: bool, written: None, tmp_path: Path
) -> None:
    trained = trained_model("deit-like", LinearProbe())
    base = copy.deepcopy(trained.base)
    base.config = replace(base.config, preprocess=replace(base.preprocess, resize=256 / 224, **own))
    trained = replace(trained, base=base, info=replace(trained.info, squash=squash))
    export(trained, "onnx", tmp_path / "my-onnx")
    file, names = tmp_path / "0.jpg", runpy.run_path(str(tmp_path / "my-onnx" / "example.py"))
    for seed, shape in enumerate([(48, 64), (480, 641), (1023, 333), (37, 38), (33, 500), (32, 32)]):
        noise = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        exif = image.getexif()
        exif[0x0112] = 1 + seed  # turned and mirrored
        image.save(file, exif=exif)
        ours = to_pixels(open_image(file.read_bytes(), "0.jpg"), trained.geometry)
        assert np.array_equal(names["prepared"](file), ours), shape
        with torch.no_grad():
            wanted = trained.classifier(torch.from_numpy(ours)[None])
        torch.testing.assert_close(torch.from_numpy(names["logits"](file))[None], wanted, atol=1e-4, rtol=1e-4)


def test_the_program_beside_the_file_reads_all_kinds_of_pictures_as_predict_does(written: None, tmp_path: Path) -> None:
    trained = trained_model("deit-like", LinearProbe())
    export(trained, "onnx", tmp_path / "my-onnx")
    prepared = runpy.run_path(str(tmp_path / "my-onnx" / "example.py"))["prepared"]
    grey = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint16)
    colours = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    faded = Image.merge("RGBA", (*colours.split(), Image.linear_gradient("L").resize(colours.size)))
    kinds = {"12": Image.fromarray(grey * 16), "16": Image.fromarray(grey * 257), "faded": faded}
    kinds |= {"grey faded": faded.convert("LA"), "palette": colours.quantize(16)}
    for kind, image in kinds.items():
        image.save(file := tmp_path / f"{kind}.png")
        ours = to_pixels(open_image(file.read_bytes(), file.name), trained.geometry)
        assert np.array_equal(prepared(file), ours), kind


def test_peft_loads_it_on_the_base_model_beside_it(tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    trained, out = trained_model("dinov2-like"), tmp_path / "out"
    export(trained, "peft", out)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in out.iterdir()}
    rank = json.loads((out / "adapter_config.json").read_text("utf-8"))["r"]
    assert rank == KRONECKER.n
    base = transformers.AutoModelForImageClassification.from_pretrained(out / "base")
    model = peft.PeftModel.from_pretrained(base, out).merge_and_unload().eval()
    images = families.random_images()
    pixels = families.common("dinov2-like").normalise(images)
    torch.testing.assert_close(model(pixel_values=pixels).logits, trained.classifier(images), atol=1e-5, rtol=1e-5)
    assert max(load_file(out / "adapter_model.safetensors").values(), key=torch.numel).numel() <= 64 * 64
