"""Smaller files and files with the preprocessing inside: measured, and refused where they are no use."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_cases import CLASSES, trained_model
from PIL import Image

from vitadapt.classifier.export import comparison
from vitadapt.classifier.export.certificate import TARGETS, Options
from vitadapt.classifier.export.comparison import Comparison, compare
from vitadapt.classifier.export.deployed import TrainedModel
from vitadapt.classifier.export.export import export
from vitadapt.classifier.export.pictures import PHOTOGRAPHS, differences, write_pictures
from vitadapt.classifier.export.samples import Samples, read_samples
from vitadapt.data.image_file import open_image
from vitadapt.data.images import to_pixels
from vitadapt.nn.surgery import blocks
from vitadapt.utils.errors import ConfigError, NotApplicable, WeightsError
from vitadapt.utils.files import checked_json


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Samples, Path]:
    """A model, images with the labels it gives them, and the model as an ONNX file."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    trained, path = trained_model("dinov2-like"), tmp_path_factory.mktemp("network") / "model.onnx"
    graphs().write_network(trained, path)
    return trained, samples_of(trained), path


def graphs() -> Any:
    from vitadapt.classifier.export import graphs

    return graphs


def samples_of(trained: TrainedModel) -> Samples:
    images = torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = trained.classifier(images).argmax(dim=1).numpy()
    return Samples(images[:16], images[16:], labels[16:], seen=False)


