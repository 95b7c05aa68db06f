"""`vitadapt export`, `import-peft` and `push`: adapted models to other programs and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, Moved

app = typer.Typer()

Model = Annotated[Path, typer.Argument(help="A folder made by fit, or an adapter file.")]
_FORMATS = "open_clip, timm, hf, peft, onnx or torch-export"


@app.command()
def export(
    model: Model,
    to: Annotated[str, typer.Option(help=f"For which program: {_FORMATS}.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A new folder. Default: MODEL-TO.")] = None,
    backbone: Moved = None,
    as_json: AsJson = False,
) -> None:
    """Write an adapted model for another program, run it there, and certify that it gives the same answers."""
    from ..classifier.export.deployed import load_trained
    from ..classifier.export.export import export as exported

    stem = model.parent if model.is_file() else model
    out = out or stem.with_name(f"{stem.resolve().name}-{to}")
    certificate = exported(load_trained(model, backbone), to, out)
    if as_json:
        print(json.dumps(asdict(certificate), indent=1))
        return
    print("\n".join([f"exported        {out}", *certificate.lines()]))


@app.command("import-peft")
def import_peft(
    folder: Annotated[Path, typer.Argument(help="A folder with adapter_config.json and adapter_model.safetensors.")],
    backbone: Annotated[str, typer.Option("--backbone", "-b", help="The model it was trained on, e.g. hf:REPO.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for adapter.safetensors.")],
    image_size: Annotated[int | None, typer.Option(help="Pixels, if other than the backbone's own.")] = None,
) -> None:
    """Turn a LoRA or LoKr adapter made by PEFT into one of ours."""
    from ..classifier.export.peft_import import import_peft as imported

    path, rank = imported(folder, backbone, image_size, out)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, as LoRA of rank {rank}")


@app.command()
def push(
    model: Annotated[Path, typer.Argument(help="A folder made by fit.")],
    repository: Annotated[str, typer.Argument(help="USER/NAME on the Hugging Face hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and list what would be sent.")] = False,
    public: Annotated[
        bool, typer.Option("--public", help="For everyone to see (default: a private repository).")
    ] = False,
) -> None:
    """Send a model's folder to the Hugging Face hub."""
    from ..classifier.export import hub

    upload = hub.prepare(model, repository)
    for name, size in upload.files.items():
        print(f"{size / 1000:10.1f} kB  {name}")
    print(f"model card: {', '.join(f'{name} {value}' for name, value in upload.card.items())}")
    if dry_run:
        print(f"dry run: nothing was sent to {repository}")
        return
    print(f"sent to {hub.push(upload, private=not public)}")
