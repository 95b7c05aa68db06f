"""What the files of the published toolkit say: their names, the result line, and the log."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...utils.errors import DataError

_COUNT = r"\d{1,15}"
_NUMBER = r"[-+]?(?:\d{1,30}\.?\d{0,30}(?:[eE][-+]?\d{1,3})?|nan|inf)"
_RESULT = re.compile(
    rf"best acc is:\s*({_NUMBER}), num_params is:\s*({_COUNT}), n_trainable_params is:\s*({_NUMBER}), "
    rf"backbone_params is:\s*({_COUNT})\.?\s*"
)
SEEDED = re.compile(rf"seed({_COUNT})_(.+)")
LOG_NAME = re.compile(r"(.+)_(\d{4}-\d\d-\d\d-\d\d-\d\d)_rank\d+")  # experiment, date
_EXPERIMENT = re.compile(rf"(finetuning|linear_probe)_({_COUNT}|full)(_two_lr)?")
_MESSAGE = re.compile(r"^.*?:\[P:\d+\]:Rank\[\d+/\d+\] ?")

_TRAINED = re.compile(rf"Number of trainable params: ({_NUMBER})M")
_CHOSEN = re.compile(rf"Hyperparameters: learning_rate = ({_NUMBER}), l2_lambda = ({_NUMBER})")
_SEARCHED = re.compile(rf"Hyper parameter tuning result: learning rate ({_NUMBER}), l2_lambda ({_NUMBER})")
_EPOCH = re.compile(rf"\[Epoch ({_COUNT})\] Val: (\S+) ({_NUMBER})")
_BEST = re.compile(rf"=> Learning rate ({_NUMBER}), L2 lambda ({_NUMBER}): Best score: Acc@1 ({_NUMBER})")
_ZERO_SHOT = re.compile(rf"=> TEST: (\S+) ({_NUMBER})%")

METRICS = {  # names in logs -> ours
    "accuracy": "accuracy",
    "balanced_accuracy_score": "mean-per-class",
    "map_11_points": "11-point-map",
    "roc_auc": "roc-auc",
}


@dataclass(frozen=True)
class Experiment:
    """What the name of an experiment says. shots: per class, None for all images, 0 for zero-shot."""

    kind: str  # finetuning, linear_probe or zeroshot
    shots: int | None
    variant: str = ""  # what sets it apart from the plain one


@dataclass(frozen=True)
class Result:
    """The line of a result file. score in percent."""

    score: float
    parameters: int
    trained: int
    backbone: int


@dataclass(frozen=True)
class Log:
    """What the log of a finished run says of its final training. scores: in percent, by epoch, on the test images."""

    score: float
    metric: str
    trained: int | None = None
    chosen: dict[str, float] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)


def read_experiment(name: str) -> Experiment | None:
    """ "finetuning_5", "linear_probe_full", "zeroshot_eval_wiki_True_..." -> what it says; None for another name."""
    if found := _EXPERIMENT.fullmatch(name):
        kind, shots, variant = found.groups()
        return Experiment(kind, None if shots == "full" else int(shots), (variant or "").strip("_"))
    if name.startswith("zeroshot_eval"):
        flags = re.findall(r"(wiki|wnh|wnd|gpt3)_True", name)
        return Experiment("zeroshot", 0, "+".join(flags))
    return None


def read_result(path: Path, text: str) -> Result:
    """A result file. Raises DataError naming it.

    The toolkit writes the trainable parameters as a count or, with a decimal point, in millions.
    """
    found = _RESULT.fullmatch(text.strip())
    if not found:
        raise DataError(f"{path}: not a result line 'best acc is:.., num_params is:..'; damaged or something else")
    score, parameters, trained, backbone = found.groups()
    count = int(trained) if trained.isdecimal() else _millions(path, trained)
    return Result(_percent(path, score), int(parameters), count, int(backbone))


def read_log(path: Path, lines: Iterable[str]) -> Log:
    """The log of one run. Raises DataError when it is that of no run that was finished.

    A search writes the same lines for each of its trainings; only what comes after the chosen values, or a zero-shot
    result, tells of the test images.
    """
    chosen: dict[str, float] = {}
    scores: dict[int, float] = {}
    trained, metric, best, last = "", "", "", ""
    for line in lines:
        message = _MESSAGE.sub("", line.strip())
        last = message or last
        if found := _CHOSEN.search(message) or _SEARCHED.search(message):
            chosen, scores, best = {"lr": float(found[1]), "weight_decay": float(found[2])}, {}, ""
        elif found := _TRAINED.search(message):
            trained = found[1]
        elif found := _EPOCH.search(message):
            scores[int(found[1])], metric = float(found[3]), found[2]
        elif found := _BEST.search(message):
            best = found[3]
        elif found := _ZERO_SHOT.search(message):
            return Log(_percent(path, found[2]), found[1])
    if not (chosen and best and _BEST.search(last)):
        raise DataError(f"{path}: the log of a run that was not finished")
    return Log(_percent(path, best), metric, _millions(path, trained) if trained else None, chosen, scores)


def _millions(path: Path, text: str) -> int:
    value = float(text)
    if not 0 <= value < 1e6:
        raise DataError(f"{path}: {text} million trainable parameters cannot be")
    return round(value * 1e6)


def _percent(path: Path, text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise DataError(f"{path}: the score {text} is no percentage")
    return value
