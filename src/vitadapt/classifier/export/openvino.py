"""Export to OpenVINO: model.xml and model.bin, by its own converter; int8 by NNCF, its own quantisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...utils.errors import ConfigError, NotApplicable
from ...utils.optional import package
from .certificate import TARGETS, Options, Program, Target
from .comparison import Comparison, Run, accepted, compare
from .deployed import TrainedModel
from .graphs import about, write_network

MODEL = "model.xml"


def _write(trained: TrainedModel, folder: Path, options: Options) -> Comparison | None:
    if options.quantize == "dynamic":
        raise NotApplicable("OpenVINO has no --quantize dynamic; use --quantize int8, or --to onnx")
    ov, path = package("openvino", "openvino"), folder / "network.onnx"
    write_network(trained, path)
    full, size = ov.convert_model(str(path)), path.stat().st_size
    path.unlink()
    if not options.quantize and options.precision == "fp32":
        _save(full, folder, trained, compressed=False)
        return None
    if options.samples is None:
        raise ConfigError("a file of lower precision is measured on images; give Options(samples=read_samples(...))")
    small = quantised(full, options.samples.calibration) if options.quantize else full
    before = _runner(full)
    _save(small, folder, trained, options.precision == "fp16")
    sizes = size, sum((folder / MODEL).with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin"))
    found = compare(before, _runner(folder / MODEL), options.samples, trained.info.thresholds, sizes)
    return accepted(found, f"{options.text} for OpenVINO", options.max_loss)


def quantised(model: Any, images: Tensor) -> Any:
    """The model in int8, ranges measured on images (N, 3, S, S)."""
    nncf = package("nncf", "openvino")
    each = nncf.Dataset([image.numpy() for image in images.split(1)])
    return nncf.quantize(model, each, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(images))


def _save(model: Any, folder: Path, trained: TrainedModel, compressed: bool) -> None:
    for name, text in about(trained).items():
        model.set_rt_info(text, ["vitadapt", name])
    package("openvino", "openvino").save_model(model, str(folder / MODEL), compress_to_fp16=compressed)


def _runner(model: Any) -> Run:
    """Logits of a file, or of a model in memory, on the CPU."""
    ov = package("openvino", "openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = ov.Core().compile_model(str(model) if isinstance(model, Path) else model, "CPU", settings)
    return lambda images: torch.from_numpy(compiled([images.numpy()])["logits"].copy())


def _reopen(folder: Path, trained: TrainedModel, _: Options) -> Program:
    return Program(_runner(folder / MODEL))


TARGETS.register("openvino")(Target("OpenVINO", ("openvino",), _write, _reopen, frozenset(("quantize", "precision"))))
