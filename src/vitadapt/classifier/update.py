"""Change a model without training it again: classes and images come, go and are renamed (`closed_form.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ..data import open_dataset
from ..data.examples import ImageRef
from ..data.sampling.splits import normal
from ..methods.spec import method_text
from ..nn.head_spec import head_text
from ..training.adapter_file import AdapterInfo
from ..utils.atomic import atomic_folder, make_folder
from ..utils.errors import ConfigError, DataError, StorageError
from ..utils.files import bytes_digest, checked_json, storage_error
from ..utils.registry import unknown
from ..utils.system import versions
from .closed_form import Solved, due, solve, without
from .documents import fitted_of, split_of, write_fitted
from .embedding import embedder_of
from .fit_record import RECORD, read_record
from .model import Model, load_model
from .model_selection import Message
from .predict import find_images
from .statistics_file import ModelStatistics, read_statistics, write_model


@dataclass(frozen=True)
class Changes:
    """What is to change: first names, then classes that go, then images that come.

    rename: pairs of an old and a new name. remove: classes. add: folders, each with the images of a new class that has
    its name. add_images: folders of class folders, or lists, with images of classes that the model has.
    """

    rename: Sequence[tuple[str, str]] = ()
    remove: Sequence[str] = ()
    add: Sequence[Path] = ()
    add_images: Sequence[str] = ()


@dataclass(frozen=True)
class Updated:
    """before, now: images of each class by its new name. lines: what changed. due: why a new fit is due, if it is."""

    folder: Path
    before: dict[str, int]
    now: dict[str, int]
    lines: list[str]
    due: list[str]


def update_model(
    folder: Path,
    changes: Changes,
    out: Path | None = None,
    device: str = "cpu",
    backbone: str | None = None,
    message: Message = lambda _: None,
    command: str = "",
) -> Updated:
    """Write the changed model to `out`, a new folder (None: the first unused of FOLDER-2, FOLDER-3 ...).

    The model in `folder` stays as it is. Raises ConfigError for changes that cannot be, UnknownName for a class that
    the model does not have, DataError for images that cannot be used, StorageError when `out` is in use, WeightsError.
    """
    if not any((changes.rename, changes.remove, changes.add, changes.add_images)):
        raise ConfigError("nothing to change; say what with --add, --remove, --rename or --add-images")
    out = unused(folder) if out is None else out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(f"{out} is in use already; choose another --out")
    model = load_model(folder, device, backbone=backbone)
    known, record = read_statistics(folder, len(model.classes)), read_record(folder)
    lines: list[str] = []
    classes = _renamed(list(model.classes), changes.rename, lines)
    before = dict(zip(classes, known.features.counts.tolist(), strict=True))
    for name in changes.remove:
        c = _number(name, classes)
        lines.append(f"removed: {classes[c]} ({known.features.counts[c]} pictures)")
        known = without(known, c)
        del classes[c]
    kept = len(classes)
    refs, labels = _images(changes, classes, lines)
    if len(classes) < 2:
        raise ConfigError(f"{' and '.join(classes) or 'no class'} would be left; a model needs at least two classes")
    if not changes.remove and not len(refs):
        return _write_renamed(model, known, tuple(classes), record, out, before, lines, message, command)
    features, rows = _features(model, refs, message)
    labels = labels[rows]
    for c in sorted(set(range(kept, len(classes))) - set(labels.tolist())):
        raise DataError(f"{classes[c]}: none of its images can be read; give others")
    for c, came in enumerate(np.bincount(labels, minlength=len(classes)).tolist()):
        if came:
            lines.append(f"added: {came} pictures of {classes[c]}" + (", a new class" if c >= kept else ""))
    info = replace(model.info, classes=tuple(classes))
    solved = solve(model.classifier, info, known, features, labels, len(classes))
    reasons = due(solved, list(range(kept, len(classes))))
    now = dict(zip(classes, solved.known.features.counts.tolist(), strict=True))
    record = _record(record, solved, lines, reasons, command)
    _write(solved.model, solved.info, solved.known, record, out, message)
    return Updated(out, before, now, lines, reasons)


def unused(folder: Path) -> Path:
    """The first of FOLDER-2, FOLDER-3 ... that does not exist; of FOLDER-2 the next is FOLDER-3."""
    folder = folder.resolve()
    stem, _, number = folder.name.rpartition("-")
    stem = stem if stem and number.isdigit() else folder.name
    return next(path for n in count(2) if not (path := folder.with_name(f"{stem}-{n}")).exists())


def _renamed(classes: list[str], pairs: Sequence[tuple[str, str]], lines: list[str]) -> list[str]:
    for old, new in pairs:
        c = _number(old, classes)
        _require_name(new, classes[:c] + classes[c + 1 :])
        lines.append(f"renamed: {classes[c]} is now {new}")
        classes[c] = new
    return classes


def _number(name: str, classes: Sequence[str]) -> int:
    """Of a class; case, blanks and underscores do not count. Raises UnknownName."""
    found = [c for c, own in enumerate(classes) if normal(own) == normal(name)]
    if not found:
        raise unknown("class", name, classes)
    return found[0]


def _require_name(name: str, others: Sequence[str]) -> None:
    if not name.strip():
        raise ConfigError("a class needs a name")
    if twins := [own for own in others if normal(own) == normal(name)]:
        raise ConfigError(f"there is a class {twins[0]} already; add its pictures with --add-images")


def _images(changes: Changes, classes: list[str], lines: list[str]) -> tuple[list[ImageRef], np.ndarray]:
    """The images that come, and their labels; new classes are put behind the others in `classes`."""
    refs: list[ImageRef] = []
    labels: list[int] = []
    for place in changes.add:
        if not place.is_dir():
            raise DataError(f"{place}: not a folder; --add takes the folder of a new class, which has its name")
        own, notes = find_images([place])
        inner = {Path(ref.name).relative_to(place).parts[0] for ref in own}
        if len(inner) > 1 and not any((place / name).is_file() for name in inner):
            raise DataError(f"{place} holds folders ({', '.join(sorted(inner)[:3])}); give each class its own --add")
        _require_name(place.resolve().name, classes)
        labels += [len(classes)] * len(own)
        classes.append(place.resolve().name)
        refs += own
        lines += notes
    for spec in changes.add_images:
        dataset = open_dataset(spec, whole=True)
        if any(part.multilabel for part in dataset.splits.values()):
            raise DataError(f"{spec}: images with several labels; this wants one each")
        numbers = [_number_of_images(name, classes, spec) for name in dataset.classes]
        for part in dataset.splits.values():
            refs += part.refs
            labels += [numbers[label] for label in part.labels]
    return refs, np.array(labels, dtype=np.int64)


def _number_of_images(name: str, classes: Sequence[str], spec: str) -> int:
    if not any(normal(own) == normal(name) for own in classes):
        hint = f"{spec} has images of it; for a new class use --add FOLDER"
        raise unknown("class", name, classes, hint)
    return _number(name, classes)


def _features(model: Model, refs: Sequence[ImageRef], message: Message) -> tuple[np.ndarray, list[int]]:
    """(M, E) of the readable images by the model's network, and their rows; the others are named and left out."""
    embedder, rows = embedder_of(model), []
    found = [np.zeros((0, embedder.network.features), dtype=np.float32)]
    for batch in embedder.batches(refs):
        rows += batch.rows
        found += batch.outputs
        for line in batch.unreadable:
            message(f"left out: {line}")
    return np.concatenate(found), rows