@pytest.fixture
def same_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is slower on this machine is not what these tests ask."""
    monkeypatch.setattr(comparison, "milliseconds", lambda runs, images: (1.0, 1.0))


def compared(right: tuple[list[int], list[int]], times: tuple[float, float] = (2.0, 1.0)) -> Comparison:
    """Of answers to images of class 1."""
    answers = [torch.nn.functional.one_hot(torch.tensor(one), 2).float() for one in right]
    images = torch.arange(len(right[0]), dtype=torch.uint8).view(-1, 1, 1, 1)
    runs = [lambda some, logits=logits: logits[some.flatten().long()] for logits in answers]
    samples = Samples(images, images, np.ones(len(images), np.int64), seen=False)
    return replace(compare(runs[0], runs[1], samples, (), (4, 1)), milliseconds=times)


def test_what_loses_or_is_slower_is_refused_and_what_is_as_good_is_not() -> None:
    same = compared(([1] * 50, [1] * 50))
    assert (same.agreement, same.loss, same.loss_interval, same.refusal(0)) == (100.0, 0.0, (0.0, 0.0), "")
    worse = compared(([1] * 50, [1] * 45 + [0] * 5))
    assert (worse.accuracy, worse.agreement, worse.loss) == ((100.0, 90.0), 90.0, 10.0)
    assert worse.loss_interval[0] > 1 and "loses 10.0 points" in worse.refusal(1.0) and not worse.refusal(30.0)
    other = compared(([0] * 5 + [1] * 45, [1] * 45 + [0] * 5))  # as many right, but others
    assert (other.loss, other.agreement) == (0.0, 80.0)
    assert "loses 0.0 points" in other.refusal(1.0), "its interval says that it may well lose more than a point"
    assert "slower" in compared(([1] * 50, [1] * 50), (1.0, 2.0)).refusal(100)


def test_a_paired_interval_is_never_made_of_few_images() -> None:
    assert "-100.0 to 100.0" in compared(([1] * 4, [1] * 4)).refusal(1.0)


@pytest.mark.parametrize(
    ("quantize", "precision", "most"), [("int8", "fp32", 0.5), ("dynamic", "fp32", 0.5), ("", "fp16", 0.7)]
)
def test_a_smaller_file_says_the_same(
    quantize: Any,
    precision: Any,
    most: float,
    network: tuple[TrainedModel, Samples, Path],
    same_speed: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained, samples, path = network
    options = Options(quantize, precision, max_loss=10.0, samples=samples)
    _, found = graphs().smaller(trained, path, options)
    assert not caplog.records, "onnxruntime's advice is followed already"
    assert found.agreement >= 90 and found.bytes[1] < most * found.bytes[0]
    assert (found.layers > 0) is bool(quantize) and found.images == 32


def test_a_layer_that_int8_hurts_is_measured_and_stays_in_fp32(network: tuple[TrainedModel, Samples, Path]) -> None:
    from vitadapt.classifier.export.quantize import StaticQuantization, folded, runner

    _, samples, path = network
    model = folded(path)
    usual = StaticQuantization(model, samples.calibration)
    assert max(usual.errors.values()) < 0.01 and len(usual.errors) == 9
    name, node = next((name, node) for name, node in usual.layers.items() if "fc1" in name)
    edit(model, node.input[1])
    hurt = StaticQuantization(model, samples.calibration)
    assert max(hurt.errors, key=lambda layer: hurt.errors[layer]) == name
    small, kept = hurt.without(1)
    assert kept == (name,)
    assert sum(node.op_type == "QuantizeLinear" for node in small.graph.node) == 8
    alone = runner(small.SerializeToString())
    together = alone(samples.comparison[:4])
    torch.testing.assert_close(
        torch.cat([alone(one[None]) for one in samples.comparison[:4]]), together, atol=1e-4, rtol=1e-4
    )


def edit(model: Any, name: str) -> None:
    """All but one input channel of a weight become so small that the steps of int8 are larger than they are."""
    import onnx

    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    weight = onnx.numpy_helper.to_array(tensor).copy()
    weight[1:] *= 1e-2
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, name))


def outliers(trained: TrainedModel) -> TrainedModel:
    """The same function, with one channel a thousand times as large before every linear layer that a norm feeds."""
    trained = replace(trained, classifier=copy.deepcopy(trained.classifier))
    with torch.no_grad():
        for block in blocks(trained.classifier.backbone):  # type: ignore[arg-type]
            for norm, layer in ((block.norm1, block.attention.qkv), (block.norm2, block.mlp.fc1)):
                norm.weight[0] *= 1000
                norm.bias[0] *= 1000
                layer.weight[:, 0] /= 1000
    return trained


def test_int8_is_refused_where_it_hurts_and_nothing_is_left(tmp_path: Path, same_speed: None) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from vitadapt.methods import BitFit

    trained = outliers(trained_model("dinov2-like", BitFit()))
    with pytest.raises(WeightsError, match=r"export as int8: it loses [\d.]+ points of accuracy"):
        export(trained, "onnx", tmp_path / "out", Options("int8", samples=samples_of(trained)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "squash", "side"),
    [
        ({}, False, 40),
        ({}, True, 32),
        ({"squash": True}, False, 40),  # and then cropped
        ({"interpolation": "bilinear"}, False, 40),
        ({"interpolation": "bilinear", "squash": True}, False, 40),
    ],
)
def test_the_preprocessing_inside_a_file_is_ours_for_pictures_of_any_size(
    changes: dict[str, Any], squash: bool, side: int, network: tuple[TrainedModel, Samples, Path], tmp_path: Path
) -> None:
    from vitadapt.classifier.export.preprocessing import preprocessing_model
    from vitadapt.classifier.export.quantize import session

    trained = network[0]
    config = trained.base.config
    base = replace_config(trained, preprocess=replace(config.preprocess, resize=40 / 32, **changes))
    trained = replace(base, info=replace(trained.info, squash=squash))
    assert trained.geometry.side == side
    live = session(preprocessing_model(trained).SerializeToString())
    for files in write_pictures(tmp_path, trained.geometry).values():
        for file in files:
            image = open_image(file.read_bytes(), file.name)
            if image.mode not in ("RGB", "RGBA") or image.getexif():
                continue  # turning and converting are the program's
            found = live.run(None, {"image": np.asarray(image)})[0][0]
            apart = np.abs(found.astype(int) - to_pixels(image, trained.geometry))
            assert apart.max() <= 3 and apart.mean() < 0.5, (file.name, apart.max(), apart.mean())
    long = np.random.default_rng(0).integers(0, 256, (4, 3000, 3), dtype=np.uint8)
    assert live.run(None, {"image": long})[0].shape == (1, 3, 32, 32), "without the memory of the whole strip"


def test_channels_first_of_one_to_four_are_the_same_picture(network: tuple[TrainedModel, Samples, Path]) -> None:
    """As transformers.js gives them: grey or RGB, with or without alpha."""
    from vitadapt.classifier.export.preprocessing import preprocessing_model, with_pixel_values
    from vitadapt.classifier.export.quantize import session

    plain = preprocessing_model(network[0])
    first, wanted = session(with_pixel_values(plain).SerializeToString()), session(plain.SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (41, 50, 4), dtype=np.uint8)
    for seen, shown in (([0], [0, 0, 0]), ([0, 3], [0, 0, 0, 3]), ([0, 1, 2], [0, 1, 2]), ([0, 1, 2, 3], [0, 1, 2, 3])):
        (found,) = first.run(None, {"pixel_values": pixels[..., seen].transpose(2, 0, 1)[None].astype(np.float32)})
        np.testing.assert_array_equal(found, wanted.run(None, {"image": pixels[..., shown]})[0])


def replace_config(trained: TrainedModel, **changes: Any) -> TrainedModel:
    import copy

    base = copy.deepcopy(trained.base)
    base.config = replace(base.config, **changes)
    return replace(trained, base=base)


def test_the_program_beside_a_file_with_preprocessing_answers_as_we_do(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    trained, out = trained_model("clip-like"), tmp_path / "out"
    found = export(trained, "onnx", out, Options(preprocessing="inside"))
    assert found.options == {"preprocessing": "inside"} and found.pictures[PHOTOGRAPHS].classes == 0
    assert found.pictures["transparent"].probability < 0.02
    assert {"example.py", "example.mjs", "example.cs"} <= set(found.files)
    file = tmp_path / "picture.png"
    Image.effect_mandelbrot((70, 50), (-2, -1, 1, 1), 20).convert("RGB").save(file)
    done = subprocess.run([sys.executable, out / "example.py", file], capture_output=True, text=True, check=True)
    said = dict(part.rsplit(" ", 1) for part in done.stdout.rstrip("\n").split("\t")[1:])
    pixels = torch.from_numpy(to_pixels(open_image(file.read_bytes(), file.name), trained.geometry))[None]
    with torch.no_grad():
        wanted = trained.classifier(pixels).softmax(dim=1)[0]
    assert list(said) == list(CLASSES)
    torch.testing.assert_close(torch.tensor([float(p) for p in said.values()]), wanted, atol=1e-3, rtol=0)
    with pytest.raises(ConfigError, match="in use"):
        export(trained, "onnx", out)


def test_a_program_that_prepares_photographs_otherwise_gets_no_certificate() -> None:
    trained = trained_model("dinov2-like")

    def stretched(file: Path) -> torch.Tensor:
        image = Image.open(file).convert("RGB").resize((32, 32))
        return trained.classifier(torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())[None])[0]

    with torch.no_grad(), pytest.raises(WeightsError, match="prepares photographs in another way"):
        differences(trained, stretched)

    def failing(file: Path) -> torch.Tensor:
        raise ValueError("a mode that this program does not take")

    with pytest.raises(WeightsError, match="cannot be read"):
        differences(trained, failing)


@pytest.mark.parametrize("to", [name for name in TARGETS if "quantize" not in TARGETS[name].options])
def test_a_target_without_int8_says_who_has_it(to: str, tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="has no --quantize; --to onnx"):
        export(trained_model("dinov2-like"), to, tmp_path / "out", Options("int8"))
    assert not list(tmp_path.iterdir())


def model_record(folder: Path, **changes: Any) -> None:
    """A fit.json that names six training and two held-out pictures."""
    files = []
    for i in range(8):
        Image.new("RGB", (40, 50), (30 * i, 9, 9)).save(folder / f"{i}.png")
        files.append(str(folder / f"{i}.png"))
    record: dict[str, Any] = {
        "format": "vitadapt-fit/2",
        "data": {"measured_by": "held-out", "train": [3, 3], "delivered": [3, 3]},
        "cross_validation": {"paths": files[:6], "labels": [0, 0, 0, 1, 1, 1]},
        "test": {"paths": files[6:], "labels": [0, 1], "count": 2, "accuracy": 50.0, "interval": [9.0, 91.0]},
    }
    for path, value in changes.items():
        part, _, name = path.partition("__")
        record[part][name] = value
    (folder / "fit.json").write_text(checked_json(record), "utf-8")


def test_ranges_are_measured_on_training_images_and_the_comparison_on_others(tmp_path: Path) -> None:
    trained = trained_model("dinov2-like")
    model_record(tmp_path)
    found = read_samples(tmp_path, trained)
    assert (len(found.calibration), found.labels.tolist(), found.seen) == (6, [0, 1], False)
    model_record(tmp_path, data__delivered=[4, 4])
    assert read_samples(tmp_path, trained).seen and "trained on, too" in read_samples(tmp_path, trained).text
    model_record(tmp_path, data__measured_by="cross-validation")
    found = read_samples(tmp_path, trained)
    assert (len(found.calibration), found.labels.tolist(), found.seen) == (3, [0, 1, 1], True)


def test_images_that_are_gone_are_named(tmp_path: Path) -> None:
    trained = trained_model("dinov2-like")
    with pytest.raises(ConfigError, match=r"fit\.json"):
        read_samples(tmp_path, trained)
    model_record(tmp_path)
    (tmp_path / "3.png").unlink()
    with pytest.raises(ConfigError, match=r"3\.png cannot be read \(no such file\).*back where they were"):
        read_samples(tmp_path, trained)


def test_the_record_of_an_export_holds_the_comparison(
    network: tuple[TrainedModel, Samples, Path], tmp_path: Path, same_speed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, samples, path = network
    monkeypatch.setattr(graphs(), "write_network", lambda trained, new: shutil.copyfile(path, new))  # made already
    options = Options("int8", max_loss=10.0, samples=samples)
    found = export(trained, "onnx", tmp_path / "out", options)
    assert found.comparison is not None and "agreement" in "".join(found.lines())
    written = json.loads((tmp_path / "out" / "certificate.json").read_text("utf-8"))
    assert written["comparison"]["agreement"] == found.comparison.agreement
    assert export(trained, "onnx", tmp_path / "out", options) == found, "a finished export is left as it is"
