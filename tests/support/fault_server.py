"""Runs the command line many times from one warm process, each time in a fork of it, with a fault at a chosen step.

A step is anything that touches a file below one of the watched folders: opening, writing, syncing, renaming, removing,
making a folder, opening a database. Steps are counted, so that a fault can be put at every single one of them. A write
counts before anything of it is on disk; a kill or a full disk there leaves the first half of it.

Started as a script it reads one request per line and answers each by one line, both JSON:
{"line": ["run", ...], "folder": cwd, "watch": [...], "fault": NAME, "at": STEP, ...} -> {"status": N, "steps": [...]}
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path

import typer.main

READING, WRITING = "read", "write"
_AUDITED = {"os.rename": "rename", "os.remove": "remove", "os.rmdir": "rmdir", "os.mkdir": "mkdir"}


class Injector:
    """Counts steps, and does the fault when its step comes.

    fault: "" only counts; kill; interrupt (Ctrl-C); full (the disk, from that step on); moment (it is full at that step
    alone); unreadable (that file cannot be read); vanish (the file, or `victim`, is moved away just before the step).
    """

    def __init__(self, request: dict) -> None:
        self.watch = [os.path.realpath(place) for place in request["watch"]]
        self.fault, self.at = request.get("fault", ""), request.get("at", -1)
        self.victim = request.get("victim")
        self.steps: list[tuple[str, str]] = []
        self.log = request.get("log")
        self.mutex = threading.RLock()
        self.busy = threading.local()
        self.process = os.getpid()

    def step(self, kind: str, path: object, half=lambda: None) -> None:
        if isinstance(path, int) or path is None or getattr(self.busy, "now", False) or os.getpid() != self.process:
            return
        full = os.path.abspath(os.fsdecode(path))
        if not any(full == place or full.startswith(place + os.sep) for place in self.watch):
            return
        self.busy.now = True
        try:
            with self.mutex:
                self._step(kind, full, half)
        finally:
            self.busy.now = False

    def _step(self, kind: str, path: str, half) -> None:
        number = len(self.steps)
        self.steps.append((kind, path))
        if number == self.at:
            self._strike(kind, path, half)
        elif self.fault == "full" and number > self.at >= 0 and kind in ("write", "create", "mkdir", "fsync"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def _strike(self, kind: str, path: str, half) -> None:
        if self.fault == "kill":
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        elif self.fault in ("full", "moment") and kind in ("write", "create", "mkdir", "fsync"):
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        elif self.fault == "unreadable" and kind == "read":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        elif self.fault == "vanish":
            victim = self.victim or path
            if os.path.lexists(victim):
                shutil.move(victim, f"{victim}.gone")

    def audit(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            self.step("create" if writes else "read", path)
        elif event in _AUDITED:
            self.step(_AUDITED[event], arguments[0])
        elif event == "sqlite3.connect":
            self.step("database", arguments[0])

    def install(self) -> None:
        plain_open, plain_fsync, injector = io.open, os.fsync, self

        class Raw(io.FileIO):
            def write(self, data):
                injector.step("write", self.name, lambda: super(Raw, self).write(bytes(data)[: len(data) // 2]))
                return super().write(data)

        def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            changes = mode == "r+b" or (set(mode) & set("wax") and "+" not in mode)
            if not changes or isinstance(file, int) or opener or not closefd:
                return plain_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = Raw(file, mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

        def fsync(descriptor):
            self.step("fsync", os.readlink(f"/proc/self/fd/{descriptor}") if os.path.isdir("/proc/self/fd") else None)
            plain_fsync(descriptor)

        builtins.open = io.open = opened
        os.fsync = fsync
        sys.addaudithook(self.audit)


def drop_privileges() -> None:
    """Root ignores the modes of files; without these two capabilities it does not."""
    import ctypes

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for i in (0, 1, 2):
        sets[i] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def child(request: dict) -> int:
    """The command line with the fault -> its exit status; what it says goes to `out` and `err`."""
    for number, name in ((1, "out"), (2, "err")):
        target = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, number)
    os.chdir(request["folder"])
    os.setsid()
    os.environ.update(request.get("environment", {}))
    sys.argv = ["vitadapt", *request["line"]]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for statement in request.get("before", ()):
        exec(statement, {})  # noqa: S102 - from the tests: shorter intervals, another clock
    if request.get("modes"):
        drop_privileges()
    injector = Injector(request)
    injector.install()
    from vitadapt.__main__ import start

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        start()
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:  # noqa: BLE001 - what python itself would print
        traceback.print_exc()
        status = 70
    injector.watch = []
    if injector.log:
        draft = Path(f"{injector.log}.half")
        draft.write_text(json.dumps(injector.steps))
        draft.replace(injector.log)  # a kill may come even now
    return status


def run(request: dict) -> dict:
    if "wait" in request:
        return _ended(request["wait"])
    process = os.fork()
    if process == 0:
        status = 71
        try:
            status = child(request)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    limit = request.get("send")  # (signal, seconds): at a random moment instead of a step
    if limit:
        _send(process, *limit)
    return {"process": process} if request.get("meanwhile") else _ended(process)


def _ended(process: int) -> dict:
    _, code = os.waitpid(process, 0)
    return {"status": os.waitstatus_to_exitcode(code)}


def _send(process: int, number: int, seconds: float) -> None:
    import time

    time.sleep(seconds)
    os.kill(process, number)


def serve() -> None:
    for name in ("vitadapt.__main__", *sys.argv[1:]):
        __import__(name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    from vitadapt.cli.main import app

    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(app)  # every command would read all of them again
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
