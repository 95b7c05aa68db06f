"""The page and the card of a fitted model, from its record and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.learning_curve import Forecast, forecast
from ..report.fitted_model import Answers, Fitted, Rung
from ..report.model_card import model_card
from ..training.adapter_file import ADAPTER
from ..training.task import Task
from ..utils.errors import ConfigError, VitadaptError
from ..utils.files import write_atomic
from ..weights.catalog import backbones
from .holdout import Pictures
from .model_selection import Tell

CARD, REPORT = "README.md", "report.html"


def write_pages(record: dict[str, Any], pictures: Pictures, task: Task, out: Path, tell: Tell) -> None:
    """README.md and report.html into `out`; what a page lacks here (a package, enough images) is told."""
    fitted = fitted_of(record, pictures, out, _forecast(task, pictures, tell))
    write_atomic(out / CARD, model_card(fitted).encode())
    try:
        from ..report.model_report import model_page

        write_atomic(out / REPORT, model_page(fitted).encode())
    except VitadaptError as error:
        tell(f"no {REPORT}: {error}")


def _forecast(task: Task, pictures: Pictures, tell: Tell) -> Forecast | None:
    try:
        return forecast(task.features.numpy(), pictures.train.labels, pictures.groups, task.config.seed)
    except ConfigError as error:
        tell(f"no forecast: {error}")
        return None


def fitted_of(record: dict[str, Any], pictures: Pictures, out: Path, curve: Forecast | None = None) -> Fitted:
    """The record as the pages want it."""
    test, cross = record["test"], record["cross_validation"]["probabilities"]
    empty = np.zeros((0, len(pictures.classes)))
    held = Answers(pictures.test.refs, pictures.test.labels, np.array(test["probabilities"] or empty))
    kept = next(rung for rung in record["ladder"] if rung["kept"])
    return Fitted(
        name=out.resolve().name,
        classes=pictures.classes,
        backbone=record["backbone"],
        image_size=record["image_size"],
        method=record["method"],
        counts=record["data"]["train"],
        held_out=held,
        rungs=[_rung(rung, test["accuracy"]) for rung in record["ladder"]],
        cross=Answers(pictures.train.refs, pictures.train.labels, np.array(cross)) if cross else None,
        given_interval=tuple(test["interval"]) if test["interval"] else None,
        forecast=curve,
        losses=record["losses"],
        command=record["command"],
        created=record["created"],
        seed=record["seed"],
        folds=record["folds"] or None,
        trained=kept["trained"],
        size=(out / ADAPTER).stat().st_size,
        licence=record["licence"],
        base_licence=record["base_licence"],
        base_model=_at_the_hub(record["backbone"]),
        versions=record["versions"],
        notes=record["data"]["notes"],
    )


def _rung(rung: dict[str, Any], accuracy: float | None) -> Rung:
    held = accuracy if rung["kept"] else None  # the test images are asked about one model only
    return Rung(
        rung["name"], rung["score"], rung["deviation"], held, rung["trained"], rung["seconds"] or None, rung["kept"]
    )


def _at_the_hub(backbone: str) -> str:
    """The repository of the backbone's weights at the Hugging Face hub, if it has one."""
    row = backbones().get(backbone)
    sources = row.sources if row else (backbone,)
    found = [source.removeprefix("hf:") for source in sources if source.startswith("hf:")]
    return found[0] if found and not Path(found[0]).exists() else ""
