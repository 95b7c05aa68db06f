"""Export as a graph of operations, normalisation and head included: ONNX, and a program of torch.export.

Both take uint8 images (B, 3, S, S) in RGB, resized and cropped, and hold any model: what cannot be merged is kept. ONNX
can have the preprocessing inside, too, linear layers in int8 or weights in fp16; programs that use it are beside it.
"""

from __future__ import annotations

import json
import runpy
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...metrics.conformal import least_rate, threshold
from ...nn.novelty import Novelty
from ...utils.errors import ConfigError
from ...utils.optional import package
from ..answer import can_refuse
from .certificate import TARGETS, Options, Program, Target
from .comparison import Comparison, Layers, accepted, compare
from .deployed import DeployedModel, TrainedModel
from .preprocessing import with_preprocessing
from .quantize import dynamic_int8, folded, fp16_weights, runner, session, static_int8

PROGRAM, ONNX = "model.pt2", "model.onnx"
_FORMAT = "vitadapt-export/1"
NOVELTY = "novelty"  # the name of the second output
RATES, SHARES = (0.01, 0.05, 0.1, 0.2), (0.8, 0.9, 0.95)
_BATCH = torch.export.Dim("batch", max=2**31 - 1)  # torch 2.6 does not trace one without an end (it may be 2**63 - 1)


def about(trained: TrainedModel, inside: bool = False) -> dict[str, str]:
    """Labels and preprocessing as strings for the metadata of a file, in JSON. inside: is resizing part of it?"""
    size, preprocess = trained.image_size, trained.base.preprocess
    steps = {
        "input": "uint8 RGB, shape (batch, 3, height, width)",
        "resize_shorter_side": trained.shorter_side,
        "interpolation": trained.geometry.interpolation,
        "center_crop": size,
        "normalisation": "inside the graph",
        "mean": preprocess.mean,
        "std": preprocess.std,
    }
    if trained.geometry.squash:
        side = trained.shorter_side
        steps |= {"resize_shorter_side": None, "center_crop": size if side > size else None, "resize_both_sides": side}
    if inside:
        steps["input"] = "uint8, an upright picture (height, width, 3 or 4): RGB, alpha; all steps are in the graph"
    thresholds = trained.info.thresholds
    output = "logits; " + (
        "sigmoid gives the probability of each label" if thresholds else "softmax gives probabilities"
    )
    known: dict[str, Any] = {"labels": trained.info.classes, "preprocessing": steps, "output": output}
    if thresholds:
        known["thresholds"] = thresholds
    if (novelty := trained.classifier.novelty) is not None and can_refuse(novelty):
        known["novelty"] = _novelty_rules(novelty)
    return {"format": _FORMAT, **{name: json.dumps(value, ensure_ascii=False) for name, value in known.items()}}


def _novelty_rules(known: Novelty) -> dict[str, Any]:
    """How a program calls images unknown, or gives sets of classes: thresholds by the share of usual images."""
    left_out, unfit = known.left_out_scores(), known.nonconformity_scores()
    limits = {str(rate): threshold(left_out, 1 - max(rate, least_rate(len(left_out)))) for rate in RATES}
    sets = {str(share): threshold(unfit, share) for share in SHARES}
    return {
        "output": NOVELTY,
        "rule": "unknown if novelty > limit of the share of usual images that may be called unknown",
        "limits": limits,
        "images": len(left_out),
        "sets rule": "a class is in the set if 1 - its probability <= limit of the coverage; the first always is",
        "sets": {share: limit for share, limit in sets.items() if limit < float("inf")},
    }


