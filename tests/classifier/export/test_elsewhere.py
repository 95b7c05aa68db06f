"""Exports that browsers and small devices run: by these themselves, where they are on this machine.

JavaScript is no part of this project: the environment variable ONNXRUNTIME_WEB names a folder or an archive of
onnxruntime-web, and TRANSFORMERS_JS a folder where `npm install @huggingface/transformers` ran.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from export_cases import CLASSES, trained_model
from PIL import Image

from vitadapt.classifier.export import comparison
from vitadapt.classifier.export.browser import chromium
from vitadapt.classifier.export.certificate import Options
from vitadapt.classifier.export.deployed import TrainedModel
from vitadapt.classifier.export.export import export
from vitadapt.classifier.export.samples import Samples
from vitadapt.data.image_file import open_image
from vitadapt.data.images import to_pixels
from vitadapt.utils.errors import ConfigError, NotApplicable, VitadaptError


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Path]:
    """A model, and the folder that a browser opens."""
    runtime = Path(os.environ.get("ONNXRUNTIME_WEB", "absent"))
    if not runtime.exists():
        pytest.skip("ONNXRUNTIME_WEB names no folder or archive of onnxruntime-web")
    if chromium() is None:
        pytest.skip("no Chromium on this machine")
    trained, out = trained_model("clip-like"), tmp_path_factory.mktemp("page") / "out"
    found = export(trained, "browser", out, Options(runtime=runtime))
    assert found.pictures["photographs"].classes == 0 and "Chromium" in found.library
    return trained, out


def test_every_picture_gets_the_answer_of_python_in_a_browser(page: tuple[TrainedModel, Path], tmp_path: Path) -> None:
    """The certificate compares pictures of all kinds; here one is dropped on the page as a user does it."""
    from playwright.sync_api import sync_playwright

    trained, out = page
    file = tmp_path / "picture.png"
    Image.effect_mandelbrot((70, 50), (-2, -1, 1, 1), 20).convert("RGB").save(file)
    pixels = torch.from_numpy(to_pixels(open_image(file.read_bytes(), file.name), trained.geometry))[None]
    with torch.no_grad():
        wanted = trained.classifier(pixels).softmax(dim=1)[0]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        view = opened.new_page()
        asked: list[str] = []
        view.on("request", lambda request: asked.append(request.url))
        view.goto((out / "index.html").as_uri())
        view.set_input_files("#files", file)
        view.wait_for_selector("figure tr")
        rows = [row.split("\t") for row in view.locator("figure table").inner_text().splitlines()]
        view.set_input_files("#files", tmp_path / "broken.jpg")
        view.wait_for_function("document.getElementById('state').textContent.includes('broken.jpg cannot be read')")
        opened.close()
    assert {name for name, _ in rows} == set(CLASSES)
    for name, percent in rows:
        assert float(percent.split()[0]) == pytest.approx(100 * float(wanted[CLASSES.index(name)]), abs=0.11)
    assert all(url.startswith(("file:", "blob:", "data:")) for url in asked), "nothing is sent, nothing is fetched"


@pytest.mark.parametrize("kind", ["empty folder", "other archive", "absent"])
def test_what_is_no_runtime_is_refused_with_the_command_that_gets_one(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    place = tmp_path / "runtime"
    if kind == "empty folder":
        place.mkdir()
    elif kind == "other archive":
        with tarfile.open(place, "w:gz") as archive:
            archive.add(__file__, "package/README.md")
    with pytest.raises(ConfigError, match=r"npm pack onnxruntime-web@[\d.]+"):
        export(trained_model("clip-like"), "browser", tmp_path / "out", Options(runtime=place))
    assert not (tmp_path / "out").exists()


def samples_of(trained: TrainedModel) -> Samples:
    images = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = trained.classifier(images).argmax(dim=1).numpy()
    return Samples(images[:8], images[8:], labels[8:], seen=False)


@pytest.mark.parametrize(("quantize", "precision"), [("", "fp32"), ("", "fp16"), ("int8", "fp32")])
def test_openvino_runs_what_it_made(
    quantize: Any, precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    pytest.importorskip("openvino", reason="openvino is not installed")
    if quantize:
        pytest.importorskip("nncf", reason="nncf is not installed")
    monkeypatch.setattr(comparison, "milliseconds", lambda runs, images: (1.0, 1.0))
    trained = trained_model("dinov2-like")
    options = Options(quantize, precision, max_loss=15.0, samples=samples_of(trained))
    found = export(trained, "openvino", tmp_path / "out", options)
    assert (found.comparison is None) is (not options.chosen)
    assert set(found.files) == {"labels.json", "model.bin", "model.xml"}
    assert found.self_test <= (1e-3 if not options.chosen else 2) * found.largest_logit


def test_openvino_has_no_dynamic_int8(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="--quantize int8"):
        export(trained_model("dinov2-like"), "openvino", tmp_path / "out", Options("dynamic"))


def test_transformers_js_gives_the_answers_of_python(tmp_path: Path) -> None:
    """Its certificate compares pictures of all kinds, by its processor and model; here its pipeline answers for one."""
    place = Path(os.environ.get("TRANSFORMERS_JS", "absent")).resolve()
    if not (place / "node_modules").is_dir():
        pytest.skip("TRANSFORMERS_JS names no folder with transformers.js")
    trained, out = trained_model("clip-like"), tmp_path / "out"
    found = export(trained, "transformers-js", out, Options(runtime=place))
    assert found.pictures["photographs"].classes == 0 and found.pictures["transparent"].probability < 0.01
    assert found.library.startswith("transformers.js ") and "onnx/model.onnx" in found.files
    file = tmp_path / "picture.png"
    Image.effect_mandelbrot((70, 50), (-2, -1, 1, 1), 20).convert("RGB").save(file)
    pixels = torch.from_numpy(to_pixels(open_image(file.read_bytes(), file.name), trained.geometry))[None]
    with torch.no_grad():
        wanted = trained.classifier(pixels).softmax(dim=1)[0]
    (out / "node_modules").symlink_to(place / "node_modules")  # where node looks for what a program imports
    done = subprocess.run(["node", out / "example.mjs", file], capture_output=True, text=True, check=True)
    said = dict(part.rsplit(" ", 1) for part in done.stdout.rstrip("\n").split("\t")[1:])
    assert [float(said[name]) for name in CLASSES] == pytest.approx(wanted.tolist(), abs=1e-3)


def test_transformers_js_is_named_with_the_command_that_gets_it(tmp_path: Path) -> None:
    trained = trained_model("clip-like")
    words = "npm install @huggingface/transformers" if shutil.which("node") else "node"
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(VitadaptError, match=words):
            export(trained, "transformers-js", tmp_path / "out", Options(runtime=place))
    several = replace(trained, info=replace(trained.info, thresholds=(0.5,) * len(CLASSES)))
    with pytest.raises(NotApplicable, match="one class to a picture"):
        export(several, "transformers-js", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_executorch_runs_what_it_lowered(tmp_path: Path) -> None:
    pytest.importorskip("executorch", reason="executorch is not installed")
    found = export(trained_model("dinov2-like"), "executorch", tmp_path / "out")
    assert set(found.files) == {"labels.json", "model.pte", "vitadapt.json"}
    assert json.loads((tmp_path / "out" / "vitadapt.json").read_text("utf-8"))["labels"] == list(CLASSES)
