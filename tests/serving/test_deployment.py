"""What docs/server.md gives to copy: a unit of systemd and a Dockerfile."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from vitadapt.cli.serve import app

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")


def block(language):
    """The one block of the page in this language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return text


def known_options():
    return {name for option in typer.main.get_command(app).params for name in option.opts}


def test_the_unit_is_complete_and_holds_no_secret():
    unit = block("ini")
    assert re.findall(r"^\[(\w+)\]", unit, re.MULTILINE) == ["Unit", "Service", "Install"]
    assert "WantedBy=multi-user.target" in unit and "EnvironmentFile=" in unit and "TOKEN" not in unit
    assert re.search("^StateDirectory=", unit, re.MULTILINE) and "XDG_CACHE_HOME=%S/" in unit
    command = shlex.split(re.search("^ExecStart=(.*)$", unit, re.MULTILINE).group(1))
    assert command[1] == "serve" and {word for word in command if word.startswith("--")} <= known_options()


def test_systemd_accepts_the_unit(tmp_path):
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("no systemd on this machine")
    path = tmp_path / "vitadapt.service"
    path.write_text(block("ini").replace("/opt/vitadapt/bin/vitadapt", sys.executable))
    done = subprocess.run([verify, "verify", "--man=no", path], capture_output=True, text=True, timeout=120)
    about_ours = [line for line in done.stderr.splitlines() if "vitadapt" in line]
    assert not about_ours and (done.returncode == 0 or not done.stderr.strip()), done.stderr


def test_the_image_is_for_a_cpu_and_not_for_root():
    lines = block("dockerfile").splitlines()
    words = [line.split()[0] for line in lines]
    assert "download.pytorch.org/whl/cpu" in lines[1] and "TOKEN" not in block("dockerfile")
    assert words.index("USER") < words.index("CMD") and lines[words.index("USER")] != "USER root"
    options = {word for word in re.findall(r'"([^"]+)"', lines[-1]) if word.startswith("--")}
    assert options and options <= known_options()
