"""`vitadapt fit`, `predict`, `evaluate` and `info`: a classifier of one's own images."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..utils.errors import ConfigError
from .options import AsJson, Cache, DataRoot, Device, Moved, NoCache, complain, environment_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from ..classifier.fit import FitConfig
    from ..classifier.model import Model

app = typer.Typer()

ModelFolder = Annotated[Path, typer.Argument(help="A folder made by fit, or an adapter file.")]
_OFFLINE = "dinov2-s14-offline"


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="A folder of class folders, a CSV file, a name, or hf:REPO.")],
    backbone: Annotated[str, typer.Option("--backbone", "-b", help="See 'vitadapt list backbones'.")] = _OFFLINE,
    method: Annotated[str, typer.Option("--method", "-m", help="Compared with simpler ones.")] = "kadaptation",
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")] = Path("my-model"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another model in that folder.")] = False,
    image_size: Annotated[
        int | None, typer.Option(help="Pixels (default: the backbone's own; on a CPU half of a large one).")
    ] = None,
    folds: Annotated[int, typer.Option(help="Of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(help="Of folds, initialisation and order.")] = 0,
    recipe: Annotated[str, typer.Option(help="Changes to the training, e.g. epochs=10,lr=0.001.")] = "",
    head: Annotated[str | None, typer.Option(help="How the head starts: zero, or text with a CLIP.")] = None,
    class_names: Annotated[str | None, typer.Option(help="A file of class names in words, as for run.")] = None,
    template: Annotated[list[str] | None, typer.Option(help="A sentence with {} for the class name.")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")] = "fp32",
    licence: Annotated[str, typer.Option("--licence", "--license", help="Of your model, for its card.")] = "",
    cache: Cache = None,
    no_cache: NoCache = False,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Make a classifier of your images: examine them, hold a part out, keep what cross-validates best, and report."""
    from ..classifier.fit import fit_folder

    said = {"recipe": recipe, "head": head, "class_names": class_names, "templates": template}
    config = _fit_config(data, backbone, method, {"image_size": image_size, "folds": folds, "seed": seed}, said)
    from dataclasses import replace

    config = replace(config, precision=precision, licence=licence)
    environment = environment_of(cache, no_cache, data_root, device)
    _print_defaults(config, environment.setting.device, out)
    with _bar() as (progress, message):
        setting = replace(environment.setting, progress=progress)
        record = fit_folder(config, out, replace(environment, setting=setting), message, _command(), overwrite)
    _print_result(record, out)


def _fit_config(data: str, backbone: str, method: str, plain: dict[str, Any], said: dict[str, Any]) -> FitConfig:
    from ..benchmark.sweep import read_prompts
    from ..classifier.fit import FitConfig
    from ..methods.spec import parse_method
    from ..nn.head_spec import parse_head
    from ..training.recipe import recipe_for
    from ..utils.fields import build_changes, parse_fields
    from ..weights.load import check_name

    check_name(backbone)
    wanted = parse_method(method)
    if plain["folds"] < 2:
        raise ConfigError(f"--folds must be at least 2, got {plain['folds']}")
    recipe = None
    if said["recipe"]:
        from dataclasses import replace

        base = recipe_for("fixed", wanted)
        recipe = replace(base, **build_changes(type(base), parse_fields(said["recipe"]), "recipe"))
    prompts = {name: said[name] for name in ("class_names", "templates") if said[name]}
    return FitConfig(
        data,
        backbone,
        wanted,
        recipe=recipe,
        head=parse_head(said["head"]) if said["head"] else None,
        prompts=read_prompts(prompts) if prompts else None,
        **plain,
    )


def _command() -> str:
    return shlex.join(["vitadapt", *sys.argv[1:]])


def _print_defaults(config: FitConfig, device: str, out: Path) -> None:
    """Every choice with the flag that changes it."""
    from ..methods.spec import method_text
    from .tables import print_columns

    size = str(config.image_size) if config.image_size else "the backbone's own; half of a large one on a CPU"
    rows = [
        ["backbone", config.backbone, "--backbone"],
        ["method", method_text(config.method), "--method"],
        ["image size", size, "--image-size"],
        ["cross-validation", f"{config.folds} folds", "--folds"],
        ["training", "recipe 'fixed'" + (", changed" if config.recipe else ""), "--recipe"],
        ["seed", str(config.seed), "--seed"],
        ["device", device, "--device"],
        ["model folder", str(out), "--out"],
    ]
    print_columns(["what", "choice", "change it with"], rows, left=("what", "choice", "change it with"))
    print(flush=True)


