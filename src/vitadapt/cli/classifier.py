"""`vitadapt fit`, `predict` and `evaluate`: a classifier of one's own images."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from ..utils.errors import ConfigError
from . import options as opt
from .output import complain, echo, echo_csv, echo_json, echo_json_list, print_columns, progress_bar
from .scores import score_lines, score_table

if TYPE_CHECKING:
    from ..classifier.fit import FitConfig
    from ..classifier.model import Model

app = typer.Typer()
Effort = Literal["quick", "default", "best"]
HeatKind = Literal["gradient", "input", "rollout"]
ROWS = 64  # of a table that is printed while it is made


@opt.command(app, opt.IMAGES, "vitadapt fit photos/ --out my-model")
def fit(
    data: Annotated[str, Argument(help="A folder of class folders, a list (.csv, .json, .xml), a name, or hf:REPO.")],
    backbone: opt.Backbone = opt.OFFLINE,
    method: Annotated[str | None, Option("--method", "-m", help="Compared with simpler ones.")] = None,
    out: Annotated[Path, Option("--out", "-o", help="The folder to make.")] = Path("my-model"),
    overwrite: Annotated[bool, Option("--overwrite", help="Replace another model in that folder.")] = False,
    effort: Annotated[Effort, Option(help="quick: the backbone stays as it is.")] = "default",
    time_limit: Annotated[float | None, Option(min=1, help="Seconds; what does not fit in is not tried.")] = None,
    keep_holdout: Annotated[bool, Option("--keep-holdout", help="Never train on the images held out.")] = False,
    image_size: Annotated[int | None, Option(help="Pixels (default: the backbone's).")] = None,
    folds: Annotated[int, Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: Annotated[int, Option(help="Seed of folds, start and order.")] = 0,
    recipe: Annotated[str, Option(help="Changes to the training, e.g. epochs=10,lr=0.001.")] = "",
    head: Annotated[str | None, Option(help="How the head starts: zero, or text with a CLIP.")] = None,
    class_names: opt.ClassNames = None,
    template: opt.Template = None,
    label_separator: opt.Separator = None,
    prior: opt.Prior = None,
    precision: opt.PrecisionOption = "fp32",
    track: opt.Track = None,
    licence: Annotated[str, Option("--licence", "--license", help="Of your model, for its card.")] = "",
    cache: opt.Cache = None,
    no_cache: opt.NoCache = False,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Make a classifier of your images: examine them, hold a part out, keep what cross-validates best, and report."""
    from ..classifier.documents import track_fit
    from ..classifier.fit import fit_folder

    texts = {"recipe": recipe, "head": head, "class_names": class_names, "templates": template}
    config = _fit_config(data, backbone, method, {"image_size": image_size, "folds": folds, "seed": seed}, texts)
    config = replace(config, precision=precision, licence=licence, effort=effort)
    config = replace(config, time_limit=time_limit, keep_holdout=keep_holdout, separator=label_separator, prior=prior)
    environment = opt.environment_of(cache, no_cache, data_root, device)
    if not as_json:
        _print_defaults(config, environment.setting.device, out)
    with progress_bar() as (progress, message), opt.tracked_or_not(track, out.resolve().name) as tracker:
        setting = replace(environment.setting, progress=progress, on_epoch=tracker.epoch if tracker else None)
        line = shlex.join(["vitadapt", *sys.argv[1:]])
        record = fit_folder(config, out, replace(environment, setting=setting), message, line, overwrite)
        if tracker is not None:
            track_fit(tracker, record, out)
    if as_json:
        echo_json({"model": str(out), **record})
    else:
        _print_result(record, out)


def _fit_config(
    data: str, backbone: str, method: str | None, plain: dict[str, Any], texts: dict[str, Any]
) -> FitConfig:
    from ..benchmark.sweep import read_prompts
    from ..classifier.candidates import FitConfig
    from ..methods.spec import parse_method
    from ..nn.head_spec import parse_head
    from ..training.recipe import Recipe
    from ..utils.fields import build_changes, parse_fields
    from ..weights.load import check_name

    check_name(backbone)
    wanted = parse_method(method) if method else None
    changes = build_changes(Recipe, parse_fields(texts["recipe"]), "recipe") if texts["recipe"] else {}
    Recipe(**changes)  # whose values are refused at once
    prompts = {name: texts[name] for name in ("class_names", "templates") if texts[name]}
    return FitConfig(
        data,
        backbone,
        wanted,
        changes=changes,
        head=parse_head(texts["head"]) if texts["head"] else None,
        prompts=read_prompts(prompts) if prompts else None,
        **plain,
    )


