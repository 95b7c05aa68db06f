"""`vitadapt export`, `import-peft` and `push`: adapted models to other programs and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from . import options as opt
from .output import echo, echo_json, echo_result

app = typer.Typer()
Target = Literal[
    "open_clip", "timm", "hf", "peft", "onnx", "torch-export", "browser", "transformers-js", "openvino", "executorch"
]
Quantize = Annotated[Literal["int8", "dynamic"] | None, Option(help="Linear layers in int8, compared with fp32.")]
StoredPrecision = Annotated[Literal["fp32", "fp16"], Option("--precision", help="Of the stored weights.")]
Preprocessing = Annotated[Literal["outside", "inside"], Option(help="Is resizing part of the file?")]
MaxLoss = Annotated[float, Option(min=0, help="Points of accuracy that a smaller file may lose.")]
Runtime = Annotated[Path | None, Option(help="onnxruntime-web (default: from npm), or a folder with transformers.js.")]
ComparedData = Annotated[str | None, Option("--data", help="Labelled images to compare a smaller file on.")]


@opt.command(app, opt.IMAGES, "vitadapt export my-model --to onnx")
def export(
    model: opt.ModelFolder,
    to: Annotated[Target, Option(help="For which program.")],
    out: Annotated[Path | None, Option("--out", "-o", help="A new folder. Default: MODEL-TO.")] = None,
    quantize: Quantize = None,
    precision: StoredPrecision = "fp32",
    preprocessing: Preprocessing = "outside",
    max_loss: MaxLoss = 1.0,
    data: ComparedData = None,
    runtime: Runtime = None,
    backbone: opt.MovedBackbone = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write an adapted model for another program, run it there, and certify that it gives the same answers."""
    from ..classifier.export.certificate import Options
    from ..classifier.export.deployed import load_trained
    from ..classifier.export.export import export as exported
    from ..classifier.export.samples import read_samples

    stem = model.parent if model.is_file() else model
    out = out or stem.with_name(f"{stem.resolve().name}-{to}")
    trained = load_trained(model, backbone)
    samples = read_samples(stem, trained, data) if quantize or precision != "fp32" else None
    options = Options(quantize or "", precision, preprocessing, max_loss, runtime, samples)
    certificate = exported(trained, to, out, options)
    if as_json:
        echo_json(asdict(certificate))
    else:
        echo(f"exported        {out}", *certificate.lines())


@opt.command(app, opt.IMAGES, "vitadapt import-peft lora-folder --backbone hf:REPO --out imported", "import-peft")
def import_peft(
    folder: Annotated[Path, Argument(help="A folder with adapter_config.json and adapter_model.safetensors.")],
    backbone: Annotated[str, Option("--backbone", "-b", help="The model it was trained on, e.g. hf:REPO.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder for adapter.safetensors.")],
    image_size: opt.ImageSize = None,
    as_json: opt.AsJson = False,
) -> None:
    """Turn a LoRA or LoKr adapter made by PEFT into one of ours."""
    from ..classifier.export.peft_import import import_peft as imported

    path, rank = imported(folder, backbone, image_size, out)
    text = f"{path}: {path.stat().st_size / 1000:.0f} kB, as LoRA of rank {rank}"
    echo_result(text, {"path": str(path), "rank": rank}, as_json)


@opt.command(app, opt.IMAGES, "vitadapt push my-model USER/NAME --dry-run")
def push(
    model: Annotated[Path, Argument(help="A folder made by fit.")],
    repository: Annotated[str, Argument(help="USER/NAME on the Hugging Face hub.")],
    dry_run: Annotated[bool, Option("--dry-run", help="Only check, and list what would be sent.")] = False,
    public: Annotated[bool, Option("--public", help="Make the repository public.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Send a model's folder to the Hugging Face hub."""
    from ..classifier.export import hub

    upload = hub.prepare(model, repository)
    sent = "" if dry_run else hub.push(upload, private=not public)
    if as_json:
        echo_json({"files": upload.files, "card": upload.card, "sent_to": sent or None})
        return
    echo(*(f"{size / 1000:10.1f} kB  {name}" for name, size in upload.files.items()))
    echo(f"model card: {', '.join(f'{name} {value}' for name, value in upload.card.items())}")
    echo(f"dry run: nothing was sent to {repository}" if dry_run else f"sent to {sent}")
