"""On a machine that tests for everybody, a test that is skipped for want of something is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPING = """
import pytest

def test_one():
    pytest.skip({reason!r})
"""


@pytest.mark.parametrize(
    ("reason", "ci", "status"),
    [("no Chromium on this machine", "true", 1), ("no Chromium on this machine", "", 0), ("trains no head", "true", 0)],
)
@pytest.mark.parametrize("processes", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_a_skip_for_another_reason_than_the_allowed_fails(
    reason: str, ci: str, status: int, processes: list[str], tmp_path: Path
) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING.format(reason=reason))
    line = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-rs", *processes, "."]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == status, done.stdout + done.stderr
    assert reason in done.stdout
