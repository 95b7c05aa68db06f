"""From a folder of labelled images to a model folder, top to bottom."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..data import open_dataset
from ..methods.spec import method_text
from ..nn.head import TextStart
from ..text import prompts_of
from ..text.class_features import sentences, text_start
from ..training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes
from ..training.features import Environment, cached_backbone, geometry_of
from ..training.task import Trained, adapter_info
from ..utils.atomic import make_folder
from ..utils.errors import CellBusy, ConfigError, Diverged, NotApplicable, StorageError, WeightsError
from ..utils.files import bytes_digest, checked_json, storage_error, write_atomic
from ..utils.system import versions
from .candidates import FitConfig as FitConfig
from .candidates import asked_config, candidate_configs
from .candidates import usual_size as usual_size
from .competition import Competition, Entry
from .documents import CARD, REPORT, write_pages
from .effort import FINAL, LONGEST, Schedule
from .fit_record import FORMAT, RECORD, image_fields, read_record, scores, selection_record
from .holdout import TrainTestSplit, train_test_split
from .model import Model, absolute_backbone, load_model, training_summary
from .model_folder import WORK, require_room, unused_name
from .model_selection import Message, cross_selected
from .novelty import calibrate_candidate
from .prior import check_prior
from .statistics_file import STATISTICS, write_model

_REPEATED = 4  # images on which the model in memory and the one read back are compared


def fit_folder(
    config: FitConfig,
    out: Path,
    environment: Environment | None = None,
    message: Message = lambda _: None,
    command: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Examine the images, split them, select, train, measure, write -> what `fit.json` says.

    A first model is written as soon as there is one, and replaced at the end by the one that was selected. A finished
    model of the same images and settings is left as it is; an interrupted fit continues. Raises StorageError when `out`
    holds something else, or another model and `overwrite` is not set, CellBusy when it is being written to, and what
    the parts raise.
    """
    environment = environment or Environment()
    best = config.effort == "best"
    schedule = Schedule(config.time_limit, None if best else LONGEST, 0.05 if best else 0.5)
    require_room(out)
    dataset = open_dataset(config.data, environment.data_root, whole=True, separator=config.separator)
    check_prior(config.prior, dataset)
    geometry = geometry_of(cached_backbone(config.backbone, config.image_size, environment.setting.device)[0])
    progress, cache = environment.setting.progress, environment.cache
    data = train_test_split(dataset, None, progress, geometry, cache, keep_holdout=config.keep_holdout)
    if config.backbone.startswith("random:"):
        note = f"{config.backbone} has random weights: its scores mean nothing; it is for trying out the program only"
        data = replace(data, notes=(note, *data.notes))
    if config.prior is not None:
        note = f"cross-validated scores are the accuracy to expect under --prior {config.prior}; the measured is not"
        data = replace(data, notes=(*data.notes, note))
    work = out / WORK
    try:
        make_folder(work)
        with FileLock(work / "lock", timeout=0):
            text, notes = _text(config, data, environment)
            configs = candidate_configs(
                config, environment.setting.device, len(data.train), text is not None, data.multilabel
            )
            common = Competition(config, configs, data, text, environment, work, message, schedule)
            record = _known(common, out, overwrite) or _fit(common, notes, out, command)
    except Timeout as error:
        raise CellBusy(f"{out}: another process is making a model there; wait for it, or choose --out") from error
    except OSError as error:
        raise storage_error(Path(error.filename) if error.filename else out, error) from error
    shutil.rmtree(work, ignore_errors=True)
    return record


def _known(common: Competition, out: Path, overwrite: bool) -> dict[str, Any] | None:
    """The record of a finished model of the same images and settings in `out`, or None.

    Raises StorageError for another model, unless it may be replaced.
    """
    if not (out / RECORD).exists() or overwrite:
        return None
    known = read_record(out)
    if known["identity"] != _identity(common):
        raise StorageError(
            f"{out} is a model of other images or settings; replace it with --overwrite, or choose another folder, "
            f"e.g. --out {unused_name(out)}"
        )
    if not (out / ADAPTER).exists():
        return None
    common.message(f"{out} is the model of these very images and settings already; nothing to do")
    return known


def _identity(common: Competition) -> str:
    """Names the settings together with the content of all images."""
    config, data = common.config, common.data
    parts = [training.digest(**image_fields(config.data)) for training in common.configs.values()]
    parts += [
        str(config.folds),
        config.licence,
        config.effort,
        str((config.keep_holdout, config.time_limit)),
        *data.classes,
    ]
    for part in (data.train, data.test):
        parts += [*data.scan.digests_of(part), str(part.labels.tolist())]
    parts += [] if common.prior is None else [str(common.prior.plain())]
    return bytes_digest("\n".join(parts).encode())


