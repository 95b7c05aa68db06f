"""kill -9 of a benchmark and of its workers, at random moments: nothing is lost, nothing doubled, nobody stays behind.

Twenty times, by `make test-faults` alone. Whole processes, started as a person starts them, with workers of their own:
test_kill.py kills more often, and at every kind of step, what one process does.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from fanout_cases import cells, leftovers, make_photos, recipe_file, results
from fault_cases import long_form

from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.sweep import run_bench
from vitadapt.training.features import Environment

KILLS = max(3, int(os.environ.get("VITADAPT_KILLS", "0")) // 12)
SEEDS = 2 * KILLS
PATIENCE = 120.0  # seconds; only ever waited for when something is broken


def group(leader: int) -> list[int]:
    """The living processes of a process group, the leader first."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, of_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_group) == leader and state != "Z":
            members.append(int(folder.name))
    return sorted(members)


def until(true, process=None):
    limit = time.monotonic() + PATIENCE
    while not true() and (process is None or process.poll() is None):
        assert time.monotonic() < limit
        time.sleep(0.02)


def records(store):
    return {path: path.read_bytes() for path in (store.root / "records").glob("*.json")}


def cut(line, store, chance):
    """Start the benchmark and kill it, or one of its workers, at a random moment -> whether it was still running."""
    before = len(records(store))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        line, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if chance.random() < 0.75:  # with cells half-way; else somewhere in the start
        until(lambda: len(records(store)) > before, process)
    time.sleep(chance.uniform(0, 0.5))
    running = process.poll() is None
    workers = [pid for pid in group(process.pid) if pid != process.pid]
    if running and workers and chance.random() < 0.3:
        os.kill(chance.choice(workers), signal.SIGKILL)
        time.sleep(chance.uniform(0, 0.5))
    process.kill()
    process.wait()
    until(lambda: not group(process.pid))
    return running


@long_form
def test_a_benchmark_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path):
    photos, store = make_photos(tmp_path / "photos"), Store(tmp_path / "runs")
    recipe, chance = recipe_file(tmp_path / "b.toml", photos, SEEDS, epochs=8), random.Random(0)
    line = [
        sys.executable,
        "-m",
        "vitadapt.cli.main",
        "bench",
        recipe,
        "--out",
        store.root,
        "--cache",
        tmp_path / "cache",
    ]
    recorded, cuts = {}, 0
    for kill in range(KILLS):
        cuts += cut([*map(str, line), "--workers", str(1 + kill % 2)], store, chance)
        now = records(store)
        assert store.records()[1] == [] if now else True
        assert all(now[path] == data for path, data in recorded.items())
        recorded = now
    assert cuts >= KILLS / 2
    print(f"benches with workers: {cuts} kills")
    configs, whole = cells(photos, SEEDS, epochs=8), Store(tmp_path / "whole")
    assert all(outcome.record for outcome in run_bench(configs, store, Environment()))
    assert all(outcome.record for outcome in run_bench(configs, whole, Environment()))
    assert all(records(store)[path] == data for path, data in recorded.items())
    assert {path.stem for path in records(store)} == {config.digest() for config in configs}
    assert results(store) == results(whole) and leftovers(store) == []
