"""A scratch folder goes with its process: at once when it ends, and with the next one when it was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vitadapt.utils.errors import StorageError
from vitadapt.utils.locks import ScratchFolder

PROGRAM = """
import sys, time
from vitadapt.utils.scratch import ScratchFolder
folder = ScratchFolder("test")
(folder.path / "file").write_text("x")
print(folder.path, flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def process(seconds: float) -> tuple[subprocess.Popen[str], Path]:
    started = subprocess.Popen([sys.executable, "-c", PROGRAM, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert started.stdout
    return started, Path(started.stdout.readline().strip())


def test_a_folder_goes_when_it_is_closed_forgotten_or_its_process_ends(above: Path) -> None:
    closed, forgotten = ScratchFolder("test"), ScratchFolder("test")
    assert above in closed.path.parents and closed.path != forgotten.path
    assert not list(closed.path.iterdir())
    closed.close()
    assert not closed.path.exists() and forgotten.path.exists()
    del forgotten
    ended, path = process(0)
    assert ended.wait(60) == 0
    ended.stdout.close()  # type: ignore[union-attr]
    assert not path.exists() and not list(above.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_folder_and_what_a_living_one_has_stays(above: Path) -> None:
    killed, abandoned = process(600)
    living, kept = process(600)
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait(60)
        assert (abandoned / "file").exists()
        other = ScratchFolder("other")
        assert abandoned.exists()  # of another purpose
        ours = ScratchFolder("test")
        assert not abandoned.exists() and (kept / "file").exists() and ours.path.exists() and other.path.exists()
    finally:
        living.kill()
        living.wait(60)
        for each in (killed, living):
            each.stdout.close()  # type: ignore[union-attr]


def test_no_room_for_a_folder_is_told_with_the_remedy(above: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(above / "missing"))
    with pytest.raises(StorageError, match=r"no temporary folder can be made \(No such file.*TMPDIR"):
        ScratchFolder("test")
