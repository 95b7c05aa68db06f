"""Candidates, from the simplest classifier to the method that was asked for; cross-validation selects one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..methods import LinearProbe, ZeroShot
from ..methods.spec import method_text
from ..nn.surgery import trainable
from ..training.cross_validation import of_fold
from ..training.task import Task
from ..utils.errors import Diverged
from ..utils.files import bytes_digest, read_cached, write_cached

Message = Callable[[str], None]  # shows one line to the user


@dataclass(frozen=True)
class Candidate:
    """One classifier that cross-validation compares with others.

    parameters: how many numbers it trains. probabilities (N, C): of every training image, by a model that was trained
    without this image. score and deviation (over the folds): percent, or None; then `note` says why.
    """

    name: str
    task: Task
    parameters: int
    probabilities: np.ndarray | None = None
    score: float | None = None
    deviation: float | None = None
    seconds: float = 0.0
    diverged: bool = False
    note: str = ""

    @property
    def summary(self) -> str:
        """Its result in one line."""
        if self.score is None:
            return self.note
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.score:.1f} %{spread} by cross-validation, {self.parameters:,} trained numbers"


def candidate_tasks(task: Task, closed_form: Task | None) -> Iterator[Task]:
    """One task per candidate, the simplest first; zero-shot needs the text of the classes in `task`.

    closed_form: the task of a head in closed form, which may see the images at another size.
    """
    if task.text is not None:
        yield replace(task, config=task.config.with_method(ZeroShot()))
    if closed_form is not None:
        yield closed_form
    if task.config.method != LinearProbe() and task.config.method.trains_head:
        head = task.config.head if task.config.head.start != "text" else None
        yield replace(task, config=task.config.with_method(LinearProbe(), head))
    if task.config.method.trains_head or task.text is None:
        yield task


def cross_validate(tasks: Iterable[Task], fold: np.ndarray | None, work: Path, message: Message) -> list[Candidate]:
    """A candidate per task, with its score over `fold` (N,) (None: too few images). Finished folds are in `work`.

    After a candidate without any mistake the others are not tried: they cannot be better.
    """
    candidates: list[Candidate] = []
    for part in tasks:
        parameters = sum(p.numel() for p in trainable(part.build(0)).values())
        candidate = Candidate(method_text(part.config.method), part, parameters)
        if any(other.score == 100 for other in candidates):
            candidate = replace(candidate, note="not tried: a simpler one makes no mistake")
        elif fold is None:
            candidate = replace(candidate, note="not compared: too few images")
        else:
            candidate = _scored(candidate, fold, work)
        message(f"{candidate.name}: {candidate.summary}")
        candidates.append(candidate)
    return candidates


def select(candidates: list[Candidate]) -> Candidate:
    """The one with the highest score, the simplest of equals. Without any score: the simplest that trains."""
    if any(candidate.score is not None for candidate in candidates):
        return max(candidates, key=lambda candidate: -1.0 if candidate.score is None else candidate.score)
    able = [candidate for candidate in candidates if candidate.parameters and not candidate.diverged]
    return (able or candidates)[0]


def _scored(candidate: Candidate, fold: np.ndarray, work: Path) -> Candidate:
    start = time.perf_counter()
    labels = candidate.task.labels.numpy()
    try:
        probabilities = _out_of_fold(candidate, fold, work)
    except Diverged as error:
        return replace(candidate, diverged=True, note=f"diverged: {error}")
    right = probabilities.argmax(axis=1) == labels
    by_fold = [right[fold == number].mean() for number in np.unique(fold)]
    return replace(
        candidate,
        probabilities=probabilities,
        score=100 * float(right.mean()),
        deviation=100 * float(np.std(by_fold, ddof=1)),
        seconds=time.perf_counter() - start,
    )


def _out_of_fold(candidate: Candidate, fold: np.ndarray, work: Path) -> np.ndarray:
    """(N, C); a fold that was finished before, by the same software on the same images, is read from `work`."""
    task, pooled = candidate.task, np.zeros((len(fold), candidate.task.classes), dtype=np.float32)
    if not candidate.parameters:
        return np.asarray(task.probabilities(task.build(0)).numpy())
    numbers = np.unique(fold).tolist()
    for number in numbers:
        key = bytes_digest(f"{task.identity()} {number}".encode() + fold.tobytes())
        path = work / f"{key}.fold"
        stored = read_cached(path)
        if stored is None:
            label = f"{candidate.name}, fold {number + 1} of {len(numbers)}"
            found = of_fold(task, task.recipe, fold, number, label)
            stored = np.ascontiguousarray(found.numpy(), dtype=np.float32).tobytes()
            write_cached(path, stored)
        pooled[fold == number] = np.frombuffer(stored, dtype=np.float32).reshape(-1, task.classes)
    return pooled
