"""`vitadapt update` and `info`: change a classifier of one's own images without training it again; what it is."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from . import options as opt
from .output import complain, echo, echo_json, print_columns

app = typer.Typer()


@opt.command(app, opt.IMAGES, "vitadapt update my-model --add photos/new-class")
def update(
    model: opt.ModelFolder,
    add: Annotated[list[Path] | None, Option(help="The folder of a new class, which has its name.")] = None,
    remove: Annotated[list[str] | None, Option(help="A class.")] = None,
    rename: Annotated[tuple[str, str] | None, Option(metavar="OLD NEW", help="A class, and its new name.")] = None,
    add_images: Annotated[list[str] | None, Option(help="More pictures of known classes, as for fit.")] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="The folder to make (default: MODEL-2, -3 ...).")] = None,
    backbone: opt.MovedBackbone = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Add, remove and rename classes without training: a new folder; the old model stays as it is."""
    from ..classifier.update import Changes, update_model

    changes = Changes([rename] if rename else (), remove or (), add or (), add_images or ())
    line = shlex.join(["vitadapt", *sys.argv[1:]])
    found = update_model(model, changes, out, opt.device_of(device), backbone, complain, line)
    if as_json:
        echo_json({"model": str(found.folder), "classes": found.now, "changes": found.lines, "fit due": found.due})
        return
    for text in found.lines:
        echo(text)
    echo("")
    rows = [[name, str(found.before.get(name, "")), str(count)] for name, count in found.now.items()]
    print_columns(["class", "pictures before", "now"], rows, left=("class",))
    for text in found.due:
        complain(f"a new fit is due: {text}")
    echo("", f"{found.folder}: the changed model; {model} is as it was")
    echo(f"next: vitadapt predict {shlex.quote(str(found.folder))} IMAGE_OR_FOLDER")


@opt.command(app, opt.IMAGES, "vitadapt info my-model")
def info(model: opt.ModelFolder, as_json: opt.AsJson = False) -> None:
    """Say what a model is: classes, backbone, method, training, licences, and how good it was when it was made."""
    from ..classifier.predict import model_facts

    found = model_facts(model)
    if as_json:
        echo_json(found)
        return
    width = max(map(len, found))
    for name, value in found.items():
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        text = ", ".join(f"{k}={v}" for k, v in text.items()) if isinstance(text, dict) else text
        echo(f"{name:<{width}}  {text}")
