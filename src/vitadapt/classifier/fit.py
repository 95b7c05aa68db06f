"""From a folder of labelled images to a model folder, top to bottom."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..data import open_dataset
from ..data.sampling.folds import FOLDS, folds_for, grouped_folds
from ..methods import Discriminant, KAdaptation
from ..nn.backbone import Backbone
from ..nn.head import TextStart
from ..nn.head_spec import HeadSpec
from ..nn.surgery import Method, adapt, trainable
from ..nn.vit import ViT
from ..text import Prompts, prompts_of
from ..text.class_features import sentences, text_start
from ..training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes
from ..training.config import TrainConfig
from ..training.cross_validation import train_final
from ..training.features import Environment, cached_backbone, geometry_of
from ..training.recipe import Recipe
from ..training.task import Task, Trained, adapter_info, derive, make_task
from ..utils.atomic import make_folder
from ..utils.errors import CellBusy, ConfigError, Diverged, NotApplicable, StorageError, WeightsError
from ..utils.files import bytes_digest, checked_json, storage_error, write_atomic
from ..utils.system import versions
from .documents import write_pages
from .fit_record import FORMAT, RECORD, image_fields, read_record, scores, selection_record
from .holdout import TrainTestSplit, train_test_split
from .model import Model, absolute_backbone, load_model, training_summary
from .model_selection import Candidate, Message, candidate_tasks, cross_validate, select

_WORK = ".unfinished"
_LARGE = 224  # pixels; from this image size on, a CPU uses half of it unless the user chooses a size
_REPEATED = 4  # test images on which the model in memory and the one read back are compared


@dataclass(frozen=True)
class FitConfig:
    """What is to be fitted; nothing else changes the numbers. image_size: None for `usual_size`."""

    data: str
    backbone: str = "dinov2-s14-offline"
    method: Method = field(default_factory=KAdaptation)
    image_size: int | None = None
    folds: int = FOLDS
    seed: int = 0
    recipe: Recipe | None = None
    head: HeadSpec | None = None
    prompts: Prompts | None = None
    precision: str = "fp32"
    licence: str = ""

    def train_config(self) -> TrainConfig:
        """The configuration of the candidate with the method that was asked for. Raises ConfigError."""
        return TrainConfig.of(
            self.backbone,
            self.method,
            recipe=self.recipe,
            head=self.head,
            prompts=self.prompts,
            seed=self.seed,
            image_size=self.image_size,
            precision=cast(Any, self.precision),
            dataset=self.data,
        )


def usual_size(backbone: Backbone, device: str) -> int:
    """The backbone's own image size; on a CPU half of it, when it is large: four times as fast, a little less sharp."""
    size: int = backbone.image_size
    if torch.device(device).type != "cpu" or size < _LARGE or not isinstance(backbone, ViT):
        return size
    patch = backbone.config.patch
    return size // 2 // patch * patch


