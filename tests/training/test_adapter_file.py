"""The adapter file: the same to the bit when loaded; every way of being wrong is one clear line; old files are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save

import vitadapt as va
from vitadapt.methods import METHODS, Compacter, KAdaptation, LinearProbe, LoRA, TextPrior, ZeroShot
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.head_spec import ZERO
from vitadapt.nn.surgery import adapt, trainable
from vitadapt.training.adapter_checks import enlarged
from vitadapt.training.adapter_file import (
    FORMAT,
    AdapterInfo,
    adapter_bytes,
    checksum_of,
    load_adapter,
    read_adapter,
)
from vitadapt.utils.errors import ConfigError, WeightsError
from vitadapt.weights import load_backbone

FIXTURES = Path(__file__).parents[1] / "fixtures" / "adapters"
CLASSES = ("ant", "bee", "cat")
IMAGES = torch.arange(2 * 3 * 32 * 32).mul(131).remainder(251).reshape(2, 3, 32, 32).to(torch.uint8)


def trained(method, backbone=None, classes=CLASSES):
    """A classifier whose every trainable tensor has moved, and what its file says."""
    of_texts = isinstance(method, TextPrior)
    name, spec = ("random:tiny-clip", method.default_head) if of_texts else ("random:tiny", ZERO)
    backbone = backbone or load_backbone(name)
    model = Classifier(adapt(backbone, method, 1), Head(backbone.features, len(classes), spec, count=5)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        if of_texts:
            model.head.linear.weight.add_(torch.randn(len(classes), backbone.features, generator=generator))
    return model, AdapterInfo(method, name, backbone.image_size, classes, backbone_digest(backbone), spec)


@pytest.fixture
def saved(tmp_path):
    model, info = trained(KAdaptation())
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter_bytes(model, info))
    return path


def changed(path, tensors=None, **about):
    """The file at `path`, written again with other tensors (None: without) or metadata."""
    data = path.read_bytes()
    everything = load(data)
    for name, tensor in (tensors or {}).items():
        everything.pop(name, None)
        everything |= {} if tensor is None else {name: tensor}
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = {**json.loads(header["__metadata__"]["vitadapt"]), **about}
    del metadata["checksum"]
    metadata["checksum"] = checksum_of(metadata, everything)
    path.write_bytes(save(everything, {"vitadapt": json.dumps(metadata)}))


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if not kind.breaks and kind.trains_head])
def test_what_was_saved_is_loaded_to_the_bit(name, tmp_path):
    model, info = trained(METHODS[name]())
    path = tmp_path / "a.safetensors"
    path.write_bytes(adapter_bytes(model, info))
    backbone = load_backbone(info.backbone)
    again = load_adapter(path, backbone)
    assert torch.equal(again(IMAGES), model(IMAGES)) and model(IMAGES).any()
    assert adapter_bytes(again, read_adapter(path)[0]) == path.read_bytes()


def test_the_information_comes_back(tmp_path):
    model, info = trained(LoRA())
    info = replace(
        info, licence="MIT", base_licence="none", training={"images": 3}, names=("an ant",), templates=("{}",)
    )
    path = tmp_path / "a.safetensors"
    path.write_bytes(adapter_bytes(model, info))
    read, tensors = read_adapter(path)
    assert replace(read, activation="", preprocess={}) == info
    assert read.activation == "gelu" and read.preprocess["image_size"] == 32 and read.format == FORMAT
    assert tensors["test.images"].shape == (2, 8, 8, 3) and tensors["test.logits"].shape == (2, 3)


def test_the_first_format_is_still_read():
    path = FIXTURES / "format-1.safetensors"
    info, _ = read_adapter(path)
    assert info.classes == CLASSES and info.method == KAdaptation() and info.format == "vitadapt-adapter/1"
    logits = load_adapter(path, load_backbone("random:tiny"))(IMAGES)
    expected = torch.tensor(
        [[0.0419652983546257, -0.0726325660943985, -0.004135094583034515],
         [0.07148290425539017, 0.08695930242538452, -0.16130758821964264]]
    )  # fmt: skip
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("number", [2, 3])
def test_later_formats_are_read_and_answer_as_when_they_were_made(number):
    path = FIXTURES / f"format-{number}.safetensors"
    info, tensors = read_adapter(path)
    assert info.format == f"vitadapt-adapter/{number}" and info.licence == "MIT" and info.training["images"] == 12
    model = load_adapter(path, load_backbone("random:tiny"))
    logits = model(enlarged(tensors["test.images"], 32))
    torch.testing.assert_close(logits, tensors["test.logits"], atol=1e-5, rtol=1e-4)


def test_any_flipped_byte_is_noticed_or_means_nothing(tmp_path):
    model, info = trained(LoRA(), classes=("ant", "bee", "cat"))
    whole = adapter_bytes(model, replace(info, licence="MIT", training={"images": 3}))
    path, size = tmp_path / "a.safetensors", len(whole)
    path.write_bytes(whole)
    metadata, tensors = read_adapter(path)
    header = 8 + int.from_bytes(whole[:8], "little")
    noticed = 0
    for place in [*range(0, header, 7), *range(header, size, size // 50), size - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            now, found = read_adapter(path)
        except WeightsError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            noticed += 1
            continue
        assert place < header and now == metadata  # a blank of the header
        assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in found)
    assert noticed > 100


def test_an_adapter_of_vit_b32_is_small():
    backbone = load_backbone("random:clip-vit-b32")
    model, info = trained(KAdaptation(), backbone, tuple(f"class number {i}" for i in range(10)))
    training = {"images": 50, "recipe": {f"field {i}": 0.001 for i in range(20)}}
    assert len(adapter_bytes(model, replace(info, training=training))) < 250_000


WRONG_BASE = {
    "another model": (lambda: load_backbone("random:tiny@1"), "this backbone is another"),
    "another activation": (lambda: load_backbone("random:tiny-clip"), "activation gelu, and this .* quick_gelu"),
    "another size": (lambda: load_backbone("random:tiny", image_size=48), "images of 32 pixels"),
}


@pytest.mark.parametrize("wrong", WRONG_BASE)
def test_another_backbone_is_refused(wrong, saved):
    make, message = WRONG_BASE[wrong]
    with pytest.raises(WeightsError, match=message) as caught:
        load_adapter(saved, make())
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value)


SHIFT = "backbone.blocks.0.attention.qkv.deltas.q.shift"
DAMAGE = {
    "a tensor is missing": ({SHIFT: None}, {}, "missing .*shift"),
    "a tensor too many": ({"backbone.more": torch.zeros(1)}, {}, "unexpected .*more"),
    "a strange tensor": ({"extra.thing": torch.zeros(1)}, {}, "unexpected tensors extra.thing"),
    "a strange constant": ({"constant.thing": torch.zeros(1)}, {}, "unexpected constants thing"),
    "the head is missing": ({"head.linear.weight": None}, {}, "missing .*linear.weight"),
    "the head is too small": ({"head.linear.bias": torch.zeros(2)}, {}, "does not fit its 3 classes"),
    "another preprocessing": ({}, {"preprocess": {"mean": [0.5] * 3}}, "preprocessing mean"),
    "a number is wrong": ({"head.linear.bias": torch.ones(3)}, {}, "fails its self-test"),
    "a number is none": ({"head.linear.bias": torch.full((3,), float("nan"))}, {}, "head.linear.bias, which holds NaN"),
    "no self-test": ({"test.logits": None}, {}, "lacks its self-test"),
    "a class too few": ({}, {"classes": ["ant", "bee"]}, "does not fit its 2 classes"),
    "a future format": ({}, {"format": "vitadapt-adapter/9"}, "not an adapter of this format"),
    "an unknown method": ({}, {"method": {"name": "magic"}}, "newer vitadapt"),
    "no method": ({}, {"method": None}, "damaged metadata"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_in_one_clear_line(damage, saved):
    tensors, about, message = DAMAGE[damage]
    changed(saved, tensors, **about)
    with pytest.raises(WeightsError, match=message) as caught:
        load_adapter(saved, load_backbone("random:tiny"))
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value)


def test_files_that_are_no_adapters_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "other.safetensors").write_bytes(save({"x": torch.zeros(1)}))
    for name, message in {"text": "cannot be read", "other": "not an adapter", "absent": "cannot be read"}.items():
        with pytest.raises(WeightsError, match=message):
            read_adapter(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("method", [KAdaptation(), LinearProbe()], ids=["deltas", "head"])
def test_an_adapter_that_changes_nothing_is_refused(method, tmp_path):
    backbone = load_backbone("random:tiny")
    _, info = trained(method)
    model = Classifier(adapt(backbone, method), Head(backbone.features, 3))
    path = tmp_path / "a.safetensors"
    path.write_bytes(adapter_bytes(model, info))
    with pytest.raises(WeightsError, match="changes nothing"):
        load_adapter(path, backbone)


def test_a_head_of_words_can_be_left_out_and_is_made_again(tmp_path):
    from vitadapt.nn.head_spec import TEXT
    from vitadapt.text import load_text_tower, text_matrix

    backbone = load_backbone("random:tiny-clip")
    names, templates = ("an ant", "a bee", "a cat"), ("a photo of {}.", "{}")
    texts = [[template.replace("{}", name) for template in templates] for name in names]
    head = Head(backbone.features, 3, TEXT)
    head.start_from(text_matrix(load_text_tower("random:tiny-clip", backbone), texts))
    model = Classifier(adapt(backbone, ZeroShot()), head.requires_grad_(False))
    info = AdapterInfo(ZeroShot(), "random:tiny-clip", 32, CLASSES, backbone_digest(backbone), TEXT)
    with pytest.raises(ConfigError, match="left out only when"):
        adapter_bytes(model, info, with_head=False)
    path = tmp_path / "a.safetensors"
    path.write_bytes(adapter_bytes(model, replace(info, names=names, templates=templates), with_head=False))
    assert not any(name.startswith("head.") for name in read_adapter(path)[1])
    torch.testing.assert_close(load_adapter(path, backbone)(IMAGES), model(IMAGES))


def test_pictures_are_enlarged_without_rounding():
    pictures = torch.arange(2 * 2 * 2 * 3).to(torch.uint8).view(2, 2, 2, 3)
    large = enlarged(pictures, 5)
    assert large.shape == (2, 3, 5, 5)
    assert large[1, 2].tolist() == [[14, 14, 14, 17, 17]] * 3 + [[20, 20, 20, 23, 23]] * 2


# A classifier of one's own.


def own(method: va.Method) -> va.Classifier:
    backbone = va.load_backbone("random:tiny")
    model = va.Classifier(va.adapt(backbone, method), va.Head(backbone.features, 3))
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    va.fit(model, images, torch.arange(6) % 3, va.Recipe(lr=1e-2, epochs=2))
    return model


@pytest.mark.parametrize("method", [KAdaptation(n=4), LoRA(rank=2), LinearProbe(), va.FineTune()], ids=repr)
def test_a_classifier_of_ones_own_is_saved_and_comes_back(method, tmp_path):
    model = own(method)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    path = va.save_adapter(tmp_path / "mine", model, method, "random:tiny", ["ant", "bee", "cat"])
    loaded = va.load_model(tmp_path / "mine")
    assert path == tmp_path / "mine" / "adapter.safetensors" and loaded.classes == ("ant", "bee", "cat")
    assert loaded.info.method == method
    assert torch.equal(loaded.classifier(images), model.eval()(images))


def test_what_a_classifier_is_not_made_of_is_refused_and_nothing_is_written(tmp_path):
    model = own(LoRA(rank=2))
    for method, backbone, classes, message in (
        (LoRA(rank=4), "random:tiny", None, "cannot be saved as lora on random:tiny: "),
        (KAdaptation(n=4), "random:tiny", None, "cannot be saved as kadaptation:n=4"),
        (LoRA(rank=2), "random:tiny@7", None, "on random:tiny@7: "),
        (LoRA(rank=2), "random:tiny", ["ant", "ant", "bee"], "2 different class names for a head of 3 classes"),
    ):
        with pytest.raises(ConfigError, match=message):
            va.save_adapter(tmp_path / "a.safetensors", model, method, backbone, classes)
    assert not list(tmp_path.iterdir())
    assert va.save_adapter(tmp_path / "a.safetensors", model, LoRA(rank=2), "random:tiny").name == "a.safetensors"
    assert va.read_adapter(tmp_path / "a.safetensors")[0].classes == ("0", "1", "2")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_adapter_is_saved_in_float32_and_loads_onto_its_backbone_in_half_precision(dtype, tmp_path):
    full, other = load_backbone("random:tiny"), load_backbone("random:tiny@1").to(dtype)
    half = load_backbone("random:tiny").to(dtype)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 3, full.image_size, full.image_size), dtype=torch.uint8)
    for backbone in (full, half):
        model = Classifier(adapt(backbone, Compacter()), Head(full.features, 2)).eval()
        for parameter in trainable(model).values():
            parameter.data += 0.05 * torch.randn(parameter.shape).to(dtype)
        va.save_adapter(tmp_path / "a.safetensors", model, Compacter(), "random:tiny", ("x", "y"))
        stored = load_file(tmp_path / "a.safetensors")
        assert {t.dtype for name, t in stored.items() if name.startswith("backbone.")} == {torch.float32}
        found, wanted = load_adapter(tmp_path / "a.safetensors", half)(images), model(images)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=0.1 * float(wanted.abs().max().detach()), rtol=0)
        with pytest.raises(WeightsError, match="self-test"):
            load_adapter(tmp_path / "a.safetensors", other)
