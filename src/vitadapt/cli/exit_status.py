"""How the command line ends: its exit status, and one line for whatever went wrong."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import typer

from ..utils.errors import ConfigError, UnknownName, VitadaptError
from .output import complain

INTERRUPTED = 130
CUT_OFF = 141
"""When the reader of the output has closed it, which is no mistake."""


def prepare_streams() -> None:
    """Letters that the encoding of an output lacks are written as escapes; a lost error output ends no work."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        raw = io.BufferedWriter(_LossyFile(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, sys.stderr.encoding, "backslashreplace", line_buffering=True)


class _LossyFile(io.FileIO):
    """A file that drops what it cannot take, as when its disk is full or its reader has left."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def exit_status(error: BaseException) -> int:
    """1 failed, 2 wrong usage, 130 interrupted, 141 without a reader. Raises `error` again when it is a bug."""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED
    if isinstance(error, VitadaptError):
        complain(*str(error).split("\n"))  # such an error is printable itself, and may end in an indented list
        return 2 if isinstance(error, (UnknownName, ConfigError)) else 1
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        _drop_output()  # click and rich turn a broken pipe into SystemExit, hence the context
        return CUT_OFF
    if isinstance(error, OSError) and error.strerror:
        complain(f"{error.filename or 'writing'}: {error.strerror}; mend that, then run the same command again")
        if error.filename is None:
            _drop_output()
        return 1
    if message := getattr(error, "format_message", None):  # a usage error of click
        path = getattr(getattr(error, "ctx", None), "command_path", "vitadapt")
        if text := message().strip().rstrip("."):  # empty where the help was printed instead
            complain(f"{text}; see '{path} --help'")
        return 2
    if is_short_of_memory(error):
        complain("there is not enough memory; close other programs, or use smaller images or fewer workers")
        return 1
    if isinstance(error, ImportError) and not (error.name or __package__).startswith(__package__):
        complain(f"a library cannot be loaded ({error}); is a limit on memory too low? Try 'vitadapt doctor'")
        return 1
    raise error


def _drop_output() -> None:
    """Python flushes the standard output once more at its end; that must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_short_of_memory(error: BaseException) -> bool:
    """torch and Python report it by a RuntimeError without a type of its own, so that only the words tell."""
    signs = ("out of memory", "allocate memory", "can't start new thread")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )
