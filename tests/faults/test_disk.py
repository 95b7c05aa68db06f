"""A disk that fills up, files that may not be read or are gone: one line says so, and the next run goes on.

One step of one command here, some with VITADAPT_KILLS=12, many of all commands in `make test-faults`.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fault_cases import KILLS, SCENARIOS, SHORT, TASTE, Workplace, litter, prepared, spread, table, with_forks

pytestmark = with_forks

NAMES = ("benching",) if TASTE else ("training",) if KILLS <= SHORT else tuple(SCENARIOS)
EACH = 1 if TASTE else 3 if KILLS <= SHORT else KILLS // 60
PASSING = ("cache", "runs/trials", "runs/checkpoints", "runs/locks")  # what only saves time, or is soon over
WRITES = ("write", "create", "mkdir", "fsync")


@pytest.mark.parametrize("fault", ["full", "moment"])
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_told_in_one_line_and_nothing_half_written_stays(name, fault):
    case = prepared(name)
    writes = [at for at, (kind, _) in enumerate(case.steps) if kind in WRITES]
    for at in spread(EACH, writes, random.Random(name)):
        place = case.copy()
        where = (name, fault, at, case.steps[at])
        recorded = place.records()
        done = place.call(case.scenario, fault=fault, at=at)
        assert done.status in (0, 1), (where, done.err)
        assert done.status == 0 or done.other_complaints(case.complaints), (
            where,
            done.err,
        )  # 0: what only saves time was done without
        assert done.status == 0 or any(word in done.err for word in ("full", "no room", "No space")), (where, done.err)
        assert [path for path in litter(place.folder) if ".unfinished" not in path] == [], where
        place.check_halfway()
        case.check_done(place, where, recorded)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_cannot_be_read_is_named_or_made_again(name):
    case = prepared(name)
    reads = [at for at, (kind, _) in enumerate(case.steps) if kind == "read"]
    for at in spread(EACH, reads, random.Random(name)):
        place = case.copy()
        where = (name, at, case.steps[at])
        done = place.call(case.scenario, fault="unreadable", at=at)
        assert done.status == 0 or (done.status in (1, 2) and done.other_complaints(case.complaints)), (where, done.err)
        place.check_halfway()
        case.check_done(place, where)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_vanishes_half_way_is_named_or_made_again(name):
    case = prepared(name)
    reads = [at for at, (kind, _) in enumerate(case.steps) if kind == "read"]
    for at in spread(EACH, reads, random.Random(f"{name} gone")):
        place = case.copy()
        where = (name, at, case.steps[at])
        done = place.call(case.scenario, fault="vanish", at=at)
        assert done.status == 0 or (done.status in (1, 2) and done.other_complaints(case.complaints)), (where, done.err)
        lost = given_back(place)
        place.check_halfway()
        if name == "benching" and "photos" in where[2][1] and done.status:  # others may have run without that image
            again = place.call(case.scenario)
            remark = re.search(r"photos: (tested on 9 and 10 images|. of 2 draws of training images differ)", again.out)
            assert again.status == 0 and (remark or table(again.out) == case.wanted["said"]), (where, again.out)
        else:
            case.check_done(place, where, lost=lost)


def given_back(place: Workplace) -> str:
    """What went comes back when it was the user's or had been finished, beside what was made anew meanwhile.

    Else it is lost -> its name; the command makes it again if it still needs it.
    """
    for gone in place.folder.rglob("*.gone"):
        there, name = gone.with_suffix(""), gone.with_suffix("").relative_to(place.folder)
        drafted = any(part.startswith(".") for part in name.parts)
        if drafted or (len(name.parts) > 1 and str(name).startswith(PASSING)):
            remove(gone)
            return str(name)
        if gone.is_dir() and there.exists():
            shutil.copytree(there, gone, dirs_exist_ok=True)
            remove(there)
        remove(gone) if there.exists() else gone.rename(there)
    return ""


def test_an_image_that_goes_between_two_cells_is_told_below_the_table():
    case = prepared("benching")
    place = case.copy()
    assert place.call(case.scenario, (*case.scenario.line, "--only", "method=lora")).status == 0
    for image in (place.folder / "photos/train/dark").glob("[0-2].png"):
        image.unlink()
    done = place.call(case.scenario)
    assert done.status == 0 and "photos: 2 of 2 draws of training images differ between methods" in done.out, done.out
    shown = place.call(case.scenario, ("results", "runs"))
    assert "2 of 2 draws of training images differ" in shown.out, shown.out


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_disk_that_is_really_full(tmp_path):
    """A file system of four megabytes, where such a thing may be made."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], capture_output=True, check=False
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        case = prepared("benching")
        place: Workplace = case.before.copy(small / "place", notes=tmp_path)
        ballast = small / "ballast"
        with contextlib.suppress(OSError):
            ballast.write_bytes(bytes(4 << 20))
        done = place.call(case.scenario)
        assert done.status == 1 and "Traceback" not in done.err and "full" in done.err, done.err
        place.check_halfway()
        assert litter(place.folder) == []
        ballast.unlink()
        done = place.call(case.scenario)
        assert (done.status, done.complaints) == (0, [])
        assert {"said": case.wanted["said"], **place.left(case.scenario)} == case.wanted
    finally:
        subprocess.run(["umount", small], check=True)
