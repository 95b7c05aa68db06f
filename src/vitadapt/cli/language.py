"""`vitadapt search` and `zero-shot`: images by words, with a backbone that has a text tower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from ..utils.errors import ConfigError
from . import options as opt
from .features import check_formats, show_neighbours
from .output import complain, echo, echo_json, print_columns, progress_bar

if TYPE_CHECKING:
    from ..classifier.zero_shot import Calibration, Suggestion

app = typer.Typer()
CLIP = "clip-vit-b32"
OfClip = Annotated[str, Option("--backbone", "-b", help="One with a text tower: 'vitadapt list backbones --text'.")]
Page = Annotated[Path | None, Option("--html", help="Also write a page with the pictures.")]


@opt.command(app, opt.IMAGES, 'vitadapt search "a red bicycle" photos/ --top 10 --html found.html')
def search(
    sentence: Annotated[str, Argument(help="What to look for.")],
    photos: Annotated[list[str], Argument(help="As for embed; or a file that embed wrote.")],
    top: Annotated[int, Option(min=1, help="How many images to show.")] = 10,
    backbone: OfClip = CLIP,
    image_size: opt.ImageSize = None,
    page: Page = None,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
    as_csv: Annotated[bool, Option("--csv", help="One line per image.")] = False,
) -> None:
    """Find the images that fit a sentence: by the cosine of their features. Status 1 when one could not be read."""
    from ..classifier.similar import open_photos
    from ..classifier.zero_shot import load_language_model
    from ..report.gallery import search_page

    check_formats(as_json, as_csv)
    if not sentence.strip():
        raise ConfigError('the sentence is empty; say what to look for, e.g. vitadapt search "a red bicycle" photos/')
    known = open_photos(photos, data_root)
    model = load_language_model(backbone, image_size, opt.device_of(device))
    with progress_bar() as (progress, _):
        found, broken = model.search(sentence, known, top, progress)
    html = partial(search_page, sentence, network=backbone)
    show_neighbours(found, [*getattr(known, "notes", ()), *broken], page, html, as_json, as_csv)
    if broken:
        raise typer.Exit(1)


@opt.command(app, opt.IMAGES, "vitadapt zero-shot photos/ --class-names names.txt -o labels.csv", "zero-shot")
def zero_shot(
    photos: Annotated[list[str], Argument(help="Images, or folders of them; labels that they have are not used.")],
    class_names: Annotated[str, Option(help="A file of class names: one per line, class<tab>name, or JSON.")],
    out: Annotated[Path, Option("--out", "-o", help="The CSV file to write, from which fit goes on.")],
    template: opt.Template = None,
    backbone: OfClip = CLIP,
    image_size: opt.ImageSize = None,
    least: Annotated[float, Option("--min-probability", min=0, max=1, help="Leave out what is less sure.")] = 0.0,
    conformal: Annotated[float | None, Option(min=0, max=1, help="Sets of classes, right so often, e.g. 0.9.")] = None,
    calibration: Annotated[str | None, Option(help="Labelled images by which --conformal is set, as for fit.")] = None,
    page: Page = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the file.")] = False,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Suggest labels for images without any, by class names alone. Status 1 when an image could not be read."""
    from ..classifier.embedding import find_collection
    from ..classifier.zero_shot import check_labels, label_table, load_language_model, suggestions
    from ..report.gallery import labels_page
    from ..text import Prompts, read_class_names
    from ..utils.files import write_atomic

    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already; replace it with --overwrite, or name another file with -o")
    if (conformal is None) != (calibration is None):
        raise ConfigError(
            "--conformal needs labelled images, and these need it: give --conformal 0.9 --calibration DIR"
        )
    names = read_class_names(Path(class_names))
    classes = [line.partition("\t")[0] for line in names]
    check_labels(classes)
    collection = find_collection(photos, data_root)
    model = load_language_model(backbone, image_size, opt.device_of(device))
    directions = model.class_directions(classes, Prompts(class_names=names, templates=tuple(template or ())))
    calibrated, notes = None, list(collection.notes)
    if conformal is not None and calibration is not None:
        calibrated, more = model.calibrate(calibration, classes, directions, conformal, data_root)
        notes += more
    with progress_bar() as (progress, _):
        rows, probabilities, broken = model.probabilities(collection.refs, directions, progress)
    refs = [collection.refs[row] for row in rows]
    found = suggestions(refs, classes, probabilities, calibrated.limit if calibrated else None)
    sure = [one for one in found if one.probability >= least]
    for line in (*notes, *broken):
        complain(line)
    write_atomic(out, label_table(sure, out).encode())
    lines = _summary(calibrated, backbone, len(found), len(sure), least)
    if page is not None:
        order = sorted(sure, key=lambda one: -one.probability)
        shown = [(one.ref, f"{one.probability:.3f}", one.label) for one in order]
        write_atomic(page, labels_page(classes, shown, lines).encode())
    if as_json:
        measured = asdict(calibrated) if calibrated else None
        echo_json({"labels": str(out), "suggestions": [_plain(one) for one in found], "calibration": measured})
    else:
        _print_counts(classes, sure, lines)
        echo(f"{out}: look through the labels, correct them, then vitadapt fit {out}")
    if broken:
        raise typer.Exit(1)


def _plain(one: Suggestion) -> dict[str, Any]:
    return {"image": one.ref.name, "label": one.label, "probability": one.probability, "set": list(one.inside)}


def _summary(calibrated: Calibration | None, backbone: str, count: int, sure: int, least: float) -> list[str]:
    """What was done, and how right it is as far as that was measured."""
    from ..metrics.scores import share_interval

    left = f"; {count - sure} of {count} images are left out, for they have less than {least:g}" if sure < count else ""
    lines = [f"Labels are suggested by {backbone}; the number is the probability of the class{left}."]
    if calibrated is None:
        return [*lines, "Nothing here says how often they are right; --calibration measures it on labelled images."]
    sets = calibrated.coverage
    low, high = (100 * share for share in share_interval(sets.right, sets.count))
    lines.append(f"Of {sets.count} labelled images {calibrated.accuracy:.1f} % get their own label.")
    lines.append(
        f"Sets of classes that shall hold the right one in {100 * sets.wanted:.0f} % of cases held it in "
        f"{100 * sets.right / sets.count:.1f} % (95 % interval {low:.1f} to {high:.1f}), with {sets.size:.1f} classes "
        "on average."
    )
    return lines


def _print_counts(classes: Sequence[str], found: Sequence[Suggestion], lines: Sequence[str]) -> None:
    counts = Counter(one.label for one in found)
    sizes = Counter(len(one.inside) for one in found)
    print_columns(["class", "images"], [[name, str(counts[name])] for name in classes], left=("class",))
    echo(*lines)
    if any(sizes.keys()):
        echo("images by the size of their set: " + ", ".join(f"{size}: {sizes[size]}" for size in sorted(sizes)))
