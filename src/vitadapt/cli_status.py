"""What a command ends with that did not get to its end: an exit status, and one line that says why."""

from __future__ import annotations

import typer

from .cli_options import complain
from .cli_streams import output_status
from .errors import ConfigError, UnknownName, VitadaptError

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
