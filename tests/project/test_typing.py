"""The public names have types that somebody else's strictly checked program can rely on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import vitadapt as va
from vitadapt.utils.files import parse_toml

ROOT = Path(__file__).parents[2]
CONSUMER = ROOT / "tests" / "support" / "typed_consumer.py"
CACHE = ROOT / ".mypy_cache" / "consumer"  # libraries are read once; a program is checked in a second then
SKIPPED = next(
    row["module"]
    for row in parse_toml((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]["overrides"]
    if row["follow_imports"] == "skip"
)
"""Libraries, and parts of torch, of which no public type is made: reading them takes most of the time."""
CONFIG = f"""
[mypy]
strict = true
python_version = 3.11
[{",".join(f"mypy-{module}" for module in SKIPPED)}]
follow_imports = skip
ignore_missing_imports = true
"""  # nothing else is excused; 3.11 for typing.assert_type


def checked(folder: Path, **programs: str) -> str:
    """What mypy prints about programs in `folder`, where it knows the package as it is installed only."""
    (folder / "strict.ini").write_text(CONFIG)
    for name, text in programs.items():
        (folder / f"{name}.py").write_text(text)
    files = [f"{name}.py" for name in programs]
    command = [sys.executable, "-m", "mypy", "--config-file", "strict.ini", "--cache-dir", CACHE, *files]
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600).stdout


def test_an_outside_program_that_uses_everything_is_typed_strictly(tmp_path: Path) -> None:
    program = CONSUMER.read_text("utf-8")
    loosened = program.replace("float | None)", "Any)").replace("-> va.Dataset:", "-> va.Record:")
    output = checked(tmp_path, program=program, loosened=loosened)
    assert "Found 2 errors in 1 file (checked 2 source files)" in output, output
    found = re.findall(r"^loosened\.py:\d+: error: .*\[(assert-type|return-value)\]", output, re.MULTILINE)
    assert sorted(found) == ["assert-type", "return-value"]


def test_the_program_uses_every_public_name() -> None:
    used = set(re.findall(r"\bva\.(\w+)", CONSUMER.read_text("utf-8")))
    assert set(va.__all__) - used == set()
