"""The standard streams as they may come: closed, in an encoding that lacks letters, or with nobody at the other end."""

from __future__ import annotations

import io
import os
import sys

from .cli_options import complain

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


def output_status(error: OSError | SystemExit) -> int:
    """The exit status when `error` was about the standard output: its reader left, or its disk is full.

    What was not written is dropped. Raises `error` again when it was about something else.
    """
    lost = _lost()
    if isinstance(lost, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return CUT_OFF
    if lost is None:
        raise error
    complain(f"the output cannot be written ({lost.strerror})")
    return 1


def _lost() -> OSError | None:
    """Why nothing can be written; the stream leads nowhere then, so that nothing is said about it again at the end."""
    try:
        print(flush=True)  # the text that failed is forgotten, and flushing alone would succeed
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None
