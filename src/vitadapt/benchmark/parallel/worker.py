"""The life of a worker process: it takes its place, then cells one by one, and does not outlive its parent."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from .placement import Place

QUIET = 0.2  # seconds between two messages about the same stage of a cell


def work(connection: Connection, place: Place) -> None:
    """Send "ready", then receive configurations and send what became of each, until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_follow_parent, daemon=True).start()
    place.take()
    import torch

    from ..results.store import Store
    from .executor import attempt

    torch.set_num_threads(place.threads)
    root, environment = connection.recv()
    setting = replace(environment.setting, progress=Reporter(connection))
    environment = replace(environment, setting=setting)
    connection.send("ready")
    while True:
        try:
            config = connection.recv()
        except EOFError:
            return
        connection.send(attempt(config, Store(root), environment))


class Reporter:
    """Progress as messages (label, done, total), so few that nobody is kept busy by them."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.label, self.last = connection, "", 0.0

    def __call__(self, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if label == self.label and now - self.last < QUIET:
            return
        self.label, self.last = label, now
        self.connection.send((label, done, total))


def _follow_parent() -> None:
    """A parent that was killed cannot stop its workers. What is half-written is never looked at, so leaving is safe."""
    parent: Any = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
