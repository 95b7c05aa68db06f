"""What a tracking program is told of a run of a benchmark, and how pictures get there."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..benchmark.results.record import Record
from ..benchmark.results.store import Store
from ..utils.optional import MissingPackage
from ..utils.tracking import Tracker
from .figure import Picture
from .figure_data import Subject
from .plot import write_picture
from .training_figures import learning, reliability, search

_log = logging.getLogger(__name__)
LONGEST = 250  # characters of a value: what all programs take


def track_record(tracker: Tracker, record: Record, store: Store) -> None:
    """What a run was asked for and gave: losses, scores, pictures and the adapter file."""
    tracker.parameters(flat(record.config | record.chosen | {"status": record.status, "digest": record.digest}))
    for epoch, loss in enumerate(record.losses, start=1):
        tracker.epoch("train", epoch, loss)
    numbers: dict[str, float | None] = {"score": record.score, **record.scores}
    numbers |= {f"per class/{name}": value for name, value in zip(record.classes, record.per_class, strict=False)}
    numbers |= {f"parameters/{name}": float(count) for name, count in record.parameters.items()}
    numbers |= {f"seconds/{name}": value for name, value in record.seconds.items()}
    for name, value in numbers.items():
        if value is not None:
            tracker.number(name, value)
    subject = Subject([record], store.predictions)
    track_pictures(tracker, (make(subject) for make in (learning, reliability, search)))
    for kind in ("records", "adapters"):
        if (path := store.path(kind, record.digest)).exists():
            tracker.file(path)


def track_pictures(tracker: Tracker, pictures: Iterable[Picture]) -> None:
    """Every picture that has something to show, as PNG; without matplotlib none, and a warning."""
    with tempfile.TemporaryDirectory(prefix="vitadapt-") as folder:
        try:
            for picture in pictures:
                if picture.panels:
                    tracker.picture(write_picture(picture, Path(folder, f"{picture.name}.png")))
        except MissingPackage as error:
            _log.warning("pictures are not tracked: %s", error)


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested values as texts by dotted names, cut to what all programs take."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = str(value)[:LONGEST]
    return found
