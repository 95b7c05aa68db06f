"""`python -m vitadapt`, and the script of that name: the command line, interruptible from its first import on."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

INTERRUPTED = 130


def start() -> NoReturn:
    """Exit status as `cli.main`. Ctrl-C outside of a command, as while modules are imported, ends in one line, too."""
    # Threads that wait sleep: on a busy machine threads that spin take several times the time. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from .cli.main import main

        main()
    except KeyboardInterrupt:
        print("vitadapt: interrupted; the same command goes on from there", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done: nothing is left to interrupt


if __name__ == "__main__":
    start()
