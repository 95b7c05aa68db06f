"""The page and the card of a fitted model, from its record and its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.learning_curve import Forecast, forecast
from ..report.fitted_model import Answers, Candidate, Fitted
from ..report.model_card import model_card
from ..training.adapter_file import ADAPTER
from ..training.task import Task
from ..utils.errors import ConfigError, VitadaptError
from ..utils.files import write_atomic
from ..weights.catalog import backbones
from .fit_record import headline
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
    fitted = fitted_of(record, data, out, curve, thresholds)
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
        cross_measured=crossed,
        refitted=len(data.delivered) > len(data.train),
        thresholds=thresholds,
        label_scores=test.get("per_label", {}),
    )


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