def fit_folder(
    config: FitConfig,
    out: Path,
    environment: Environment | None = None,
    message: Message = lambda _: None,
    command: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Examine the images, split them, select, train, test once, write -> what `fit.json` says.

    A finished model of the same images and settings is left as it is; an interrupted fit continues. Raises StorageError
    when `out` holds something else, or another model and `overwrite` is not set, CellBusy when it is being written to,
    and what the parts raise.
    """
    environment, full = environment or Environment(), config.image_size
    _require_room(out)
    dataset, device = open_dataset(config.data, environment.data_root, whole=True), environment.setting.device
    if config.image_size is None:
        plain = cached_backbone(config.backbone, None, device)[0]
        full = plain.image_size  # for what needs one pass only
        size = usual_size(plain, device) if trainable(adapt(plain, config.method)) else full
        config = replace(config, image_size=size)
        message(f"image size: {size} x {size} pixels")
    geometry = geometry_of(cached_backbone(config.backbone, config.image_size, device)[0])
    data = train_test_split(dataset, None, environment.setting.progress, geometry, environment.cache)
    work = out / _WORK
    try:
        make_folder(work)
        with FileLock(work / "lock", timeout=0):
            record = _fit(config, full, data, out, environment, message, command, overwrite)
    except Timeout as error:
        raise CellBusy(f"{out}: another process is making a model there; wait for it, or choose --out") from error
    except OSError as error:
        raise storage_error(Path(error.filename) if error.filename else out, error) from error
    shutil.rmtree(work, ignore_errors=True)
    return record


def _require_room(out: Path) -> None:
    """Raises StorageError unless `out` is absent, empty, or a model folder."""
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).exists() and not (out / _WORK).exists():
        raise StorageError(f"{out} holds other things than a model; choose another --out")


def _fit(
    config: FitConfig,
    full: int | None,
    data: TrainTestSplit,
    out: Path,
    environment: Environment,
    message: Message,
    command: str,
    overwrite: bool,
) -> dict[str, Any]:
    start, device = time.perf_counter(), environment.setting.device
    if config.backbone.startswith("random:"):
        note = f"{config.backbone} has random weights: its scores mean nothing; it is for trying out the program only"
        data = replace(data, notes=(note, *data.notes))
    training = config.train_config()
    identity = _identity(config, training, data)
    if (out / RECORD).exists() and not overwrite:
        known = read_record(out)
        if known["identity"] != identity:
            raise StorageError(
                f"{out} is a model of other images or settings; replace it with --overwrite, or choose another folder, "
                f"e.g. --out {_unused(out)}"
            )
        if (out / ADAPTER).exists():
            message(f"{out} is the model of these very images and settings already; nothing to do")
            return known
    for finding in data.findings:
        if finding.level != "note":
            message(f"{finding.level}: {finding.message}")
    for note in data.notes:
        message(note)
    test = "given" if data.given else "held out"
    message(f"{len(data.train)} images to train on, {len(data.test)} {test} to test with")
    task, notes = _task(training, config.data, data, environment)
    if notes:
        message(notes)
    fold = _folds(config, data)
    closed_form = _closed_form_task(training, full, data, environment)
    candidates = cross_validate(candidate_tasks(task, closed_form), fold, out / _WORK, message)
    selected = select(candidates)
    message(f"kept: {selected.name}")
    selected, trained = _train(selected, candidates, out / _WORK, message)
    info = _info(config, selected.task, data, trained)
    record = {
        "format": FORMAT,
        "identity": identity,
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **selection_record(selected, candidates, data, fold, config.data),
    }
    (out / RECORD).unlink(missing_ok=True)  # it would speak of another adapter
    write_atomic(out / ADAPTER, adapter_bytes(trained.model, info))
    model = load_model(out, setting=environment.setting, device=device)
    record |= _tested(trained, model, data, environment)
    record |= {"losses": trained.log.losses, "versions": versions(), "licence": info.licence}
    record |= {"base_licence": info.base_licence, "seconds": time.perf_counter() - start}
    write_pages(record, data, task, out, message)
    write_atomic(out / RECORD, checked_json(record).encode())
    return record


def _unused(out: Path) -> Path:
    """The first of OUT-2, OUT-3 ... that does not exist."""
    return next(path for number in count(2) if not (path := out.with_name(f"{out.resolve().name}-{number}")).exists())


def _identity(config: FitConfig, training: TrainConfig, data: TrainTestSplit) -> str:
    """Names the settings together with the content of all images."""
    parts = [training.digest(**image_fields(config.data)), str(config.folds), config.licence, *data.classes]
    for part in (data.train, data.test):
        parts += [*data.scan.digests_of(part), str(part.labels.tolist())]
    return bytes_digest("\n".join(parts).encode())


def _task(config: TrainConfig, spec: str, data: TrainTestSplit, environment: Environment) -> tuple[Task, str]:
    """What the candidates train on, and notes about its text."""
    backbone, _ = cached_backbone(config.backbone, config.image_size, environment.setting.device)
    if config.head.projection == "merged":
        raise ConfigError("head: projection=merged is for benchmarks; leave it out here")
    images = data.scan.pixels(data.train, geometry_of(backbone), environment.cache, environment.setting.progress)
    text, notes = _text(config, backbone, sentences(spec, data.classes, config.prompts), environment)
    return make_task(config, images, data.train.labels, len(data.classes), environment, text=text), notes


def _closed_form_task(
    config: TrainConfig, image_size: int | None, data: TrainTestSplit, environment: Environment
) -> Task | None:
    """The discriminant on the images at `image_size`; None where the method that was asked for trains no backbone."""
    backbone, _ = cached_backbone(config.backbone, image_size, environment.setting.device)
    if not trainable(adapt(backbone, config.method)):
        return None
    config = replace(config.with_method(Discriminant()), image_size=image_size)
    images = data.scan.pixels(data.train, geometry_of(backbone), environment.cache, environment.setting.progress)
    return make_task(config, images, data.train.labels, len(data.classes), environment)


def _text(
    config: TrainConfig, backbone: Backbone, texts: list[list[str]], environment: Environment
) -> tuple[TextStart | None, str]:
    """The start of a head of class names, where the backbone has a text tower that can be had."""
    try:
        text, notes = text_start(config.backbone, backbone, texts, environment.cache, environment.setting)
        return text, "; ".join(notes)
    except NotApplicable as error:
        if config.head.start == "text":
            raise
        return None, "" if config.prompts is None else str(error)
    except WeightsError as error:
        return None, f"zero-shot is left out: {error}"


def _folds(config: FitConfig, data: TrainTestSplit) -> np.ndarray | None:
    folds = folds_for(data.train.labels, data.groups, config.folds)
    if not folds:
        return None
    return grouped_folds(data.train.labels, data.groups, folds, derive(config.seed, "folds"))


def _train(selected: Candidate, candidates: list[Candidate], work: Path, message: Message) -> tuple[Candidate, Trained]:
    """The selected candidate, trained on all training images; if that diverges, the next best one."""
    checkpoint = work / f"{selected.task.identity()}.checkpoint"
    try:
        return selected, train_final(replace(selected.task, checkpoint=checkpoint), selected.task.recipe)
    except Diverged as error:
        others = [candidate for candidate in candidates if candidate.name != selected.name]
        if not others:
            raise
        selected = select(others)
        message(f"{error}; kept instead: {selected.name}")
        return _train(selected, others, work, message)


def _info(config: FitConfig, task: Task, data: TrainTestSplit, trained: Trained) -> AdapterInfo:
    from_text = task.config.head.start == "text"
    names, templates = prompts_of("", data.classes, config.prompts) if from_text else ([], [])
    return adapter_info(
        task,
        data.classes,
        training_summary(task, trained, protocol="fixed") | {"steps": trained.log.steps},
        backbone=absolute_backbone(config.backbone),
        names=tuple(names),
        templates=tuple(templates),
        licence=config.licence,
    )


def _tested(trained: Trained, model: Model, data: TrainTestSplit, environment: Environment) -> dict[str, Any]:
    """The test images, used once, with the model as it was read back from its file.

    Raises StorageError when the model that was read back gives other answers than the one that was trained.
    """
    test = data.test
    probabilities = model.predict_pixels(data.scan.pixels(test, model.geometry, environment.cache))
    some = test.take(np.arange(min(_REPEATED, len(test))))
    if len(some):
        expected = replace(model, classifier=trained.model).predict_pixels(
            data.scan.pixels(some, model.geometry, environment.cache)
        )
        if not np.allclose(expected, probabilities[: len(some)], atol=1e-3):
            raise StorageError(f"{model.path}: the model read back answers otherwise than the one written; try again")
    return {"test": scores(test.labels, probabilities) | {"paths": [ref.name for ref in test.refs]}}
