"""Export as a graph of operations, normalisation and head included: ONNX, and a program of torch.export.

Both take uint8 images (B, 3, S, S) in RGB, resized and cropped, and hold any model: what cannot be merged is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...utils.optional import package
from .certificate import TARGETS, Run, Target
from .deployed import DeployedModel, TrainedModel

PROGRAM, ONNX = "model.pt2", "model.onnx"
_FORMAT = "vitadapt-export/1"
_BATCH = torch.export.Dim("batch", max=2**31 - 1)  # torch 2.6 does not trace one without an end (it may be 2**63 - 1)


def about(trained: TrainedModel) -> dict[str, str]:
    """Labels and preprocessing as strings, for the metadata of a file. Values are JSON."""
    size, preprocess = trained.image_size, trained.base.preprocess
    steps = {
        "input": "uint8 RGB, shape (batch, 3, height, width)",
        "resize_shorter_side": trained.shorter_side,
        "interpolation": "bicubic",
        "center_crop": size,
        "normalisation": "inside the graph",
        "mean": preprocess.mean,
        "std": preprocess.std,
    }
    if trained.geometry.squash:
        steps |= {"resize_shorter_side": None, "center_crop": None, "resize_both_sides": size}
    thresholds = trained.info.thresholds
    output = "logits; " + (
        "sigmoid gives the probability of each label" if thresholds else "softmax gives probabilities"
    )
    known: dict[str, Any] = {"labels": trained.info.classes, "preprocessing": steps, "output": output}
    if thresholds:
        known["thresholds"] = thresholds
    return {"format": _FORMAT, **{name: json.dumps(value, ensure_ascii=False) for name, value in known.items()}}


def _program(trained: TrainedModel) -> torch.export.ExportedProgram:
    """The model for any number of images. Not strict: that is how newer torch traces anyway, and 2.6 follows it so."""
    size = trained.image_size
    example, module = torch.zeros(2, 3, size, size, dtype=torch.uint8), DeployedModel(trained).eval()
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes={"images": {0: _BATCH}}, strict=False)


def _write_program(trained: TrainedModel, folder: Path) -> None:
    extra = {"vitadapt.json": json.dumps(about(trained))}
    torch.export.save(_program(trained), folder / PROGRAM, extra_files=extra)


def _reopen_program(folder: Path, trained: TrainedModel) -> Run:
    module = torch.export.load(folder / PROGRAM).module()

    def run(images: Tensor) -> Tensor:
        logits: Tensor = module(images)
        return logits

    return run


def _write_onnx(trained: TrainedModel, folder: Path) -> None:
    onnx = package("onnx", "onnx")
    package("onnxscript", "onnx")
    program = torch.onnx.export(
        _program(trained), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
    )
    assert program is not None, "the exporter returns one when it is given no file"
    program.save(str(folder / ONNX))
    model = onnx.load(str(folder / ONNX), load_external_data=False)
    onnx.helper.set_model_props(model, about(trained))
    onnx.save(model, str(folder / ONNX))


def _reopen_onnx(folder: Path, trained: TrainedModel) -> Run:
    session = package("onnxruntime", "onnx").InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


TARGETS.register("onnx")(Target("ONNX", ("onnxruntime",), _write_onnx, _reopen_onnx))
TARGETS.register("torch-export")(Target("torch.export", ("torch",), _write_program, _reopen_program))
