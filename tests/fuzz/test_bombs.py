"""Files that ask for endless memory or time are refused in one line, in a process that has neither."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from bombs import BOMBS

SCRIPT = Path(__file__).with_name("bombs.py")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bombs")
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, check=False)
    lines = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0, f"after {list(lines)}: {done.stderr[-2000:]}"
    assert not list(folder.iterdir())  # nothing was unpacked beside a bomb
    return lines


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_bounded_memory(bomb: str, outcomes: dict[str, str]) -> None:
    refusal = BOMBS[bomb][2]
    assert re.search(refusal, outcomes[bomb]) if refusal else outcomes[bomb] == "read", outcomes[bomb]
    assert not refusal or "bomb" in outcomes[bomb]  # the name of the file