@contextmanager
def _bar() -> Iterator[tuple[Callable[[str, int, int], None], Callable[[str], None]]]:
    """A progress bar on the standard error, and lines that go above it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:.0f} %"),
    )
    quiet = not console.is_terminal
    timing = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *timing, console=console, transient=True, disable=quiet) as bars:
        task, labels = bars.add_task("reading", total=None), [""]

        def report(label: str, done: int, total: int) -> None:
            if label != labels[0]:
                labels[0] = label
                bars.reset(task, total=total, description=label)
            bars.update(task, completed=done)

        yield report, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_result(record: dict[str, Any], out: Path) -> None:
    from .tables import print_columns

    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.1f} %"

    rows = [
        [row["name"], percent(row["score"]), f"{row['trained']:,}", "kept" if row["kept"] else row["note"]]
        for row in record["ladder"]
    ]
    print_columns(["candidate", "cross-validated", "trained numbers", ""], rows, left=("candidate", ""))
    test = record["test"]
    print(f"\n{_accuracy(test, 'held-out' if not record['data']['given'] else 'test')}")
    size = (out / "adapter.safetensors").stat().st_size / 1000
    print(f"{out}: adapter.safetensors ({size:.0f} kB), README.md, report.html, fit.json")
    print(f"next: vitadapt predict {shlex.quote(str(out))} IMAGE_OR_FOLDER")


def _accuracy(test: dict[str, Any], what: str) -> str:
    if test["accuracy"] is None:
        return f"accuracy: not known, for there are no {what} images; add some"
    low, high = test["interval"]
    return (
        f"accuracy on {test['count']} {what} images: {test['accuracy']:.1f} % (95 % interval {low:.1f} to {high:.1f} %)"
    )


@app.command()
def predict(
    model: ModelFolder,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    top: Annotated[int, typer.Option(help="Classes per image.")] = 1,
    threshold: Annotated[float | None, typer.Option(help="Below this probability the answer is 'unsure'.")] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="One line per image and class.")] = False,
    backbone: Moved = None,
    device: Device = "auto",
) -> None:
    """Tell the class of images, with its probability. Status 1 when an image could not be read."""
    from ..classifier.predict import csv_text, find_images, predict_images

    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold is a probability, 0 to 1, not {threshold}")
    if top < 1:
        raise ConfigError(f"--top must be at least 1, got {top}")
    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other")
    refs, notes = find_images(images)
    loaded = _load(model, device, backbone)
    with _bar() as (progress, _):
        answers, broken = predict_images(loaded, refs, top, threshold, progress)
    for line in (*notes, *broken):
        complain(line)
    if as_json:
        print(json.dumps(answers, indent=1))
    elif as_csv:
        print(csv_text(answers), end="")
    else:
        _print_answers(answers)
    if broken:
        raise typer.Exit(1)


def _print_answers(answers: list[dict[str, Any]]) -> None:
    from .tables import print_columns

    rows = []
    for row in answers:
        shown = [f"{name} {100 * value:.1f} %" for name, value in row["top"].items()]
        rows.append([row["image"], row["class"] or "unsure", *shown])
    if not rows:
        return
    heads = ["image", "class", *(f"{i + 1}." for i in range(len(rows[0]) - 2))]
    print_columns(heads, rows, left=tuple(heads))


@app.command()
def evaluate(
    model: ModelFolder,
    data: Annotated[str, typer.Argument(help="A folder of class folders, or a CSV file; all its images are used.")],
    as_json: AsJson = False,
    data_root: DataRoot = None,
    backbone: Moved = None,
    device: Device = "auto",
) -> None:
    """Measure a model on labelled images: accuracy with its interval, and per class. Classes are matched by name."""
    from ..classifier.fit_record import scores
    from ..classifier.predict import labelled_images, predict_readable
    from .tables import print_columns

    loaded = _load(model, device, backbone)
    examples, notes = labelled_images(data, loaded.classes, data_root)
    for note in notes:
        complain(note)
    with _bar() as (progress, _):
        rows, probabilities, unreadable = predict_readable(loaded, examples.refs, progress)
    for line in unreadable:
        complain(f"left out: {line}")
    examples = examples.take(rows)
    found = scores(examples.labels, probabilities)
    if as_json:
        names = [ref.name for ref in examples.refs]
        print(json.dumps({"classes": loaded.classes, "paths": names, **found}, indent=1))
        return
    table = _class_rows(loaded, examples.labels, found)
    print_columns(["class", "images", "right", "mostly taken for"], table, left=("class", "mostly taken for"))
    print(f"\n{_accuracy(found, 'labelled')}")


def _class_rows(model: Model, labels: np.ndarray, found: dict[str, Any]) -> list[list[str]]:
    import numpy as np

    predicted = np.array(found["probabilities"]).argmax(axis=1)
    rows = []
    for c, name in enumerate(model.classes):
        own = predicted[labels == c]
        wrong = own[own != c]
        other = model.classes[int(np.bincount(wrong).argmax())] if len(wrong) else ""
        share = found["per_class"][c]
        rows.append([name, str(len(own)), "" if share is None else f"{share:.1f} %", other])
    return rows


@app.command()
def info(model: ModelFolder, as_json: AsJson = False) -> None:
    """Say what a model is: classes, backbone, method, training, licences, and how good it was when it was made."""
    from ..classifier.predict import model_facts

    found = model_facts(model)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    width = max(map(len, found))
    for name, value in found.items():
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        text = ", ".join(f"{k}={v}" for k, v in text.items()) if isinstance(text, dict) else text
        print(f"{name:<{width}}  {text}")


def _load(folder: Path, device: str, backbone: str | None) -> Model:
    from ..classifier.model import load_model

    return load_model(folder, environment_of(None, True, None, device).setting.device, backbone=backbone)


_SIDE = 448  # pixels of each half of the picture, at least


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="A folder made by fit, or an adapter file.")],
    image: Annotated[Path, typer.Argument(help="A picture.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A .png file (default: the picture's name with -heat.png).")
    ] = None,
    kind: Annotated[str, typer.Option(help="gradient or input (for one class), or rollout (attention alone).")] = (
        "gradient"
    ),
    name: Annotated[
        str | None, typer.Option("--class", help="The class to explain (default: the most probable).")
    ] = None,
    backbone: Moved = None,
    device: Device = "auto",
) -> None:
    """Draw where the model looks: what it sees, and beside it a heat map of what speaks for a class."""
    from ..classifier.explain import explain_file

    out = out or Path(f"{image.stem}-heat.png")
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: a heat map is a PNG; end the name in .png")
    loaded = _load(model, device, backbone)
    found = explain_file(loaded, image, out, kind, name, _SIDE)
    print(f"{image}: {found.answer} ({100 * found.probability:.1f} %)")
    if found.explained is not None and found.explained != found.answer:
        print(f"explained: {found.explained} ({100 * found.explained_probability:.1f} %)")
    print(out)
