"""statistics.safetensors of a model folder: what `vitadapt update` makes a new head of; sealed as the adapter is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor

from ..methods.class_statistics import Array, ClassStatistics
from ..nn.head import Classifier
from ..training.adapter_checks import check_file
from ..training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes, checksum_of
from ..utils.errors import WeightsError, damaged
from ..utils.files import bytes_digest, parse_json, read_bounded, write_atomic
from ..utils.limits import ADAPTER_FILE, MIB

STATISTICS = "statistics.safetensors"
FORMAT = "vitadapt-statistics/1"
MOST_BYTES = 16 * MIB  # of features that are kept image by image; more are summed up per class
_NAMES = (
    *("x", "labels", "summed", "centre", "feature_means", "feature_factor", "direction_means", "direction_factor"),
    "versions",
    *("owners", "novelty", "nonconformity"),
)


@dataclass(frozen=True)
class ModelStatistics:
    """features: of the model's images by its own network. directions: the same around `centre`, of unit length.

    owners, novelty, nonconformity: (n,) class and scores of images, each by a model that did not learn from it.
    shrinkage, temperature: of the head in closed form; correction: divides its logits, because of a network that was
    trained on the images (1 where none was). trained: images that the network and the recipe were chosen with; changed:
    how many were added or removed since.
    """

    features: ClassStatistics
    directions: ClassStatistics
    centre: Tensor
    owners: np.ndarray
    novelty: np.ndarray
    nonconformity: np.ndarray
    shrinkage: float
    temperature: float
    correction: float
    trained: int
    changed: int = 0


def directions_of(features: np.ndarray | Tensor, centre: Tensor) -> np.ndarray:
    """(N, E) features as the head in closed form gets them: around `centre`, of unit length."""
    return F.normalize(torch.as_tensor(features).float() - centre, dim=-1).numpy()


def write_model(folder: Path, model: Classifier, info: AdapterInfo, known: ModelStatistics | None) -> None:
    """The adapter file, and the statistics that belong to it. Raises StorageError."""
    adapter = adapter_bytes(model, info)
    if known is not None:
        write_atomic(folder / STATISTICS, statistics_bytes(known, bytes_digest(adapter)))
    write_atomic(folder / ADAPTER, adapter)


def statistics_bytes(known: ModelStatistics, adapter: str) -> bytes:
    """The file's contents; `adapter` is the digest of the adapter file that it belongs to."""
    features, directions = known.features, known.directions
    if features.x.size * 4 > MOST_BYTES:
        features, directions = features.summed_up(), directions.summed_up()
    arrays = {"x": features.x, "feature_means": features.summed_means, "feature_factor": features.factor}
    arrays |= {"direction_means": directions.summed_means, "direction_factor": directions.factor}
    arrays |= {"versions": directions.versions, "novelty": known.novelty, "nonconformity": known.nonconformity}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).float() for name, array in arrays.items()}
    counts = {"labels": features.labels, "summed": features.summed, "owners": known.owners}
    tensors |= {name: torch.from_numpy(np.ascontiguousarray(array)).long() for name, array in counts.items()}
    tensors["centre"] = known.centre.float().contiguous()
    numbers = ("shrinkage", "temperature", "correction", "trained", "changed")
    about: dict[str, Any] = {"format": FORMAT, "adapter": adapter} | {name: getattr(known, name) for name in numbers}
    metadata = {"vitadapt": json.dumps({**about, "checksum": checksum_of(about, tensors)})}
    data: bytes = save(tensors, metadata)
    return data


def read_statistics(folder: Path, classes: int) -> ModelStatistics:
    """What the file in `folder` holds. Raises WeightsError where it is missing, damaged, or of another adapter."""
    path = folder / STATISTICS
    if not os.path.lexists(path):
        raise WeightsError(
            f"{folder}: no {STATISTICS} there, so it cannot be updated; make it again with 'vitadapt fit'"
        )
    with damaged(path, "make the model again with 'vitadapt fit'", WeightsError, "cannot be read"):
        check_file(path)
        data = read_bounded(path, ADAPTER_FILE)
        tensors = load(data)
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = parse_json(header.get("__metadata__", {}).get("vitadapt", "{}"))
        if about.get("format") != FORMAT or tensors.keys() != set(_NAMES):
            raise ValueError(f"not of the format {FORMAT}")
        if checksum_of({k: v for k, v in about.items() if k != "checksum"}, tensors) != about.get("checksum"):
            raise ValueError("its checksum does not match")
        found, adapter = _built(about, tensors), about["adapter"]
        its_own = adapter == bytes_digest(read_bounded(folder / ADAPTER, ADAPTER_FILE))
    if not its_own or found.features.classes != classes:
        raise WeightsError(f"{path}: belongs to another model than the adapter beside it; make the model again")
    return found


def _built(about: dict[str, Any], tensors: dict[str, Tensor]) -> ModelStatistics:
    """Raises ValueError for numbers that do not fit one another."""
    t = {name: tensor.numpy() for name, tensor in tensors.items()}
    classes, width = len(t["summed"]), len(t["centre"])
    rows = {"x": len(t["labels"]), "feature_means": classes, "direction_means": classes}
    rows |= {name: len(t[name]) for name in ("feature_factor", "direction_factor", "versions")}
    if any(t[name].shape != (count, width) for name, count in rows.items()):
        raise ValueError("its tensors do not fit one another")
    if len({t[name].shape for name in ("owners", "novelty", "nonconformity")}) != 1:
        raise ValueError("its scores do not fit one another")
    for name in ("labels", "owners"):
        if t[name].dtype != np.int64 or (len(t[name]) and not 0 <= t[name].min() <= t[name].max() < classes):
            raise ValueError(f"{name} of classes that are not there")
    if any(not np.isfinite(array).all() for array in t.values()) or t["summed"].min() < 0:
        raise ValueError("numbers that cannot be")
    wide = {name: t[name].astype(np.float64) for name in (*rows, "novelty", "nonconformity") if name != "x"}

    def statistics(x: np.ndarray, name: str, versions: Array) -> ClassStatistics:
        means, factor = wide[f"{name}_means"], wide[f"{name}_factor"]
        return ClassStatistics(x, t["labels"], t["summed"], means, factor, versions)

    features = statistics(t["x"], "feature", wide["versions"][:0])
    directions = statistics(directions_of(t["x"], tensors["centre"]), "direction", wide["versions"])
    shrinkage, temperature, correction = (float(about[name]) for name in ("shrinkage", "temperature", "correction"))
    if not (0 < shrinkage <= 1 and 0 < temperature < np.inf and 0 < correction < np.inf):
        raise ValueError("numbers that cannot be")
    return ModelStatistics(
        features,
        directions,
        tensors["centre"],
        t["owners"],
        wide["novelty"],
        wide["nonconformity"],
        shrinkage,
        temperature,
        correction,
        int(about["trained"]),
        int(about["changed"]),
    )