class _Graph(nn.Module):
    """uint8 images (B, 3, S, S) -> logits (B, C), and their novelty (B,) where the model knows it."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        known = trained.classifier.novelty
        self.deployed, self.novelty = DeployedModel(trained), known if can_refuse(known) else None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.deployed.backbone(images)
        logits = cast(Tensor, self.deployed.head(features))
        return logits if self.novelty is None else (logits, self.novelty(features))


def program_of(trained: TrainedModel, images: int | None = None) -> torch.export.ExportedProgram:
    """The model for so many images, or for any number.

    Not strict: that is how newer torch traces anyway, and 2.6 follows it so.
    """
    size, shapes = trained.image_size, None if images else {"images": {0: _BATCH}}
    example, module = torch.zeros(images or 2, 3, size, size, dtype=torch.uint8), _Graph(trained).eval()
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)


def _write_program(trained: TrainedModel, folder: Path, _: Options) -> None:
    extra = {"vitadapt.json": json.dumps(about(trained))}
    torch.export.save(program_of(trained), folder / PROGRAM, extra_files=extra)


def _reopen_program(folder: Path, trained: TrainedModel, _: Options) -> Program:
    module = torch.export.load(folder / PROGRAM).module()

    def run(images: Tensor) -> Tensor:
        found = module(images)
        logits: Tensor = found[0] if isinstance(found, tuple) else found
        return logits

    return Program(run)


def write_network(trained: TrainedModel, path: Path) -> None:
    """The network in fp32 as an ONNX file: uint8 images (B, 3, S, S) -> logits (B, C), and novelty (B,)."""
    package("onnx", "onnx")
    package("onnxscript", "onnx")
    names = ["logits", NOVELTY] if can_refuse(trained.classifier.novelty) else ["logits"]
    program = torch.onnx.export(
        program_of(trained), dynamo=True, input_names=["images"], output_names=names, verbose=False
    )
    assert program is not None, "the exporter returns one when it is given no file"
    program.save(str(path))


def onnx_model(trained: TrainedModel, folder: Path, options: Options) -> tuple[Any, Comparison | None]:
    """The model as `options` ask, labels and preprocessing in its metadata; and how it compares with fp32.

    `folder` is used to work in and left as it was.
    """
    onnx, path = package("onnx", "onnx"), folder / ONNX
    write_network(trained, path)
    model, comparison = onnx.load(str(path), load_external_data=False), None
    if options.quantize or options.precision != "fp32":
        model, comparison = smaller(trained, path, options)
    path.unlink()
    inside = options.preprocessing == "inside"
    if inside:
        model = with_preprocessing(model, trained)
    onnx.helper.set_model_props(model, about(trained, inside))
    return model, comparison


def _write_onnx(trained: TrainedModel, folder: Path, options: Options) -> Comparison | None:
    package("onnxruntime", "onnx")  # it opens the file in the end; the graph takes seconds
    model, comparison = onnx_model(trained, folder, options)
    package("onnx", "onnx").save(model, str(folder / ONNX))
    inside = options.preprocessing == "inside"
    write_examples(folder, "picture" if inside else "prepared", ("py", "mjs", "cs") if inside else ("py",))
    return comparison


def write_examples(folder: Path, name: str, suffixes: tuple[str, ...]) -> None:
    """Programs that use the file, one per language."""
    for suffix in suffixes:
        shipped = files(__package__) / "examples" / f"{name}.{suffix}.txt"
        (folder / f"example.{suffix}").write_bytes(shipped.read_bytes())


def smaller(trained: TrainedModel, path: Path, options: Options) -> tuple[Any, Comparison]:
    """The network in the fp32 file `path` as `options` ask, and beside fp32. Raises WeightsError when it is no use."""
    samples = options.samples
    if samples is None:
        raise ConfigError("a file of lower precision is measured on images; give Options(samples=read_samples(...))")
    model = folded(path)
    layers: Layers = (0, ())
    if options.quantize == "int8":
        model, layers = static_int8(model, samples.calibration, options.max_loss)
    elif options.quantize:
        model, layers = dynamic_int8(model, path.parent)
    if options.precision == "fp16":
        model = fp16_weights(model)
    content = model.SerializeToString()
    sizes, runs = (path.stat().st_size, len(content)), (runner(path), runner(content))
    found = compare(*runs, samples, trained.info.thresholds, sizes, layers)
    return model, accepted(found, options.text, options.max_loss)


def _reopen_onnx(folder: Path, trained: TrainedModel, _: Options) -> Program:
    """By the program written beside the file."""
    package("onnxruntime", "onnx")
    example = runpy.run_path(str(folder / "example.py"))
    if "outputs" not in example:
        return Program(runner(folder / ONNX), lambda file: torch.from_numpy(example["logits"](file)))
    live = session(folder / ONNX)

    def run(images: Tensor) -> Tensor:
        pictures = [image.permute(1, 2, 0).contiguous().numpy() for image in images]  # (H, W, 3)
        return torch.cat([torch.from_numpy(live.run(["logits"], {"image": picture})[0]) for picture in pictures])

    return Program(run, lambda file: torch.from_numpy(example["outputs"](file, ["logits"])[0][0]))


TARGETS.register("onnx")(
    Target("ONNX", ("onnxruntime",), _write_onnx, _reopen_onnx, frozenset(("quantize", "precision", "preprocessing")))
)
TARGETS.register("torch-export")(Target("torch.export", ("torch",), _write_program, _reopen_program))
