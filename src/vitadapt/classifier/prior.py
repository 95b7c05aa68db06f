"""How often each class is to be expected: another answer than the training images give, as a shift of the logits.

A classifier with softmax that was trained where class c has the share s_c answers p(c|x) ~ p(x|c) s_c. Where the share
is t_c instead, log(t_c / s_c) is added to its logits (Saerens et al. 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Dataset
from ..metrics.scores import per_class
from ..nn.surgery import Method
from ..training.adapter_file import AdapterInfo
from ..utils.errors import ConfigError, damaged
from ..utils.files import parse_json, read_text
from ..utils.registry import unknown

_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class Prior:
    """target (C,): the shares to expect. shares (C,): of the training images. name: what the user called it."""

    name: str
    target: np.ndarray
    shares: np.ndarray

    def shift(self, method: Method) -> np.ndarray:
        """(C,) what is added to the logits of a classifier that `method` made."""
        return np.asarray(np.log(self.target / assumed(method, self.shares)))

    def applied(self, method: Method, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) as they are after the shift."""
        return reweighted(probabilities, assumed(method, self.shares), self.target)

    def plain(self) -> dict[str, Any]:
        """As plain values, for a record."""
        return {"name": self.name, "target": self.target.tolist(), "shares": self.shares.tolist()}

    def measure(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """The accuracy to expect where the classes have these shares: their recalls, weighted; 0..1."""
        recalls = per_class(labels, probabilities)
        known = ~np.isnan(recalls)
        return float(np.average(recalls[known], weights=self.target[known]))


def assumed(method: Method, shares: np.ndarray) -> np.ndarray:
    """(C,) the shares of the classes that a classifier made by `method` counts on."""
    return shares if method.learns_prior else np.full(len(shares), 1 / len(shares))


def reweighted(probabilities: np.ndarray, was: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) where the classes have the shares `target` (C,) and had `was`."""
    found = probabilities.astype(np.float64) * (target / was)
    return np.asarray(found / found.sum(axis=1, keepdims=True)).astype(np.float32)


def read_prior(text: str, classes: Sequence[str], shares: np.ndarray) -> Prior:
    """The prior that --prior names: "data", "uniform", or a JSON file {class: probability}.

    Raises ConfigError for a file that is none of these, lacks a class or does not add up to 1, and UnknownName for a
    class that there is not.
    """
    if text == "data":
        return Prior(text, shares, shares)
    if text == "uniform":
        return Prior(text, np.full(len(classes), 1 / len(classes)), shares)
    return Prior(text, _read(Path(text), classes), shares)


def check_prior(text: str | None, dataset: Dataset) -> None:
    """Raises ConfigError for several labels per image, and what `read_prior` raises, before an image is read."""
    if text is None:
        return
    if any(part.multilabel for part in dataset.splits.values()):
        raise ConfigError("--prior is for one label per image; with several, each class gets a threshold instead")
    read_prior(text, dataset.classes, np.full(len(dataset.classes), 1 / len(dataset.classes)))


def _read(path: Path, classes: Sequence[str]) -> np.ndarray:
    form = 'write a JSON file {"class": probability} (or say data, or uniform)'
    if not path.is_file():
        raise ConfigError(f"--prior {path}: no such file; {form}")
    with damaged(path, form, ConfigError, "is no prior"):
        table: Any = parse_json(read_text(path))
        if not isinstance(table, dict):
            raise ValueError("no JSON object")
    for name, value in table.items():
        if name not in classes:
            raise unknown(f"class in {path}", name, classes)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise ConfigError(f"{path}: {name} has {value!r}; a probability lies between 0 and 1")
    if missing := [name for name in classes if name not in table]:
        raise ConfigError(f"{path} gives no probability for {', '.join(missing[:3])}; it needs one for every class")
    if abs((total := sum(table.values())) - 1) > _ROUNDING:
        raise ConfigError(f"{path}: its probabilities add up to {total:.4g}; they must add up to 1")
    target = np.array([table[name] for name in classes], dtype=np.float64)
    return np.asarray(target / target.sum())


def prior_of(info: AdapterInfo, text: str) -> tuple[np.ndarray, np.ndarray]:
    """(C,) the shares that a model counts on, and those that --prior names. Raises as `read_prior`."""
    if info.thresholds:
        raise ConfigError("--prior is for one label per image; a model of several labels has a threshold per class")
    shares = info.training.get("shares")
    if not isinstance(shares, list) or len(shares) != len(info.classes):
        raise ConfigError("this model does not say how often its classes were in training; fit it again for --prior")
    known = np.array(shares, dtype=np.float64)
    was = np.array(info.training.get("prior") or assumed(info.method, known), dtype=np.float64)
    return was, read_prior(text, info.classes, known).target
