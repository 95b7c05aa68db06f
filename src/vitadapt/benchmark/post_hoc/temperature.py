"""The temperature of a finished run, from images that it was trained without, and reliability by method.

A run has no images left over: all labelled ones train. So its training is repeated with the same hyper-parameters once
per fold, without that fold, and the temperature is fitted to what these classifiers say of the images they have not
seen. The test images take no part. Since every repetition sees fewer images than the run did, the temperature errs, if
at all, on the side of too little confidence.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...data.sampling.folds import stratified_folds
from ...metrics.calibration import agreement, fit_temperature, measures_at, reliability
from ...training.cross_validation import out_of_fold
from ...training.features import Environment
from ...training.recipe import Recipe
from ...training.task import derive
from ...utils.errors import ConfigError, NotApplicable
from ..analysis.groups import Setting
from ..analysis.pairing import by_setting
from ..config import RunConfig
from ..prepare import prepare
from ..protocols.registry import PROTOCOLS
from ..results.record import Record
from ..results.store import Store

FOLDS = 5


def calibrate(record: Record, store: Store, environment: Environment | None = None, folds: int = FOLDS) -> float:
    """The temperature of a finished run: `folds` trainings (not more than shots), done once and saved in the store.

    Raises NotApplicable when nothing was trained, or in another way than can be repeated; ConfigError for a run that
    diverged or had one image per class; Diverged when a repetition does.
    """
    config = RunConfig.from_dict(record.config)
    if not config.method.trains_head or PROTOCOLS[config.protocol].sees_test:
        raise NotApplicable("its training cannot be repeated on a part of its images")
    folds = min(folds, config.shots or folds)
    if record.score is None or folds < 2:
        raise ConfigError("a temperature needs a run that succeeded, two folds and two images per class")
    known = store.load_analysis(record, "temperature", made_again=True)
    if known is None or known["folds"] != folds:
        known = _fit(record, config, environment or Environment(), folds)
        store.save_analysis(record, "temperature", known)
    return float(known["temperature"])


def _fit(record: Record, config: RunConfig, environment: Environment, folds: int) -> dict[str, Any]:
    task = prepare(config, environment).task
    fold = stratified_folds(task.labels.numpy(), folds, derive(config.seed, "calibration"))
    probabilities = out_of_fold(task, final_recipe(task.recipe, record.chosen), fold, "held out").numpy()
    labels = task.labels.numpy()
    return {"temperature": fit_temperature(labels, probabilities), "folds": folds, "images": len(labels)}


def final_recipe(recipe: Recipe, chosen: dict[str, Any]) -> Recipe:
    """The recipe with what the run's protocol chose; the head's learning rate keeps its ratio to the other."""
    lr, decay = chosen.get("lr", recipe.lr), chosen.get("weight_decay", recipe.weight_decay)
    head = recipe.head_lr * lr / recipe.lr if recipe.lr else lr
    return replace(recipe, lr=lr, head_lr=head, weight_decay=decay)


@dataclass(frozen=True)
class Reliability:
    """Reliability of one method in one setting: means over datasets of means over seeds, and per run.

    measures: nll, ece, brier, aurc; where all runs were calibrated also temperature, and nll, ece and brier with it;
    where the same folder has zero-shot runs on the same test images, zero-shot: the share of equal answers.
    """

    setting: Setting
    method: str
    measures: dict[str, float]
    runs: dict[str, dict[str, float]]  # by digest


def reliability_of(records: Sequence[Record], store: Store) -> list[Reliability]:
    """From the stored predictions alone. Raises StorageError when they are damaged."""
    rows = []
    for setting, methods in by_setting(records).items():
        for method, members in methods.items():
            whole = [record for record in members if "predictions" in record.files]
            runs = {record.digest: _measures(record, records, store) for record in whole}
            if runs:
                rows.append(Reliability(setting, method, _means(whole, runs), runs))
    return rows


def _measures(record: Record, records: Sequence[Record], store: Store) -> dict[str, float]:
    probabilities, labels = store.predictions(record)
    found = reliability(labels, probabilities)
    known = store.load_analysis(record, "temperature")
    if known is not None:
        at = measures_at(labels, probabilities, known["temperature"])
        found |= {"temperature": known["temperature"], **{f"{name}@T": value for name, value in at.items()}}
    reference = _zero_shot(record, records)
    if reference is not None:
        found["zero-shot"] = agreement(probabilities, store.predictions(reference)[0])
    return found


def _zero_shot(record: Record, records: Sequence[Record]) -> Record | None:
    """A run of the same backbone on the same test images that trained nothing."""
    alike = ("backbone", "image_size", "dataset")
    for other in records:
        same = all(other.config[name] == record.config[name] for name in alike)
        same = same and other.images.get("test") == record.images.get("test") and "predictions" in other.files
        if same and not other.parameters.get("trained") and other.classes == record.classes:
            return other
    return None


def _means(records: Sequence[Record], runs: dict[str, dict[str, float]]) -> dict[str, float]:
    names = [name for name in next(iter(runs.values())) if all(name in run for run in runs.values())]
    datasets = sorted({record.config["dataset"] for record in records})
    members = [[runs[r.digest] for r in records if r.config["dataset"] == dataset] for dataset in datasets]
    return {name: statistics.fmean(statistics.fmean(run[name] for run in group) for group in members) for name in names}
