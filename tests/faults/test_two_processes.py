"""Company and weather: two benches in one store, a sleeping one, Ctrl-C, clocks, stale locks, stores that go away."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_cases import (
    KILLS,
    SCENARIOS,
    SHORT,
    Prepared,
    Workplace,
    check_store,
    litter,
    long_form,
    prepared,
    spread,
    until,
    with_forks,
)

from vitadapt.benchmark.results.store import Store

pytestmark = with_forks

INTERRUPTS = 4 if KILLS <= SHORT else KILLS // 30
INTERRUPTED = ("training",) if KILLS <= SHORT else tuple(SCENARIOS)


def started(place: Workplace, *more: str) -> subprocess.Popen:
    """A bench as a person starts it, in a process of its own."""
    line = [sys.executable, "-m", "vitadapt.cli.main", *SCENARIOS["benching"].line, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        line, cwd=place.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def check_bench(case: Prepared, place: Workplace, recorded: dict[Path, bytes]) -> None:
    check_store(Store(place.folder / "runs"))
    case.check_done(place, "bench", recorded)


@long_form
def test_two_benches_in_one_store_share_the_work_and_a_sleeping_one_spoils_nothing():
    """The first is stopped in the middle of a cell, for as long as the second needs for all others."""
    case = prepared("benching")
    place = case.copy()
    records, locks = place.folder / "runs" / "records", place.folder / "runs" / "locks"
    before = len(list(records.glob("*.json")))
    first = started(place)
    until(lambda: len(list(records.glob("*.json"))) > before or first.poll() is not None)
    first.send_signal(signal.SIGSTOP)
    second = started(place)
    time.sleep(0.5)
    total = before + 6
    held = [path for path in locks.glob("*.lock") if not (records / f"{path.stem}.json").exists()]
    until(lambda: len(list(records.glob("*.json"))) >= total - len(held) or second.poll() is not None)
    recorded = place.records()
    first.send_signal(signal.SIGCONT)
    output = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], output
    assert len(list(records.glob("*.json"))) == total
    check_bench(case, place, recorded)


def test_a_sleeper_whose_lock_was_taken_away_does_not_overwrite_what_others_finished():
    """Somebody removed the locks: the cell is run twice, and the record of the first to finish stays."""
    case = prepared("training")
    place = case.copy()
    pause = next(at for at, (kind, path) in enumerate(case.steps) if "predictions" in path)
    held = "import os, signal, vitadapt.benchmark.runner as r; inner = r.adapter_bytes\n"
    held += "def asleep(*a):\n    os.kill(os.getpid(), signal.SIGSTOP)\n    return inner(*a)\nr.adapter_bytes = asleep"
    assert pause
    sleeper = place.start(case.scenario, before=[*case.scenario.before, held])
    until(lambda: place.is_stopped(sleeper))
    shutil.rmtree(place.folder / "runs" / "locks")
    assert place.call(case.scenario).status == 0
    recorded = place.records()
    os.kill(sleeper, signal.SIGCONT)
    assert place.wait(sleeper).status == 0
    assert place.records() == recorded
    case.check_done(place, "slept", recorded)


@long_form
@pytest.mark.parametrize("name", INTERRUPTED)
def test_ctrl_c_ends_in_one_line_and_status_130(name):
    case, chance = prepared(name), random.Random(name)
    faults = [{"fault": "interrupt", "at": at} for at in spread(INTERRUPTS // 2, range(len(case.steps)), chance)]
    faults += [{"send": (signal.SIGINT, chance.uniform(0.05, case.seconds))} for _ in range(INTERRUPTS // 2)]
    for fault in faults:
        place = case.copy()
        recorded = place.records()
        done = place.call(case.scenario, **fault)
        where = (name, fault, case.steps[fault["at"]] if "at" in fault else "")
        if done.status != 0:
            assert done.status == 130 and done.is_one_line(case.complaints), (where, done.status, done.err)
            assert "interrupted" in done.complaints[-1], where
        place.check_halfway()
        case.check_done(place, where, recorded)


@long_form
@pytest.mark.parametrize("moment", [0.02, 0.15, 0.4, 0.8] if KILLS > SHORT else [0.15])
def test_ctrl_c_while_python_is_still_importing_shows_no_trace(moment, tmp_path):
    line = [sys.executable, "-m", "vitadapt", "list", "recipes"]
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: "vitadapt" in Path(f"/proc/{process.pid}/cmdline").read_text() or process.poll() is not None)
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    if "Traceback" not in output:
        assert process.returncode in (0, 130, -signal.SIGINT), output
    assert "Traceback" not in output or ", in start\n" not in output, output  # python's own, before `start`


def test_files_from_the_future_and_a_clock_that_goes_back_change_nothing():
    case = prepared("benching")
    place = case.copy(done=True)
    for path in place.folder.rglob("*"):
        if path.is_file():
            os.utime(path, (4e9, 4e9))
    back = "import time; now = time.time; time.time = lambda: now() - 1e9"
    recorded = place.records()
    done = place.call(case.scenario, before=[*case.scenario.before, back])
    assert (done.status, done.complaints) == (0, []) and place.records() == recorded
    case.check_done(place, "clock", recorded)


@long_form
def test_locks_that_a_dead_process_left_hold_nobody_up():
    case = prepared("recording")
    place = case.copy()
    place.call(case.scenario, fault="kill", at=len(case.steps) // 2)
    locks = [*(place.folder / "runs" / "locks").glob("*.lock"), *(place.folder / "cache").rglob("*.lock")]
    for name in ("runs/locks", "cache/features"):
        stale = place.folder / name / "0123456789abcdef.lock"
        stale.parent.mkdir(parents=True, exist_ok=True)
        stale.write_text("99999")
    assert locks
    case.check_done(place, "locks", killed=True)


def test_a_store_that_one_may_only_read_is_read_and_named():
    case = prepared("benching")
    place = case.copy(done=True)
    folders = [path for path in (place.folder / "runs").rglob("*") if path.is_dir()]
    for folder in (place.folder / "runs", *folders):
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        read = place.call(case.scenario, ("results", "runs"), modes=True)
        assert (read.status, read.complaints) == (0, []) and "lora" in read.out
        again = place.call(case.scenario, modes=True)
        assert again.status == 0, again.err  # everything is recorded: nothing is to be written
        more = place.call(case.scenario, (*SCENARIOS["recording"].line, "--seed", "7"), modes=True)
        assert more.status == 1 and more.is_one_line() and "runs" in more.err, more.err
    finally:
        for folder in (place.folder / "runs", *folders):
            folder.chmod(stat.S_IRWXU)
    case.check_done(place, "read-only")


def test_a_record_that_one_may_not_read_is_named_and_not_overwritten():
    case = prepared("benching")
    place = case.copy(done=True)
    record = sorted((place.folder / "runs" / "records").glob("*.json"))[0]
    record.chmod(0)
    try:
        for line in (case.scenario.line, ("results", "runs")):
            done = place.call(case.scenario, line, modes=True)
            assert done.is_one_line() and record.name in done.err, done.err
    finally:
        record.chmod(0o600)
    case.check_done(place, "unreadable record")


@long_form
def test_a_store_that_goes_away_half_way_costs_what_was_in_it_and_no_more():
    case = prepared("benching")
    steps = [at for at, (kind, path) in enumerate(case.steps) if "/runs/" in path and kind in ("create", "rename")]
    for at in spread(3 if KILLS <= SHORT else 20, steps, random.Random(0)):
        place = case.copy()
        done = place.call(case.scenario, fault="vanish", at=at, victim=str(place.folder / "runs"))
        assert done.status in (0, 1) and "Traceback" not in done.err, (at, done.err)
        place.check_halfway()
        gone = place.folder / "runs.gone"
        if (place.folder / "runs").exists():
            shutil.rmtree(place.folder / "runs")
        gone.rename(place.folder / "runs")
        case.check_done(place, (at, case.steps[at]))
    assert json.dumps(litter(case.after.folder)) == "[]"
