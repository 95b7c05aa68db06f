"""The ladder: from the simplest classifier to the method that was asked for; cross-validation keeps one rung."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..methods import LinearProbe, ZeroShot
from ..methods.spec import method_text
from ..nn.surgery import trainable
from ..training.cross_validation import of_fold
from ..training.task import Task
from ..utils.errors import Diverged
from ..utils.files import bytes_digest, read_sealed, write_sealed

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Climbed:
    """One rung after cross-validation. probabilities (N, C): of every training image, by what was trained without it.

    score and deviation (over folds) in percent; None with a `note` that says why.
    """

    name: str
    task: Task
    trained: int
    probabilities: np.ndarray | None = None
    score: float | None = None
    deviation: float | None = None
    seconds: float = 0.0
    note: str = ""


def rungs(task: Task) -> Iterator[Task]:
    """From the simplest to the one asked for; `task` has the text of the classes when its backbone knows any."""
    if task.text is not None:
        yield replace(task, config=replace(task.config, method=ZeroShot(), head=None, recipe=None))
    if task.config.method != LinearProbe() and task.config.method.trains_head:
        head = task.config.head if task.config.head and task.config.head.start != "text" else None
        yield replace(task, config=replace(task.config, method=LinearProbe(), head=head, recipe=None))
    if task.config.method.trains_head or task.text is None:
        yield task


def climb(task: Task, fold: np.ndarray | None, work: Path, tell: Tell) -> list[Climbed]:
    """Every rung, cross-validated over `fold` (N,) (None: too few images for that); finished folds are kept in `work`.

    Once a rung makes no mistake the ones above it, which cannot win, are not tried.
    """
    done: list[Climbed] = []
    for part in rungs(task):
        name = method_text(part.config.method)
        trained = sum(p.numel() for p in trainable(part.build(0)).values())
        rung = Climbed(name, part, trained)
        if any(other.score == 100 for other in done):
            rung = replace(rung, note="not tried: a simpler one makes no mistake")
        elif fold is None:
            rung = replace(rung, note="not compared: too few images")
        else:
            rung = _validated(rung, fold, work)
        tell(f"{name}: {_said(rung)}")
        done.append(rung)
    return done


def best(done: list[Climbed]) -> Climbed:
    """The rung with the highest score; the simplest of equals, and the simplest that trains when none has a score."""
    scored = [rung for rung in done if rung.score is not None]
    if scored:
        return max(scored, key=lambda rung: rung.score or 0.0)
    able = [rung for rung in done if rung.trained and not rung.note.startswith("diverged")]
    return (able or done)[0]


def _said(rung: Climbed) -> str:
    if rung.score is None:
        return rung.note
    spread = f" ± {rung.deviation:.1f}" if rung.deviation is not None else ""
    return f"{rung.score:.1f} %{spread} by cross-validation, {rung.trained:,} trained numbers"


def _validated(rung: Climbed, fold: np.ndarray, work: Path) -> Climbed:
    start = time.perf_counter()
    labels = rung.task.labels.numpy()
    try:
        probabilities = _out_of_fold(rung, fold, work)
    except Diverged as error:
        return replace(rung, note=f"diverged: {error}")
    right = probabilities.argmax(axis=1) == labels
    by_fold = [right[fold == number].mean() for number in np.unique(fold)]
    return replace(
        rung,
        probabilities=probabilities,
        score=100 * float(right.mean()),
        deviation=100 * float(np.std(by_fold, ddof=1)),
        seconds=time.perf_counter() - start,
    )


def _out_of_fold(rung: Climbed, fold: np.ndarray, work: Path) -> np.ndarray:
    """(N, C); a fold that was finished before, by the same software on the same images, is read back."""
    task, pooled = rung.task, np.zeros((len(fold), rung.task.classes), dtype=np.float32)
    if not trainable(task.build(0)):
        return np.asarray(task.probabilities(task.build(0)).numpy())
    numbers = np.unique(fold).tolist()
    for number in numbers:
        key = bytes_digest(f"{task.identity()} {number}".encode() + fold.tobytes())
        path = work / f"{key}.fold"
        kept = read_sealed(path)
        if kept is None:
            label = f"{rung.name}, fold {number + 1} of {len(numbers)}"
            found = of_fold(task, task.recipe, fold, number, label)
            kept = np.ascontiguousarray(found.numpy(), dtype=np.float32).tobytes()
            write_sealed(path, kept)
        pooled[fold == number] = np.frombuffer(kept, dtype=np.float32).reshape(-1, task.classes)
    return pooled
