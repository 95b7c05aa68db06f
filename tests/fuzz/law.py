"""The law for every file that somebody else made: a right value, or one line that names the file and the remedy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitadapt.utils.errors import VitadaptError, printable

Prepare = Callable[[Path], list[Path]]
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """One reader: `prepare` writes sound files into an empty folder and says which of them strangers make;
    `read` uses the folder as a person would. `kind`: the row of the table in docs/input.md. `names`: must a refusal
    name the file, or is the data set's name enough?
    """

    name: str
    kind: str
    prepare: Prepare
    read: Read
    names: bool = True
    allowed: tuple[type[Exception], ...] = field(default=())


TARGETS: dict[str, Target] = {}


def target(name: str, kind: str, read: Read, **options: Any) -> Callable[[Prepare], Prepare]:
    """Registers a reader with the function that writes its sound files."""

    def file(prepare: Prepare) -> Prepare:
        TARGETS[name] = Target(name, kind, prepare, read, **options)
        return prepare

    return file


def outcome(target: Target, folder: Path, file: Path) -> str:
    """ "value", or the message of the refusal. Raises AssertionError for a refusal that is no help, and whatever else
    the reader raises.
    """
    try:
        target.read(folder)
    except VitadaptError as error:
        check_message(str(error), [file.name, file.stem, str(folder)] if target.names else None)
        return str(error)
    except target.allowed as error:
        return f"{type(error).__name__}: {error}"
    return "value"


def check_message(text: str, names: list[str] | None) -> None:
    """One line without control characters, of bearable length, that can be written, with one of `names` in it."""
    assert text and text == printable(text), repr(text)
    assert "\n" not in text, repr(text)
    assert len(text) < 5000, len(text)
    text.encode("utf-8")
    assert names is None or any(name in text for name in names), f"{names[0]} is not named: {text}"


@contextmanager
def nothing_else_written(folder: Path) -> Iterator[None]:
    """Raises AssertionError when files beside those in `folder` appear in its parent."""
    before = set(os.listdir(folder.parent))
    yield
    assert set(os.listdir(folder.parent)) == before
