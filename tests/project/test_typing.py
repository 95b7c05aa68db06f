"""The public names have types that somebody else's strictly checked program can rely on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import vitadapt as va

ROOT = Path(__file__).parents[2]
CONSUMER = ROOT / "tests" / "support" / "typed_consumer.py"
CACHE = ROOT / ".mypy_cache" / "consumer"  # libraries are read once; a program is checked in a second then
CONFIG = "[mypy]\nstrict = true\npython_version = 3.11\n"  # nothing is excused; 3.11 for typing.assert_type


def checked(folder: Path, program: str) -> str:
    """What mypy prints about a program in `folder`, where it knows the package as it is installed only."""
    (folder / "strict.ini").write_text(CONFIG)
    (folder / CONSUMER.name).write_text(program)
    command = [sys.executable, "-m", "mypy", "--config-file", "strict.ini", "--cache-dir", CACHE, CONSUMER.name]
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600).stdout


def test_an_outside_program_that_uses_everything_is_typed_strictly(tmp_path: Path) -> None:
    program = CONSUMER.read_text("utf-8")
    assert checked(tmp_path, program).startswith("Success")
    loosened = program.replace("float | None)", "Any)").replace("-> va.Dataset:", "-> va.Record:")
    output = checked(tmp_path, loosened)
    assert "[assert-type]" in output and "[return-value]" in output and "Found 2 errors" in output


def test_the_program_uses_every_public_name() -> None:
    used = set(re.findall(r"\bva\.(\w+)", CONSUMER.read_text("utf-8")))
    assert set(va.__all__) - used == set()
