"""`vitadapt suggest`: which pictures to label next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from ..utils.errors import ConfigError, DataError
from . import options as opt
from .output import complain, echo, echo_csv, echo_json, print_columns, progress_bar

app = typer.Typer()


@opt.command(app, opt.IMAGES, "vitadapt suggest my-model unlabelled/ --count 50 --html next.html")
def suggest(
    model: opt.ModelFolder,
    images: Annotated[list[Path], Argument(help="Images without labels, or folders of them.")],
    count: Annotated[int, Option("--count", "-n", min=1, help="How many pictures.")] = 50,
    by: Annotated[opt.SuggestRule, Option(help="margin: unsure and unlike the others.")] = "margin",
    seed: Annotated[int, Option(help="Seed of the rule random.")] = 0,
    page: Annotated[Path | None, Option("--html", help="Also write a page with the pictures.")] = None,
    label_studio: Annotated[Path | None, Option(help="Also write tasks for Label Studio (JSON).")] = None,
    as_json: opt.AsJson = False,
    as_csv: Annotated[bool, Option("--csv", help="One line per picture.")] = False,
    backbone: opt.MovedBackbone = None,
    device: opt.Device = "auto",
) -> None:
    """Tell which pictures to label next, the most wanted first. Status 1 when one could not be read.

    Pictures that the model was made from are left out. Label these, make the model again with `fit`, and ask again.
    """
    from ..classifier.model import load_model
    from ..classifier.predict import find_images
    from ..classifier.suggest import label_studio_tasks, unlabelled
    from ..classifier.suggest import suggest as suggestions
    from ..report.gallery import suggestion_page
    from ..utils.files import write_atomic

    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other")
    refs, notes = find_images(images)
    loaded = load_model(model, opt.device_of(device), backbone=backbone)
    new = unlabelled(loaded, refs)
    if len(new) < len(refs):
        notes.append(f"{len(refs) - len(new)} pictures are left out: the model was made from them")
    if not new:
        raise DataError("every picture has a label already; give others")
    with progress_bar() as (progress, _):
        found, broken = suggestions(loaded, new, count, by, seed, progress)
    for line in (*notes, *broken):
        complain(line)
    if label_studio is not None:
        tasks = label_studio_tasks(found, loaded.info, model.name, label_studio.parent)
        write_atomic(label_studio, json.dumps(tasks, indent=1).encode())
    if page is not None:
        shots = [(one.ref, f"{one.doubt:.2f}", one.label) for one in found]
        write_atomic(page, suggestion_page(shots, model.name, by).encode())
    rows: list[dict[str, Any]] = [
        {
            "rank": rank,
            "image": one.ref.name,
            "label": one.label,
            "probability": one.probabilities[one.label],
            "doubt": one.doubt,
            "distance": one.distance,
        }
        for rank, one in enumerate(found, start=1)
    ]
    heads = ["rank", "image", "label", "probability", "doubt", "distance"]
    cells = [[f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name]) for name in heads] for row in rows]
    if as_json:
        echo_json(rows)
    elif as_csv:
        echo_csv(heads, cells)
    else:
        print_columns(heads, cells, left=("image", "label"))
        echo(*filter(None, [page, label_studio]))
    if broken:
        raise typer.Exit(1)
