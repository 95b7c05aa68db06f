"""`vitadapt embed` and `similar`: features of images, and which images are alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from ..utils.errors import ConfigError
from . import options as opt
from .output import complain, echo, echo_csv, echo_json, echo_result, print_columns, progress_bar

if TYPE_CHECKING:
    from ..classifier.embedding import Collection, Embedder
    from ..classifier.features_file import Writer
    from ..classifier.similar import Neighbour
    from ..report.gallery import Shot
    from ..utils.progress import Progress

app = typer.Typer()
OfBackbone = Annotated[
    str | None, Option("--backbone", "-b", help=f"Default: {opt.OFFLINE}, or where that of the model is now.")
]
OfModel = Annotated[Path | None, Option("--model", help="A model folder: the features of its adapted backbone.")]


@opt.command(app, opt.IMAGES, "vitadapt embed photos/ -o features.parquet")
def embed(
    photos: Annotated[list[str], Argument(help="Images, folders of them, or one dataset as for fit.")],
    out: Annotated[Path, Option("--out", "-o", help="A new file, .npz or .parquet.")],
    backbone: OfBackbone = None,
    model: OfModel = None,
    image_size: opt.ImageSize = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the file.")] = False,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Write the features of images: path, label, split and the vector of each. Status 1 when one could not be read."""
    from ..classifier.embedding import find_collection
    from ..classifier.features_file import FeaturesInfo, check_target, features_writer

    check_target(out, overwrite)
    collection = find_collection(photos, data_root)
    embedder = _load(backbone, model, image_size, device)
    width, size = embedder.network.features, embedder.network.image_size
    info = FeaturesInfo(embedder.name, embedder.digest, size, width)
    with progress_bar() as (progress, _), features_writer(out, info) as writer:
        count, broken = _write(collection, embedder, writer, progress)
    for line in (*collection.notes, *broken):
        complain(line)
    text = f"{out}: {count} images, {width} features each, of {embedder.name} at {size} x {size} pixels"
    summary = {"path": str(out), "images": count, "features": width, "backbone": embedder.name, "unreadable": broken}
    echo_result(text, summary, as_json)
    if broken:
        raise typer.Exit(1)


@opt.command(app, opt.IMAGES, "vitadapt compare-backbones photos/ -b dinov2-s14 -b siglip2-b16", "compare-backbones")
def compare(
    photos: Annotated[str, Argument(help="Labelled images, as for fit.")],
    backbone: Annotated[list[str] | None, Option("--backbones", "-b", help="A backbone; repeatable.")] = None,
    more: Annotated[list[str] | None, Argument(help="Further backbones.")] = None,
    download: Annotated[bool, Option("--download", help="Fetch weights that are not in the cache.")] = False,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Compare backbones on your images: frozen features and a head in closed form, cross-validated. Seconds each."""
    from ..classifier.compare_backbones import compare_backbones
    from ..nn.setting import Setting

    with progress_bar() as (progress, _):
        setting = Setting(opt.device_of(device), progress=progress)
        rows = compare_backbones(photos, [*(backbone or ()), *(more or ())], setting, data_root, download)
    if as_json:
        echo_json([asdict(row) for row in rows])
    else:
        lines = [
            [
                row.backbone,
                *(
                    [f"{row.accuracy:.1%}", f"{row.low:.1%} to {row.high:.1%}", f"{row.milliseconds:.1f}"]
                    if row.accuracy is not None
                    else ["", "", ""]
                ),
                "" if row.parameters is None else f"{row.parameters:.1f}M",
                row.licence or row.note,
            ]
            for row in rows
        ]
        heads = ["backbone", "accuracy", "95 % interval", "ms per image", "parameters", "licence"]
        print_columns(heads, lines, left=("backbone", "95 % interval", "licence"))
    if all(row.accuracy is None for row in rows):
        raise typer.Exit(1)


def _load(backbone: str | None, model: Path | None, image_size: int | None, device: str) -> Embedder:
    from ..classifier.embedding import load_embedder

    name = backbone or (opt.OFFLINE if model is None else None)
    return load_embedder(name, model, image_size, opt.device_of(device))


def _write(
    collection: Collection, embedder: Embedder, writer: Writer, progress: Progress | None
) -> tuple[int, list[str]]:
    """The number of images written, and a line about each that could not be read."""
    count, broken = 0, list[str]()
    columns = {"label": collection.labels, "split": collection.splits}
    for batch in embedder.batches(collection.refs, progress):
        broken += batch.unreadable
        rows = iter(batch.rows)
        for features in batch.outputs:
            own = [next(rows) for _ in features]
            texts = {name: [values[row] for row in own] for name, values in columns.items()}
            writer.add({"path": [collection.refs[row].name for row in own], **texts}, features)
            count += len(own)
    return count, broken


@opt.command(app, opt.IMAGES, "vitadapt similar cat.jpg photos/ --top 10")
def similar(
    picture: Annotated[Path, Argument(help="An image.")],
    photos: Annotated[list[str], Argument(help="As for embed; or a file that embed wrote.")],
    top: Annotated[int, Option(min=1, help="How many images to show.")] = 10,
    backbone: OfBackbone = None,
    model: OfModel = None,
    image_size: opt.ImageSize = None,
    page: Annotated[Path | None, Option("--html", help="Also write a page with the pictures.")] = None,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
    as_csv: Annotated[bool, Option("--csv", help="One line per image.")] = False,
) -> None:
    """Find the images most similar to one: by the cosine of their features. Status 1 when one could not be read."""
    from ..classifier.similar import nearest, open_photos
    from ..data.examples import FileRef
    from ..report.gallery import similar_page

    check_formats(as_json, as_csv)
    known = open_photos(photos, data_root)
    embedder = _load(backbone, model, image_size, device)
    with progress_bar() as (progress, _):
        found, broken = nearest(embedder, picture, known, top, progress)
    html = partial(similar_page, FileRef(picture), network=embedder.name)
    show_neighbours(found, [*getattr(known, "notes", ()), *broken], page, html, as_json, as_csv)
    if broken:
        raise typer.Exit(1)


def check_formats(as_json: bool, as_csv: bool) -> None:
    """Raises ConfigError when both are wanted."""
    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other")


def show_neighbours(
    found: Sequence[Neighbour],
    complaints: Sequence[str],
    page: Path | None,
    html: Callable[[Sequence[Shot]], str],
    as_json: bool,
    as_csv: bool,
) -> None:
    """Rank, file, label and similarity of each; and a `page` with the pictures, which `html` makes, if wanted."""
    from ..utils.files import write_atomic

    for line in complaints:
        complain(line)
    if page is not None:
        write_atomic(page, html([(one.ref, f"{one.similarity:.3f}", one.label) for one in found]).encode())
    rows: list[dict[str, Any]] = [
        {"rank": rank, "image": one.path, "label": one.label, "similarity": one.similarity}
        for rank, one in enumerate(found, start=1)
    ]
    heads = ["rank", "image", "label", "similarity"]
    cells = [[f"{row[name]:.4f}" if name == "similarity" else str(row[name]) for name in heads] for row in rows]
    if as_json:
        echo_json(rows)
    elif as_csv:
        echo_csv(heads, cells)
    else:
        print_columns(heads, cells, left=("image", "label"))
        if page is not None:
            echo(page)
