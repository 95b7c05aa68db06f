"""One thread for every test: sums are then always added in the same order, and tests can run side by side."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import typer.main

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does so for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs that tests start inherit an ignored one
typer.main.get_command = cache(typer.main.get_command)  # to read all commands again takes longer than most of them
os.fsync = lambda _: None  # no file of a test outlives a power cut; thousands of times the disk would be waited for

ALLOWED_SKIPS = re.compile(
    r"takes minutes: make test-faults|opens timm; make test-faults|trains no head|an administrator may read everything"
    r"|no file system can be mounted here|this file system knows UTF-8 names only|tomli is not installed"
    r"|clip-benchmark is not installed|the package is installed here|importing it starts the program"
    r"|(?:mlflow|wandb|trackio) is not installed"
    r"|openvino is not installed|nncf is not installed|executorch is not installed|ONNXRUNTIME_WEB names no"
    r"|TRANSFORMERS_JS names no"
    r"|its own test reads it|torchvision has other filters than Pillow|its settings are on the hub"
)
"""Reasons for which a test may be skipped under CI=true; any other fails the run: something is missing there."""


def unexpected_skips(config: pytest.Config) -> list[str]:
    """The reasons of skipped tests, in all processes, that are not allowed."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or hasattr(config, "workerinput") or reporter is None:
        return []
    reports = [report for report in reporter.stats.get("skipped", []) if not hasattr(report, "wasxfail")]
    return [
        f"{report.nodeid}: {report.longrepr[2]}" for report in reports if not ALLOWED_SKIPS.search(report.longrepr[2])
    ]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported with the tests stays to the end: the garbage collector need not look through it again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if unexpected_skips(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in unexpected_skips(config):
        terminalreporter.write_line(f"SKIPPED WITHOUT PERMISSION (tests/conftest.py) {line}", red=True)


@pytest.fixture(scope="module", autouse=True)
def shared_backbones_stay() -> Iterator[None]:
    """A test that changed one would make another fail, or pass, that happens to run behind it."""
    yield
    if families := sys.modules.get("families"):
        assert not (changed := families.changed_backbones()), f"a test of this file changed the common {changed}"


@pytest.fixture(scope="session")
def native_copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict]]:
    """name -> (a tiny copy in its publisher's layout, made once and not to be changed; the truth about it)."""
    from native_cases import CASES

    made: dict[str, tuple[Path, dict]] = {}

    def copy(name: str) -> tuple[Path, dict]:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            made[name] = root, CASES[name](root)
        return made[name]

    return copy


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def vitadapt(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Done]:
    """The command line in this process: what the console script does, without a new interpreter for every case."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    from vitadapt.cli.main import main

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["vitadapt", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return Done(int(stop.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    from vitadapt.classifier.export.browser import BROWSERS, chromium

    found = chromium()
    if found is None:
        pytest.skip(f"no Chromium on this machine (looked for {', '.join(BROWSERS)})")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