def _print_defaults(config: FitConfig, device: str, out: Path) -> None:
    """Every choice with the flag that changes it."""
    from ..methods.spec import method_text

    effort = config.effort + (f", at most {config.time_limit:g} s" if config.time_limit else "")
    method = "linear-probe" if config.effort == "quick" else "kadaptation of the last third of the blocks"
    rows = [
        ["backbone", config.backbone, "--backbone"],
        ["effort", effort, "--effort, --time-limit"],
        ["method", method_text(config.method) if config.method else method, "--method"],
        ["image size", str(config.image_size) if config.image_size else "the backbone's own", "--image-size"],
        ["cross-validation", f"{config.folds} folds", "--folds"],
        ["training", "recipe 'fixed'" + (", changed" if config.changes else ""), "--recipe"],
        ["seed", str(config.seed), "--seed"],
        ["device", device, "--device"],
        ["model folder", str(out), "--out"],
    ]
    print_columns(["what", "choice", "change it with"], rows, left=("what", "choice", "change it with"))
    echo("")


def _print_result(record: dict[str, Any], out: Path) -> None:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.1f} %"

    rows = [
        [row["name"], percent(row["score"]), f"{row['trained']:,}", "kept" if row["kept"] else row["note"]]
        for row in record["ladder"]
    ]
    print_columns(["candidate", "cross-validated", "trained numbers", ""], rows, left=("candidate", ""))
    test = record["test"]
    echo("", *score_lines(test, _TESTED[record["data"]["measured_by"]]))
    if sum(record["data"]["delivered"]) > sum(record["data"]["train"]):
        delivered = len(record["cross_validation"]["paths"]) + test["count"]
        echo(f"measured before the last training; the model is now trained on all {delivered} images")
    size = (out / "adapter.safetensors").stat().st_size / 1000
    echo(f"{out}: adapter.safetensors ({size:.0f} kB), statistics.safetensors, README.md, report.html, fit.json")
    echo(f"next: vitadapt predict {shlex.quote(str(out))} IMAGE_OR_FOLDER")


_TESTED = {"given": "test", "held-out": "held-out", "cross-validation": "cross-validated", "nothing": "held-out"}


@opt.command(app, opt.IMAGES, "vitadapt predict my-model new-photos/ --top 3")
def predict(
    model: opt.ModelFolder,
    images: Annotated[list[Path], Argument(help="Images, or folders of them.")],
    top: Annotated[int, Option(min=1, help="Classes per image.")] = 1,
    threshold: Annotated[float | None, Option(min=0, max=1, help="Less probable answers are 'unsure'.")] = None,
    refuse: Annotated[float, Option(min=0, max=1, help="Share of usual pictures called 'unknown' (0: none).")] = 0.05,
    conformal: Annotated[float | None, Option(min=0, max=1, help="Sets of classes, right so often, e.g. 0.9.")] = None,
    tiles: Annotated[str, Option(help="Rows x columns of parts, e.g. 3x3; their mean is the answer.")] = "1x1",
    as_json: opt.AsJson = False,
    as_csv: Annotated[bool, Option("--csv", help="One line per image and class.")] = False,
    prior: opt.Prior = None,
    backbone: opt.MovedBackbone = None,
    device: opt.Device = "auto",
) -> None:
    """Tell the class of images, with its probability. Status 1 when an image could not be read."""
    from ..classifier.answer import CANNOT, Rules, can_refuse
    from ..classifier.predict import CSV, csv_rows, find_images, predict_images, read_tiles

    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other")
    parts = read_tiles(tiles)
    refs, notes = find_images(images)
    loaded = _load(model, device, backbone)
    rules = Rules(top, threshold, refuse, conformal)
    broken = 0

    def answers(found: Iterator[tuple[list[dict[str, Any]], list[str]]]) -> Iterator[dict[str, Any]]:
        nonlocal broken
        for some, unreadable in found:
            for line in unreadable:
                complain(line)
            broken += len(unreadable)
            yield from some

    # on a terminal the answers themselves tell how far it is
    with nullcontext((None, None)) if sys.stdout.isatty() else progress_bar() as (progress, _):
        rows = answers(predict_images(loaded, refs, rules, progress, prior, parts))
        if refuse and not can_refuse(loaded.novelty):
            notes.append(CANNOT)
        for line in notes:
            complain(line)
        if as_json:
            echo_json_list(rows)
        elif as_csv:
            heads = [*CSV, *(["in set"] if conformal is not None else [])]
            echo_csv(heads, (line for row in rows for line in csv_rows(row)))
        else:
            _print_answers(rows, [ref.name for ref in refs], loaded.classes)
    if broken:
        raise typer.Exit(1)