def _record(old: dict[str, Any], solved: Solved, lines: list[str], reasons: list[str], command: str) -> dict[str, Any]:
    """`fit.json` of the changed model. What was measured with the old head is dropped: it holds no more."""
    counts, info = solved.known.features.counts.tolist(), solved.info
    history = [*old.get("updates", []), {"lines": lines, "due": reasons, "created": _now()}]
    measured = {name: old[name] for name in ("closed_form",) if name in old}
    accuracy = solved.accuracy
    score = None if accuracy is None else 100 * accuracy
    row = {"name": "head in closed form", "score": score, "deviation": None, "trained": 0, "seconds": 0.0, "odds": None}
    notes = [f"changed without training: {line}" for line in lines] + [f"a new fit is due: {line}" for line in reasons]
    if old["test"]["accuracy"] is not None:
        notes.append(f"before the change {old['test']['accuracy']:.1f} % of {old['test']['count']} pictures were right")
    data = {"name": old["data"]["name"], "train": counts, "test": [0] * len(counts), "given": False, "findings": []}
    data |= {"delivered": counts, "measured_by": "nothing"}
    empty = {"count": 0, "labels": [], "probabilities": [], "paths": []}
    empty |= {"accuracy": None, "interval": None, "per_class": []}
    return {
        **{name: value for name, value in old.items() if name not in ("unknown", "sets", "checksum")},
        "identity": bytes_digest(f"{old['identity']} {lines}".encode()),
        "command": command,
        "created": _now(),
        "data": {**data, "notes": [*old["data"]["notes"], *notes]},
        "classes": list(info.classes),
        "method": method_text(info.method),
        "head": head_text(info.head),
        "folds": 0,
        "ladder": [{**row, "kept": True, "note": ""}],
        "cross_validation": {"paths": [], "labels": [], "groups": [], "fold": None, "probabilities": None},
        "test": empty,
        "losses": [],
        "versions": versions(),
        "updates": history,
        **solved.record(),
        **measured,
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _write_renamed(
    model: Model,
    known: ModelStatistics,
    classes: tuple[str, ...],
    record: dict[str, Any],
    out: Path,
    before: dict[str, int],
    lines: list[str],
    message: Message,
    command: str,
) -> Updated:
    """Only names change: the head, its answers and all that was measured stay."""
    identity = bytes_digest(f"{record['identity']} {lines}".encode())
    history = [*record.get("updates", []), {"lines": lines, "due": [], "created": _now()}]
    record = {name: value for name, value in record.items() if name != "checksum"}
    record |= {"classes": list(classes), "identity": identity, "command": command, "updates": history}
    _write(model.classifier, replace(model.info, classes=classes), known, record, out, message)
    return Updated(out, before, dict(zip(classes, before.values(), strict=True)), lines, [])


def _write(
    model: Any, info: AdapterInfo, known: ModelStatistics, record: dict[str, Any], out: Path, message: Message
) -> None:
    """The whole folder, or nothing of it."""
    try:
        make_folder(out.resolve().parent)
        with atomic_folder(out) as new:
            write_model(new, model, info, known)
            fitted = fitted_of(record, split_of(record), new)
            write_fitted(replace(fitted, name=out.resolve().name), new, message)
            (new / RECORD).write_text(checked_json(record), "utf-8")
    except OSError as error:
        raise storage_error(out, error) from error
