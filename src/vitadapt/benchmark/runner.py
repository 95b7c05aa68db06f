"""From a configuration to a record, top to bottom."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from ..data import Dataset, Examples
from ..data.pixels.pixels import Pixels
from ..data.sampling.few_shot import class_sizes
from ..methods.audit import LEARNABLE, require_learnable
from ..metrics.scores import METRICS, per_class, performance_efficiency
from ..nn.head import Classifier
from ..nn.setting import Setting
from ..nn.surgery import trainable
from ..training.adapter_file import adapter_bytes
from ..training.features import Environment, frozen_features, pixels_of
from ..training.loop import forward_all, probabilities_of
from ..training.recipe import protocol_table
from ..training.task import LabelledImages, Task, Trained, adapter_info
from ..utils.errors import Diverged, StorageError
from ..utils.files import bytes_digest
from ..utils.system import peak_memory_mb, versions
from .config import RunConfig
from .prepare import Clock, cached_probe, prepare
from .protocols.base import TrainedOnTest
from .protocols.registry import PROTOCOLS
from .results.record import Record, label_of
from .results.store import Store
from .transfer import Target, combined, targets_of


class SingleUseLabels:
    """The test labels. They give one score, once."""

    def __init__(self, labels: np.ndarray, metric: str) -> None:
        self._labels, self._metric, self._used = labels, METRICS[metric], False

    def score(self, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
        """(score, per-class scores) in percent. Raises RuntimeError at the second call."""
        if self._used:
            raise RuntimeError("the test set has been scored already; choose nothing by it")
        self._used = True
        return 100 * self._metric(self._labels, probabilities), 100 * per_class(self._labels, probabilities)


def run(config: RunConfig, store: Store | Path | str = "runs", environment: Environment | None = None) -> Record:
    """Run one cell and record it in `store`; a cell that is recorded already is returned as it stands.

    A training that diverges is recorded as such. Any other error leaves its trace in the store and is raised.
    Waits while another process is running this cell.
    """
    store, config = store if isinstance(store, Store) else Store(store), config.resolved()
    with store.lock(config.digest()):
        return run_locked(config, store, environment or Environment())


def run_locked(config: RunConfig, store: Store, environment: Environment) -> Record:
    """As `run`, for a caller that holds the lock of the cell."""
    config = config.resolved()
    digest = config.digest()
    done = store.get(digest)
    if done is not None:
        return done
    store.sweep(digest)
    try:
        return _run(config, digest, store, environment)
    except Exception:
        trace = traceback.format_exc()
        with suppress(StorageError):  # without room for the trace, still raise the error itself
            store.fail(digest, trace)
        raise


def _run(config: RunConfig, digest: str, store: Store, environment: Environment) -> Record:
    clock = Clock()
    if LEARNABLE not in config.method.breaks:
        require_learnable(cached_probe(config.backbone, config.image_size, cast(Any, config.method)))
    ready = prepare(config, environment, clock)
    task = replace(ready.task, checkpoint=store.path("checkpoints", digest), trials=store.path("trials", digest))
    dataset, examples = ready.dataset, ready.dataset.splits["test"]
    with clock.phase("data"):
        test = pixels_of(examples, task.backbone, environment, dataset.squash)
    labels, targets = examples.labels, targets_of(config, dataset, environment)
    record = _blank_record(config, digest, dataset, ready.pool)
    record = replace(record, notes=[*record.notes, *ready.notes])
    try:
        with clock.phase("train"):
            trained = _train(task, config, LabelledImages(test, labels))
    except Diverged as error:
        notes = [*record.notes, str(error)]
        record = replace(record, status="diverged", notes=notes, chosen=error.chosen, seconds=clock.seconds)
        record = replace(record, images=_image_digests(ready.images, test))
        return _recorded(store, record, None, labels, None)
    with clock.phase("test"):
        if isinstance(trained, TrainedOnTest):
            probabilities, score, by_class = trained.probabilities, trained.score, 100 * trained.per_class(labels)
            record = replace(record, scores=trained.scores)
        else:
            probabilities = predict(trained, task.digest, test, examples.multilabel, environment, task.setting)
            score, by_class = SingleUseLabels(labels, dataset.metric).score(probabilities)
        others, notes = _elsewhere(targets, trained, task, environment)
        scores, score = combined(config, score, others)
        record = replace(record, scores={**record.scores, **scores}, notes=[*record.notes, *notes])
    record = replace(record, images=_image_digests(ready.images, test))  # last: by now every image has been read
    record = _finished(record, trained, score, by_class, clock)
    # The adapter file says nothing of when and how fast, so that equal cells give equal bytes.
    summary = {"images": len(ready.pool), "dataset": dataset.name, "protocol": config.protocol, "seed": config.seed}
    info = adapter_info(ready.task, dataset.classes, summary, squash=dataset.squash)
    return _recorded(store, record, probabilities, labels, adapter_bytes(trained.model, info))


def _recorded(
    store: Store, record: Record, probabilities: np.ndarray | None, labels: np.ndarray, adapter: Any
) -> Record:
    """The record of this cell, of the first process that wrote one: a lock is lost if its folder is emptied."""
    return store.get(record.digest) or store.add(record, probabilities, labels, adapter)


def _train(task: Task, config: RunConfig, test: LabelledImages) -> Trained:
    """The trained classifier. Only a protocol that sees the test set is given it."""
    protocol = PROTOCOLS[config.protocol]
    return protocol(replace(task, test=test) if protocol.sees_test else task, config)


def predict(
    trained: Trained, base: str, test: Pixels, several: bool, environment: Environment, setting: Setting
) -> np.ndarray:
    """Test probabilities (N, C), in one pass. several: may an image have several labels?

    A head that was never trained has no threshold per class: with several labels, too, it gives a softmax.
    """
    model = trained.model.eval()
    if trainable(model.backbone):
        logits = forward_all(model, test, setting, "test")
    else:
        features = frozen_features(model.backbone, base, test, environment, "test")
        logits = model.head(features.to(setting.device)).detach().cpu()
    multilabel = several and bool(trainable(model))
    probabilities: np.ndarray = probabilities_of(logits.float(), multilabel).numpy()
    return probabilities


def _elsewhere(
    targets: Sequence[Target], trained: Trained, task: Task, environment: Environment
) -> tuple[dict[str, float], list[str]]:
    """Name -> score of what is tested besides the trained classes, each once, and a note for the record."""
    scores, by_name = dict[str, float](), list[str]()
    for target in targets:
        images = pixels_of(target.examples, task.backbone, environment, target.dataset.squash)
        answering = target.classifier(trained)
        found = predict(answering, task.digest, images, target.examples.multilabel, environment, task.setting)
        scores[target.name] = target.score(found)
        by_name += [target.name] if target.text else []
    return scores, [f"by a head of class names: {', '.join(by_name)}"] if by_name else []


def _image_digests(train: Pixels, test: Pixels) -> dict[str, Any]:
    digest = bytes_digest("\n".join(test.digests).encode())
    return {"train": train.digests, "test": digest, "test_count": len(test)}


def _blank_record(config: RunConfig, digest: str, dataset: Dataset, pool: Examples) -> Record:
    return Record(
        digest=digest,
        config=config.to_dict(),
        status="ok",
        metric=dataset.metric,
        score=None,
        pe=None,
        classes=list(dataset.classes),
        per_class=[],
        parameters={},
        chosen={},
        seconds={},
        peak_memory_mb=0.0,
        versions=versions(),
        images={},
        losses=[],
        notes=[*dataset.notes, *_drawn(config, dataset, pool)],
        caveat=protocol_table().get(config.protocol, {}).get("caveat", ""),
        split=dataset.split,
        method_label=label_of(config.to_dict()),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _drawn(config: RunConfig, dataset: Dataset, pool: Examples) -> list[str]:
    """What a reader of "K shots" must know: more were drawn, or some classes have fewer images."""
    drawn = PROTOCOLS[config.protocol].draws(config.shots)
    if drawn is None or config.subset is not None or not len(pool):
        return []
    notes = []
    if drawn != config.shots:
        notes.append(f"{drawn} labelled images per class: {config.shots} to train on, the rest to choose by")
    small = int((class_sizes(pool.labels, dataset.classes) < drawn).sum())
    if small:
        notes.append(f"{small} classes have fewer than {drawn} training images; all of theirs are used")
    return notes


def _finished(record: Record, trained: Trained, score: float, by_class: np.ndarray, clock: Clock) -> Record:
    parameters = count_parameters(trained.model)
    return replace(
        record,
        score=score,
        pe=performance_efficiency(score, parameters["trained"]),
        per_class=[None if np.isnan(value) else float(value) for value in by_class],
        parameters=parameters,
        chosen=trained.chosen,
        seconds={name: round(value, 3) for name, value in clock.seconds.items()},
        peak_memory_mb=round(peak_memory_mb(), 1),
        losses=trained.log.losses,
    )


def count_parameters(model: Classifier) -> dict[str, int]:
    """Numbers that train: in the backbone (with its text tower), in the head, and their sum; all numbers of the model
    that is run, which has no text tower, and those of its image tower ("visual").
    """
    parts = (model.backbone, nn.ModuleList([model.head.texts] if model.head.texts else []), model.head)
    image, text, head = (sum(p.numel() for p in trainable(part).values()) for part in parts)
    visual, read, above = (sum(p.numel() for p in part.parameters()) for part in parts)
    return {
        "backbone": image + text,
        "head": head - text,
        "trained": image + head,
        "total": visual + above - read,
        "visual": visual,
    }