def _print_answers(answers: Iterator[dict[str, Any]], images: Sequence[str], classes: Sequence[str]) -> None:
    """A table, some rows at a time; columns are as wide as the longest name, so that they fit the rows to come."""
    image, name = max(map(len, images)), max(map(len, [*classes, "unknown"]))
    header = True
    while some := list(islice(answers, ROWS)):
        rows = []
        for row in some:
            shown = [f"{label} {100 * value:.1f} %".ljust(name + 8) for label, value in row["top"].items()]
            labels = ", ".join(f"{label} {100 * value:.1f} %" for label, value in row.get("labels", {}).items())
            best = "unknown" if row["unknown"] else labels or "none" if "labels" in row else row["class"] or "unsure"
            sets = [", ".join(row["set"])] if "set" in row else []
            rows.append([row["image"].ljust(image), best.ljust(name), *shown, *sets])
        heads = ["image", "labels" if "labels" in some[0] else "class"]
        heads += [f"{i + 1}." for i in range(len(some[0]["top"]))] + (["set"] if "set" in some[0] else [])
        print_columns(heads, rows, left=tuple(heads), header=header)
        header = False


@opt.command(app, opt.IMAGES, "vitadapt evaluate my-model labelled-photos/")
def evaluate(
    model: opt.ModelFolder,
    data: Annotated[str, Argument(help="A folder of class folders, a list (.csv, .json, .xml), or a name.")],
    label_separator: opt.Separator = None,
    as_json: opt.AsJson = False,
    data_root: opt.DataRoot = None,
    backbone: opt.MovedBackbone = None,
    device: opt.Device = "auto",
) -> None:
    """Measure a model on labelled images: accuracy with its interval, and per class.

    Of a dataset with a test part only that part is used; of a plain folder or CSV file all images. Classes are matched
    by name. The images must not be those that the model was made from.
    """
    from ..classifier.fit_record import scores
    from ..classifier.predict import labelled_images, predict_readable

    loaded = _load(model, device, backbone)
    examples, notes = labelled_images(data, loaded.info, data_root, label_separator)
    for note in notes:
        complain(note)
    with progress_bar() as (progress, _):
        rows, probabilities, _, unreadable = predict_readable(loaded, examples.refs, progress)
    for line in unreadable:
        complain(f"left out: {line}")
    examples = examples.take(rows)
    found = scores(examples.labels, probabilities, loaded.info.thresholds)
    if as_json:
        names = [ref.name for ref in examples.refs]
        echo_json({"classes": loaded.classes, "paths": names, **found})
        return
    heads, table = score_table(loaded.info, examples.labels, found)
    print_columns(heads, table, left=("class", "mostly taken for"))
    echo("", *score_lines(found, "labelled"))


def _load(folder: Path, device: str, backbone: str | None) -> Model:
    from ..classifier.model import load_model

    return load_model(folder, opt.device_of(device), backbone=backbone)


_SIDE = 448  # pixels of each half of the picture, at least


@opt.command(app, opt.IMAGES, "vitadapt explain my-model cat.jpg")
def explain(
    model: opt.ModelFolder,
    image: Annotated[Path, Argument(help="A picture.")],
    out: Annotated[Path | None, Option("--out", "-o", help="A .png file (default: NAME-heat.png).")] = None,
    kind: Annotated[HeatKind, Option(help="rollout shows attention alone, for no class.")] = "gradient",
    name: Annotated[str | None, Option("--class", help="Explain this class (default: the answer).")] = None,
    backbone: opt.MovedBackbone = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Draw where the model looks: what it sees, and beside it a heat map of what speaks for a class."""
    from ..classifier.explain import explain_file

    out = out or Path(f"{image.stem}-heat.png")
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: a heat map is a PNG; end the name in .png")
    loaded = _load(model, device, backbone)
    found = explain_file(loaded, image, out, kind, name, _SIDE)
    if as_json:
        echo_json({"image": str(image), "path": str(out), **asdict(found)})
        return
    echo(f"{image}: {found.answer} ({100 * found.probability:.1f} %)")
    if found.explained is not None and found.explained != found.answer:
        echo(f"explained: {found.explained} ({100 * found.explained_probability:.1f} %)")
    echo(out)
