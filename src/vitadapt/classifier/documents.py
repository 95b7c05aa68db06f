"""The page and the card of a fitted model, from its record and its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Examples, FileRef
from ..metrics.learning_curve import Forecast, forecast
from ..report.fitted_model import Answers, Candidate, Fitted
from ..report.model_card import model_card
from ..report.model_figures import MODEL_FIGURES
from ..report.tracking import flat, track_pictures
from ..training.adapter_file import ADAPTER
from ..training.task import Task
from ..utils.errors import ConfigError, VitadaptError
from ..utils.files import write_atomic
from ..utils.tracking import Tracker
from ..weights.catalog import backbones
from .fit_record import RECORD, headline
from .holdout import TrainTestSplit
from .model_selection import Message

CARD, REPORT = "README.md", "report.html"


def write_pages(
    record: dict[str, Any],
    data: TrainTestSplit,
    task: Task,
    out: Path,
    message: Message,
    thresholds: Sequence[float] = (),
) -> None:
    """README.md and report.html into `out`; `message` says what a page lacks (a package, enough images)."""
    curve: Forecast | None = None
    try:
        if data.multilabel:
            raise ConfigError("it is made for one label per image")
        curve = forecast(task.features.numpy(), data.train.labels, data.groups, task.config.seed)
    except ConfigError as error:
        message(f"no forecast: {error}")
    write_fitted(fitted_of(record, data, out, curve, thresholds), out, message)


def write_fitted(fitted: Fitted, out: Path, message: Message) -> None:
    """README.md and report.html of `fitted` into `out`."""
    write_atomic(out / CARD, model_card(fitted).encode())
    try:
        from ..report.model_report import model_page

        write_atomic(out / REPORT, model_page(fitted).encode())
    except VitadaptError as error:
        message(f"no {REPORT}: {error}")


def fitted_of(
    record: dict[str, Any],
    data: TrainTestSplit,
    out: Path,
    curve: Forecast | None = None,
    thresholds: Sequence[float] = (),
) -> Fitted:
    """The record as the pages want it. thresholds: of several labels per image."""
    test, cross = record["test"], record["cross_validation"]["probabilities"]
    empty = np.zeros((0, len(data.classes)))
    crossed = data.measured_by == "cross-validation"
    tested = data.train if crossed else data.test
    held = Answers(tested.refs, tested.labels, np.array(test["probabilities"] or empty))
    selected = next(row for row in record["ladder"] if row["kept"])
    return Fitted(
        name=out.resolve().name,
        classes=data.classes,
        backbone=record["backbone"],
        image_size=record["image_size"],
        method=record["method"],
        counts=record["data"]["delivered"],
        held_out=held,
        candidates=[_candidate(row, headline(test)) for row in record["ladder"]],
        cross=Answers(data.train.refs, data.train.labels, np.array(cross)) if cross else None,
        given_interval=tuple(test["interval"]) if test["interval"] else None,
        forecast=curve,
        losses=record["losses"],
        command=record["command"],
        created=record["created"],
        seed=record["seed"],
        folds=record["folds"] or None,
        trained=selected["trained"],
        size=(out / ADAPTER).stat().st_size,
        licence=record["licence"],
        base_licence=record["base_licence"],
        base_model=_hub_repository(record["backbone"]),
        versions=record["versions"],
        notes=record["data"]["notes"],
        refuses="unknown" in record,
        limits=limit_lines(record),
        cross_measured=crossed,
        refitted=len(data.delivered) > len(data.train),
        thresholds=thresholds,
        label_scores=test.get("per_label", {}),
    )


def limit_lines(record: dict[str, Any]) -> list[str]:
    """What the record says of unknown pictures, sets of classes, and the head that an update makes; whole sentences."""
    lines = []
    if unknown := record.get("unknown"):
        low, high = unknown["interval"]
        lines.append(
            f"Pictures of {unknown['classes']} classes that were left out in turn are told from pictures of the known "
            f"classes with an AUROC of {unknown['auroc']:.1f} % (95 % interval {low:.1f} to {high:.1f} %). Where "
            f"{100 * unknown['rate']:.0f} % of usual pictures are called unknown, {unknown['refused']:.0f} % of them "
            "are. Pictures of something quite different are told more easily than another class of the same kind."
        )
        if unknown["seen_in_training"]:
            lines.append(
                "The network had been trained on the classes left out, for they were left out of what it is compared "
                "with only; of classes that it has never seen expect a little less."
            )
    if sets := record.get("sets"):
        low, high = sets["interval"]
        share, wanted = 100 * sets["right"] / sets["count"], sets["wanted"]
        lines.append(
            f"Sets of classes that shall hold the right one in {100 * wanted:.0f} % of cases (predict --conformal "
            f"{wanted}) hold it in {share:.1f} % of {sets['count']} pictures in cross-validation (95 % interval "
            f"{low:.1f} to {high:.1f} %), with {sets['size']:.2f} classes on average."
        )
    if solved := record.get("closed_form"):
        lines.append(
            f"The head in closed form that 'vitadapt update' makes is right on {solved['accuracy']:.1f} % of "
            f"{solved['count']} pictures in cross-validation; the one of 'vitadapt fit' on {solved['head']:.1f} %."
        )
    return lines


def _candidate(row: dict[str, Any], accuracy: float | None) -> Candidate:
    tested = accuracy if row["kept"] else None  # the test images are used for one model only
    return Candidate(
        row["name"],
        row["score"],
        row["deviation"],
        tested,
        row["trained"],
        row["seconds"] or None,
        row["kept"],
        row["note"],
        row["odds"],
    )


def _hub_repository(backbone: str) -> str:
    """The repository of the backbone's weights at the Hugging Face hub, if it has one."""
    row = backbones().get(backbone)
    sources = row.sources if row else (backbone,)
    found = [source.removeprefix("hf:") for source in sources if source.startswith("hf:")]
    return found[0] if found and not Path(found[0]).exists() else ""


def split_of(record: dict[str, Any]) -> TrainTestSplit:
    """The pictures that the record speaks of, as far as they are still where they were."""
    data, cross = record["data"], record["cross_validation"]
    train, test = _examples(cross), _examples(record["test"])
    if data["measured_by"] == "cross-validation":
        test = test.take([])
    groups, kept = np.array(cross["groups"], dtype=np.int64), data["delivered"] == data["train"]
    classes = tuple(record["classes"])
    return TrainTestSplit(data["name"], classes, train, test, groups, data["given"], keep_holdout=kept)


def _examples(part: dict[str, Any]) -> Examples:
    return Examples(tuple(FileRef(Path(path)) for path in part["paths"]), np.array(part["labels"], dtype=np.int64))


def track_fit(tracker: Tracker, record: dict[str, Any], out: Path) -> None:
    """What a fit was asked for and gave: numbers, pictures and files, into a run of a tracking program."""
    tracker.parameters(flat({name: record[name] for name in ("command", "config", "method", "folds", "data")}))
    for row in record["ladder"]:
        if row["score"] is not None:
            tracker.number(f"cross-validated/{row['name']}", row["score"])
    if (score := headline(record["test"])) is not None:
        tracker.number("score", score)
        tracker.number("score/low", record["test"]["interval"][0])
        tracker.number("score/high", record["test"]["interval"][1])
    fitted = fitted_of(record, split_of(record), out)
    if not fitted.thresholds:
        track_pictures(tracker, (make(fitted) for make in MODEL_FIGURES.values()))
    for name in (ADAPTER, CARD, REPORT, RECORD):
        if (out / name).exists():
            tracker.file(out / name)
