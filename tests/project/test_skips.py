"""On a machine that tests for everybody, a test that is skipped for want of something is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SKIPPING = """
import pytest

def test_one():
    pytest.skip({reason!r})
"""


@pytest.mark.parametrize(
    ("reason", "ci", "status", "processes"),
    [
        ("no Chromium on this machine", "true", 1, ()),
        ("no Chromium on this machine", "true", 1, ("-n", "1")),
        ("no Chromium on this machine", "", 0, ()),
        ("trains no head", "true", 0, ()),
    ],
)
def test_a_skip_for_another_reason_than_the_allowed_fails(
    reason: str,
    ci: str,
    status: int,
    processes: tuple[str, ...],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # for other processes
    pytester.makepyfile(test_skipping=SKIPPING.format(reason=reason))
    run = pytester.runpytest_subprocess if processes else pytester.runpytest_inprocess
    done = run("-p", "conftest", "-p", "no:cacheprovider", "-rs", *processes)
    assert done.ret == status
    done.stdout.fnmatch_lines(f"*{reason}*")
