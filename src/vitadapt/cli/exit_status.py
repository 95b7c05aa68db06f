"""The standard streams as they may come: closed, on a full disk, in a poor encoding, or without a reader."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import typer

from ..utils.errors import ConfigError, UnknownName, VitadaptError
from .options import complain

CUT_OFF = 141
"""The exit status when nobody reads the output any more, which is no mistake: that of a process ended by its pipe."""


def open_streams() -> None:
    """Every standard stream is open and takes any text; what an encoding lacks is written as an escape.

    The number of a closed stream would be given to the next file that is opened, and what is printed by the libraries
    below Python would end in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        raw = io.BufferedWriter(_Forgiving(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, sys.stderr.encoding, "backslashreplace", line_buffering=True)


class _Forgiving(io.FileIO):
    """A standard error output must not end the work that it tells of: what it does not take is dropped, as on a full
    disk or when the reader has left.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def output_status(error: OSError | SystemExit) -> int:
    """The exit status after `error`: the output has no reader, or its disk is full, or a file is out of reach.

    What was not written is dropped. Raises `error` again when it names neither a file nor the output.
    """
    lost = _lost()
    if isinstance(lost, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return CUT_OFF
    if lost is not None:
        complain(f"the output cannot be written ({lost.strerror})")
        return 1
    if isinstance(error, SystemExit) or error.errno is None:
        raise error
    place = f"{error.filename}: " if error.filename is not None else ""
    complain(f"{place}{error.strerror}; see to that, then run the same command again")
    return 1


def _lost() -> OSError | None:
    """Why nothing can be written; the stream leads nowhere then, so that nothing is said about it again at the end."""
    try:
        print(flush=True)  # the text that failed is forgotten, and flushing alone would succeed
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


INTERRUPTED = 130


def status_of(error: BaseException) -> int:
    """1 failed, 2 wrong usage, 130 interrupted. Raises `error` again when it is a bug, which keeps its traceback."""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED
    if isinstance(error, VitadaptError):
        complain(str(error))
        return 2 if isinstance(error, (UnknownName, ConfigError)) else 1
    if isinstance(error, (OSError, SystemExit)):  # click and rich leave with the latter when nobody reads them any more
        return output_status(error)
    show = getattr(error, "show", None)  # click's usage errors print themselves
    if show is not None:
        show()
        return int(getattr(error, "exit_code", 2))
    if is_short_of_memory(error):
        complain("there is not enough memory; end other programs, or take smaller images or fewer workers")
    elif isinstance(error, ImportError) and not (error.name or __package__).startswith(__package__):
        complain(f"a library cannot be loaded ({error}); is a limit on memory too low? 'vitadapt doctor' tells more")
    else:
        raise error
    return 1


def is_short_of_memory(error: BaseException) -> bool:
    """torch says so by a RuntimeError, and so does python of a thread that finds no room for its stack."""
    signs = ("out of memory", "allocate memory", "can't start new thread")
    said = isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    return said or isinstance(error, MemoryError)