def _fit(common: Competition, notes: str, out: Path, command: str) -> dict[str, Any]:
    start, data, message = time.perf_counter(), common.data, common.message
    for line in (f"{f.level}: {f.message}" for f in data.findings if f.level != "note"):
        message(line)
    for line in (*data.notes, data.measured_text, notes, common.plan()):
        if line:
            message(line)

    def first(entry: Entry) -> None:
        if (out / RECORD).exists() or len(common.configs) == 1:
            return
        with suppress(Diverged):
            trained = common.train(entry.candidate, entry.whole)
            write_atomic(out / ADAPTER, adapter_bytes(trained.model, _info(common, entry, trained)))
            message(f"{out} holds a first model, {entry.candidate.name}; {common.schedule.text()}")

    entries = list(common.entries(first))
    entry, trained = common.best(entries)
    tested = _tested(entry, entries, trained, common)
    if len(data.delivered) > len(data.train):
        trained = common.train(entry.candidate, entry.whole)
    calibrated = calibrate_candidate(entry.candidate, entry.whole, trained.model, common.fold)
    trained = replace(trained, model=calibrated.model)
    common.schedule.drop(FINAL)
    info = _info(common, entry, trained)
    record = {
        "format": FORMAT,
        "identity": _identity(common),
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **selection_record(entry.candidate, [one.candidate for one in entries], data, common),
        "test": tested,
        **({} if common.prior is None else {"prior": common.prior.plain()}),
        **calibrated.record,
    }
    ready = common.work / out.resolve().name  # a full disk is met here, where nothing of an earlier model is lost
    shutil.rmtree(ready, ignore_errors=True)
    make_folder(ready)
    write_model(ready, trained.model, info, calibrated.statistics)
    _verify(trained, ready, common)
    record |= {"losses": trained.log.losses, "versions": versions(), "licence": info.licence}
    record |= {"base_licence": info.base_licence, "seconds": time.perf_counter() - start}
    write_pages(record, data, entry.candidate.task, ready, message, info.thresholds)
    write_atomic(ready / RECORD, checked_json(record).encode())
    for name in (RECORD, CARD, REPORT, STATISTICS):  # they would speak of another adapter
        (out / name).unlink(missing_ok=True)
    for name in (ADAPTER, STATISTICS, CARD, REPORT, RECORD):
        if (ready / name).exists():
            os.replace(ready / name, out / name)
    return record


def _text(config: FitConfig, data: TrainTestSplit, environment: Environment) -> tuple[TextStart | None, str]:
    """The start of a head of class names, where the backbone has a text tower that can be had; and notes about it."""
    asked = asked_config(config, environment.setting.device)
    if asked.head.projection == "merged":
        raise ConfigError("head: projection=merged is for benchmarks; leave it out here")
    backbone, _ = cached_backbone(config.backbone, config.image_size, environment.setting.device)
    texts = sentences(config.data, data.classes, asked.prompts)
    try:
        text, notes = text_start(config.backbone, backbone, texts, environment.cache, environment.setting)
        return text, "; ".join(notes)
    except NotApplicable as error:
        if asked.head.start == "text":
            raise NotApplicable(f"{method_text(asked.method)}: {error}") from error
        return None, "" if config.prompts is None else str(error)
    except WeightsError as error:
        return None, f"zero-shot is left out: {error}"


def _info(common: Competition, entry: Entry, trained: Trained) -> AdapterInfo:
    task, data = entry.whole, common.data
    config, classes = common.config, data.classes
    from_text = task.config.head.start == "text"
    names, templates = prompts_of("", classes, task.config.prompts) if from_text else ([], [])
    prior = {} if common.prior is None else {"prior": common.prior.target.tolist()}
    return adapter_info(
        task,
        classes,
        training_summary(task, trained, protocol="fixed") | {"steps": trained.log.steps} | prior,
        backbone=absolute_backbone(config.backbone),
        names=tuple(names),
        templates=tuple(templates),
        thresholds=data.thresholds(entry.candidate.probabilities),
        licence=config.licence,
    )


def _tested(entry: Entry, entries: list[Entry], trained: Trained, common: Competition) -> dict[str, Any]:
    """What is known of new images: from those held out, used once; or from cross-validation of the whole selection."""
    data, environment = common.data, common.environment
    if data.measured_by == "cross-validation" and common.fold is not None:
        answers = cross_selected([one.candidate for one in entries], data.train.labels, data.groups, common.measure)
        thresholds = data.fold_thresholds(answers, common.fold)
        return scores(data.train.labels, answers, thresholds) | {"paths": [ref.name for ref in data.train.refs]}
    count, info = len(data.train), _info(common, entry, trained)
    if len(data.delivered) > count:
        rows = torch.arange(count, len(data.delivered))
        answers = entry.whole.take(rows).probabilities(trained.model).numpy()
    else:
        model = Model(trained.model, info, Path(), environment.setting)
        answers = model.predict_pixels(data.scan.pixels(data.test, model.geometry, environment.cache))
    return scores(data.test.labels, answers, info.thresholds) | {"paths": [ref.name for ref in data.test.refs]}


def _verify(trained: Trained, out: Path, common: Competition) -> None:
    """Raises StorageError when the model that is read back gives other answers than the one that was trained."""
    data, setting = common.data, common.environment.setting
    model = load_model(out, setting=setting, device=setting.device)
    some = data.delivered.take(np.arange(min(_REPEATED, len(data.delivered))))
    pixels = data.scan.pixels(some, model.geometry, common.environment.cache)
    if not np.allclose(
        replace(model, classifier=trained.model).predict_pixels(pixels), model.predict_pixels(pixels), atol=1e-3
    ):
        raise StorageError(f"{model.path}: the model read back answers otherwise than the one written; try again")
