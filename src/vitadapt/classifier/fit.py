"""From a folder of labelled images to a model folder, top to bottom."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..benchmark.config import RunConfig
from ..data import content_digests
from ..data.sampling.folds import FOLDS, folds_for, grouped_folds
from ..methods import KAdaptation
from ..nn.backbone import Backbone
from ..nn.head import TextStart
from ..nn.head_spec import HeadSpec
from ..nn.surgery import Method
from ..nn.vit import ViT
from ..text import Prompts, prompts_of
from ..text.class_features import text_start
from ..training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes
from ..training.cross_validation import train_final
from ..training.features import Environment, cached_backbone, frozen_features, pixels_of
from ..training.recipe import Recipe
from ..training.task import Task, Trained, derive
from ..utils.atomic import make_folder
from ..utils.errors import CellBusy, ConfigError, Diverged, NotApplicable, StorageError, WeightsError
from ..utils.files import bytes_digest, storage_error, write_atomic
from ..utils.system import versions
from ..weights.catalog import backbones
from .documents import write_pages
from .fit_record import FORMAT, RECORD, about, read_record, record_text, scores
from .holdout import Pictures, gather
from .model import Model, load_model
from .model_selection import Climbed, Tell, best, climb

_WORK = ".unfinished"
_LARGE = 224  # pixels from which a CPU looks at half the backbone's own image size unless told otherwise
_REPEATED = 4  # test images that the model written is asked about again


@dataclass(frozen=True)
class Order:
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

    def config(self, image_size: int) -> RunConfig:
        """The configuration of the topmost rung."""
        return RunConfig(
            self.backbone,
            self.method,
            self.data,
            shots=None,
            seed=self.seed,
            image_size=image_size,
            precision=cast(Any, self.precision),
            recipe=self.recipe,
            head=self.head,
            prompts=self.prompts,
        )


def usual_size(backbone: Backbone, device: str) -> int:
    """The backbone's own image size; on a CPU half of it, when it is large: four times as fast, a little less sharp."""
    size: int = backbone.image_size
    if torch.device(device).type != "cpu" or size < _LARGE or not isinstance(backbone, ViT):
        return size
    patch = backbone.config.patch
    return size // 2 // patch * patch


def fit_folder(
    order: Order, out: Path, environment: Environment | None = None, tell: Tell = lambda _: None, command: str = ""
) -> dict[str, Any]:
    """Examine, divide, climb, train, measure once, write -> what `fit.json` says.

    A finished model of the same order and images is left as it is; what was cut off goes on. Raises StorageError when
    `out` holds something else, CellBusy when it is being written to, and what the parts raise.
    """
    environment = environment or Environment()
    _require_room(out)
    pictures = gather(order.data, environment.data_root, environment.setting.progress)
    work = out / _WORK
    try:
        make_folder(work)
        with FileLock(work / "lock", timeout=0):
            record = _fit(order, pictures, out, environment, tell, command)
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
    order: Order, pictures: Pictures, out: Path, environment: Environment, tell: Tell, command: str
) -> dict[str, Any]:
    start, device = time.perf_counter(), environment.setting.device
    size = order.image_size or usual_size(cached_backbone(order.backbone, None, device)[0], device)
    identity = _identity(order, size, pictures, environment)
    known = read_record(out) if (out / RECORD).exists() else None
    if known is not None and known["identity"] == identity and (out / ADAPTER).exists():
        tell(f"{out} is the model of these very images and settings already; nothing to do")
        return known
    if order.image_size is None:
        tell(f"images are looked at with {size} x {size} pixels")
    for line in (*_findings(pictures), *pictures.notes):
        tell(line)
    test = "given" if pictures.given else "held out"
    tell(f"{len(pictures.train)} images to train on, {len(pictures.test)} {test} to test with")
    task, base, said = _task(order.config(size), pictures, environment)
    if said:
        tell(said)
    fold = _folds(order, pictures)
    done = climb(task, fold, out / _WORK, tell)
    kept = best(done)
    tell(f"kept: {kept.name}")
    kept, trained = _final(kept, done, out / _WORK, tell)
    info = _info(order, kept.task, base, pictures, trained)
    record = {
        "format": FORMAT,
        "identity": identity,
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **about(kept, done, pictures, fold),
    }
    (out / RECORD).unlink(missing_ok=True)  # it would speak of another adapter
    write_atomic(out / ADAPTER, adapter_bytes(trained.model, info))
    model = load_model(out, setting=environment.setting, device=device)
    record |= _measured(trained, model, pictures, environment)
    record |= {"losses": trained.log.losses, "versions": versions(), "licence": info.licence}
    record |= {"base_licence": info.base_licence, "seconds": time.perf_counter() - start}
    write_pages(record, pictures, task, out, tell)
    write_atomic(out / RECORD, record_text(record).encode())
    return record


