"""Errors meant for the person at the keyboard: one line that names what is wrong and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .limits import MESSAGE

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NEW_LINES = re.compile(r"\n(?=  )")  # where an indented list begins


def printable(text: str) -> str:
    """`text`, such as the name of a file or a class, as one line that a terminal or a log may show.

    Control characters (a terminal obeys them), those that turn the direction of writing and what is not UTF-8 are
    escaped; of a very long line the middle is left out.
    """
    shown = _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
    return shown if len(shown) <= MESSAGE else f"{shown[: MESSAGE - 505]} ... {shown[-500:]}"


def first_few(names: Sequence[str], most: int = 3) -> str:
    """ "a, b, c and 4 more": what a message says of many names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class VitadaptError(Exception):
    """Base of every error that a user can act on; the command line prints it without a traceback."""

    def __str__(self) -> str:
        return "\n".join(map(printable, _NEW_LINES.split(super().__str__())))


class UnknownName(VitadaptError):
    """A name that no registry knows; the message suggests near ones."""


class ConfigError(VitadaptError):
    """A configuration value that cannot work (wrong field, wrong type, impossible combination)."""


class DataError(VitadaptError):
    """Images, labels or files that cannot be used as they are. `unreadable`: the names of the images that cannot be
    read, where that is what is wrong.
    """

    def __init__(self, message: str, unreadable: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.unreadable = tuple(unreadable)


class WeightsError(VitadaptError):
    """A checkpoint that does not fit, or cannot be read safely."""


class NotApplicable(VitadaptError):
    """The method cannot work on this backbone."""


class NotMergeable(VitadaptError):
    """The adapted model cannot be folded back into the plain weights."""


class Diverged(VitadaptError):
    """Training produced a loss that is not a number. `chosen`: what a search had found before, for the record."""

    def __init__(self, message: str, chosen: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.chosen = chosen or {}


class MethodDefect(VitadaptError):
    """The audit found a trainable tensor that cannot learn."""


class StorageError(VitadaptError):
    """Something could not be written or read back (disk full, no permission, damaged file)."""


class CellBusy(VitadaptError):
    """Another process is running this very cell."""


class WorkerError(VitadaptError):
    """Workers, or a cluster, that cannot be had or used as asked."""


@contextmanager
def damaged(
    path: object, remedy: str, kind: type[VitadaptError] = DataError, what: str = "cannot be read"
) -> Iterator[None]:
    """Within the block a damaged file is read: whatever a library raises becomes one `kind` that names path and remedy.

    Every class of error counts, because readers of damaged files raise nearly all of them and document few. Errors of
    our own pass through.
    """
    try:
        yield
    except VitadaptError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of libraries in Rust
            raise
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, MemoryError):
            reason = "it needs more memory than there is"
        raise kind(f"{path} {what} ({reason}); {remedy}") from error


def describe(error: BaseException) -> str:
    """One line for a person: the message of our own errors, type and message of any other."""
    return str(error) if isinstance(error, VitadaptError) else f"{type(error).__name__}: {error}"