def _findings(pictures: Pictures) -> list[str]:
    return [f"{f.level}: {f.message}" for f in pictures.findings if f.level != "note"]


def _identity(order: Order, size: int, pictures: Pictures, environment: Environment) -> str:
    """Names the order together with the content of all images."""
    parts = [order.config(size).digest(), str(order.folds), order.licence, *pictures.classes]
    for part in (pictures.train, pictures.test):
        parts += [*content_digests(part, environment.cache), str(part.labels.tolist())]
    return bytes_digest("\n".join(parts).encode())


def _task(config: RunConfig, pictures: Pictures, environment: Environment) -> tuple[Task, str, str]:
    """What the ladder climbs on, the digest of the backbone, and what should be said about its text."""
    backbone, base = cached_backbone(config.backbone, config.image_size, environment.setting.device)
    if config.head_spec.projection == "merged":
        raise ConfigError("head: projection=merged is for benchmarks; leave it out here")
    images = pixels_of(pictures.train, pictures.dataset, backbone, environment)
    text, said = _text(config, backbone, pictures, environment)
    task = Task(
        config=config,
        backbone=backbone,
        images=images,
        labels=torch.from_numpy(pictures.train.labels),
        classes=len(pictures.classes),
        features=frozen_features(backbone, base, images, environment, "features"),
        setting=replace(environment.setting, precision=config.precision),
        text=text,
    )
    return task, base, said


def _text(
    config: RunConfig, backbone: Backbone, pictures: Pictures, environment: Environment
) -> tuple[TextStart | None, str]:
    """The start of a head of class names, where the backbone has a text tower that can be had."""
    try:
        text, notes = text_start(config, backbone, pictures.dataset, environment.cache, environment.setting)
        return text, "; ".join(notes)
    except NotApplicable as error:
        if config.head_spec.start == "text":
            raise
        return None, "" if config.prompts is None else str(error)
    except WeightsError as error:
        return None, f"no zero-shot rung: {error}"


def _folds(order: Order, pictures: Pictures) -> np.ndarray | None:
    folds = folds_for(pictures.train.labels, pictures.groups, order.folds)
    if not folds:
        return None
    return grouped_folds(pictures.train.labels, pictures.groups, folds, derive(order.seed, "folds"))


def _final(kept: Climbed, done: list[Climbed], work: Path, tell: Tell) -> tuple[Climbed, Trained]:
    """The classifier of the kept rung, trained on all training images; if it diverges, that of the next best."""
    checkpoint = work / f"{kept.task.identity()}.checkpoint"
    try:
        return kept, train_final(replace(kept.task, checkpoint=checkpoint), kept.task.recipe)
    except Diverged as error:
        rest = [rung for rung in done if rung.name != kept.name]
        if not rest:
            raise
        kept = best(rest)
        tell(f"{error}; kept instead: {kept.name}")
        return _final(kept, rest, work, tell)


def _info(order: Order, task: Task, base: str, pictures: Pictures, trained: Trained) -> AdapterInfo:
    config, row = task.config, backbones().get(order.backbone)
    worded = config.head_spec.start == "text"
    names, templates = prompts_of("", pictures.classes, order.prompts) if worded else ([], [])
    assert config.image_size is not None
    training = {"images": len(pictures.train), "protocol": config.protocol, "seed": config.seed, **trained.chosen}
    return AdapterInfo(
        config.method,
        config.backbone,
        config.image_size,
        pictures.classes,
        base,
        config.head_spec,
        names=tuple(names),
        templates=tuple(templates),
        training={**training, "steps": trained.log.steps},
        licence=order.licence,
        base_licence=row.licence if row else "",
    )


def _measured(trained: Trained, model: Model, pictures: Pictures, environment: Environment) -> dict[str, Any]:
    """The one look at the test images, by the model as it was read back from its file.

    Raises StorageError when what was read back answers otherwise than what was trained.
    """
    test = pictures.test
    probabilities = model.predict_refs(test.refs, environment.cache)
    few = test.take(np.arange(min(_REPEATED, len(test))))
    if len(few):
        expected = replace(model, classifier=trained.model).predict_refs(few.refs, environment.cache)
        if not np.allclose(expected, probabilities[: len(few)], atol=1e-3):
            raise StorageError(f"{model.path}: the model read back answers otherwise than the one written; try again")
    return {"test": scores(test.labels, probabilities) | {"paths": [ref.name for ref in test.refs]}}
