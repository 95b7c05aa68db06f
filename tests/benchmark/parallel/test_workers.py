"""Cells that run side by side: each once, the same bytes as one after the other, whoever dies on the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from fanout_cases import cells, leftovers, make_photos, recipe_file, results
from fault_cases import long_form

from vitadapt.benchmark.parallel.executor import ATTEMPTS, take_cells
from vitadapt.benchmark.parallel.processes import in_workers
from vitadapt.benchmark.parallel.watch import Outcome, Watch
from vitadapt.benchmark.parallel.worker import gpus_of, places
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.sweep import executor_for, expand, run_bench, shard
from vitadapt.training.features import Environment
from vitadapt.utils.errors import ConfigError, StorageError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("fanout") / "photos")


@pytest.fixture(scope="module")
def serial(tmp_path_factory, photos):
    """A store in which `cells(photos)` were run one after the other."""
    store = Store(tmp_path_factory.mktemp("serial"))
    assert all(outcome.record for outcome in run_bench(cells(photos), store, Environment()))
    return store


def one_worker(*parts):
    """A new process costs seconds; two of them at work: tests/project/test_determinism.py."""
    return in_workers(*parts, places(1, threads=1))


class Kills(Watch):
    """Kills the workers of this process when it hears of the chosen cell, `times` times."""

    def __init__(self, victim, times):
        self.victim, self.times, self.stops, self.ends = victim, times, [], []

    def advanced(self, config, label, done, total):
        if config == self.victim and self.times:
            self.times -= 1
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    def stopped(self, config, why):
        self.stops.append((config, why))

    def finished(self, outcome):
        self.ends.append(outcome.config)


# ------------------------------------------------------------------------------------------------------------- shards


def grid():
    methods = ["lora", "bitfit", "linear-probe"]
    return expand(
        {
            "backbone": ["random:tiny", "random:clip-vit-b32"],
            "dataset": ["digits", "mnist-5k"],
            "method": methods,
            "seed": [0, 1, 2],
        }
    )


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 7, 36, 50])
def test_shards_are_all_cells_each_once_and_equally_many(parts):
    split = [shard(grid(), f"{i}/{parts}") for i in range(1, parts + 1)]
    together = [config.digest() for part in split for config in part]
    assert sorted(together) == sorted(config.digest() for config in grid())
    assert len(set(together)) == len(together)
    assert max(map(len, split)) - min(map(len, split)) <= 1


def test_shards_keep_shared_images_and_weights_together():
    for part in (shard(grid(), f"{i}/4") for i in range(1, 5)):
        assert len({(config.dataset, config.backbone) for config in part}) == 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/2/3", "1.0/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="i/n"):
        shard(grid(), text)


# ------------------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize(("workers", "cores"), [(1, 8), (2, 8), (3, 8), (8, 8), (5, 2)])
def test_workers_have_equal_threads_and_cores_of_their_own(workers, cores, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shares = places(workers, cores=range(cores))
    assert len(shares) == workers and len({share.threads for share in shares}) == 1
    taken = Counter(core for share in shares for core in share.cores)
    assert set(taken.values()) <= {1}
    if workers <= cores:
        assert all(len(share.cores) == share.threads == cores // workers for share in shares)
    else:  # nobody is pinned where there is less than a core for each
        assert not taken and shares[0].threads == 1


def test_more_workers_than_gpus_are_packed_evenly(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert gpus_of("cuda") == ["4", "GPU-7"] and gpus_of("cuda:1") == ["GPU-7"] and gpus_of("cpu") == []
    packed = Counter(share.gpu for share in places(5, gpus=gpus_of("cuda"), cores=range(8)))
    assert packed == {"4": 3, "GPU-7": 2}


def test_a_smaller_number_of_threads_that_is_asked_for_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert places(2, cores=range(16))[0].threads == 2
    assert places(2, threads=3, cores=range(7))[1].cores == (3, 4, 5)


def test_workers_that_leave_room_for_a_neighbour_are_not_pinned():
    assert not any(share.cores for share in places(4, threads=2, cores=range(16)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers"),
        ({"workers": 2, "threads": 0}, "threads"),
        ({"workers": 2, "ray": "local"}, "exclude"),
        ({"gpus_per_cell": 0.5}, "--ray"),
        ({"ray": "local", "gpus_per_cell": 1.5}, "part of one GPU"),
        ({"ray": "local", "threads": 0}, "threads"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        executor_for(**options)


# ----------------------------------------------------------------------------------------------------------- schedule


class Starts(Watch):
    """Remembers which cells began, and what was noted."""

    def __init__(self):
        self.configs, self.notes = [], []

    def started(self, config):
        self.configs.append(config)

    def note(self, text):
        self.notes.append(text)


def fresh(configs):
    return bytearray([ATTEMPTS] * len(configs))


def test_a_cell_whose_worker_dies_has_an_attempt_less_and_none_is_tried_for_ever(tmp_path, photos):
    store, configs, watch = Store(tmp_path), cells(photos, seeds=1), Starts()
    left = fresh(configs)
    for _ in range(ATTEMPTS):  # a worker that dies lets go of the lock, and has not noted an end
        next(take_cells(configs[:1], store, Environment(), watch, left))
        store.discard(configs[0].digest())
    outcomes = list(take_cells(configs, store, Environment(), watch, left))
    assert [outcome.config for outcome in outcomes] == configs[1:] and all(outcome.record for outcome in outcomes)
    assert Counter(watch.configs) == {configs[0]: ATTEMPTS, configs[1]: 1, configs[2]: 1}
    assert not any(left)


def test_a_cell_that_failed_is_not_run_by_the_other_workers_of_the_same_call(tmp_path, photos):
    (broken, well), store, watch = cells(photos, seeds=1)[:2], Store(tmp_path / "runs"), Starts()
    broken = replace(broken, dataset=str(tmp_path / "gone"))
    left = fresh([broken, well])
    first, second = (take_cells([broken, well], store, Environment(), watch, left) for _ in range(2))
    assert next(first).failure and next(first).record  # it asks for the next cell after the end of the one before
    first.close()
    store.discard(well.digest())
    assert [outcome.config for outcome in second] == [well]
    assert watch.configs == [broken, well, well]
    assert run_bench([broken], store, Environment(), watch)[0].failure and watch.configs[-1] == broken  # the next call


def test_a_cell_that_another_process_runs_is_left_for_the_end_and_never_run_twice(tmp_path, photos, serial):
    store, configs, watch, outcomes = Store(tmp_path), cells(photos), Starts(), []
    held = configs[0]
    with store.lock(held.digest()):
        others = take_cells(configs, store, Environment(), watch, fresh(configs))
        while len(outcomes) < len(configs) - 1:
            outcomes.append(next(others))
        store.accept(held.digest(), serial.export(held.digest()))  # the other process has finished it
    outcomes += others
    assert outcomes[-1].config == held
    assert Counter(outcome.config.digest() for outcome in outcomes) == {c.digest(): 1 for c in configs}
    assert results(store) == results(serial)


def test_a_recorded_cell_is_read_once_and_a_cell_that_is_given_twice_runs_once(tmp_path, photos, serial):
    class Counting(Store):
        def __init__(self, root):
            super().__init__(root)
            self.read_paths = Counter()

        def read(self, path):
            self.read_paths[path.name] += path.exists()
            return super().read(path)

    store, configs = Counting(serial.root), cells(photos)
    outcomes = run_bench([*configs, *configs], store, Environment())
    assert [outcome.config for outcome in outcomes] == [*configs, *configs]
    assert not any(outcome.fresh for outcome in outcomes)
    assert set(store.read_paths.values()) == {1} and len(store.read_paths) == len(configs)
    watch = Starts()
    run_bench([configs[0], configs[0]], Store(tmp_path), Environment(), watch)
    assert watch.configs == [configs[0]]


@pytest.mark.parametrize("kind", ["records", "predictions", "adapters"])
def test_files_that_were_damaged_on_their_way_are_not_kept(tmp_path, serial, photos, kind):
    digest = cells(photos)[1].digest()
    files, store = serial.export(digest), Store(tmp_path)
    with pytest.raises(StorageError, match=f"{kind.rstrip('s')}.*damaged"):
        store.accept(digest, {**files, kind: files[kind][:-9] + b"?" + files[kind][-8:]})
    assert not list(tmp_path.rglob("*.*"))
    assert store.accept(digest, files) == store.get(digest) == serial.get(digest)


# ---------------------------------------------------------------------------------------------------------- processes


def test_a_killed_worker_is_replaced_and_the_bytes_are_those_of_a_serial_run(tmp_path, photos, serial):
    store, configs = Store(tmp_path), cells(photos)
    watch = Kills(configs[2], times=1)
    outcomes = run_bench(configs, store, Environment(), watch, one_worker)
    assert [outcome.failure for outcome in outcomes] == [""] * len(configs)
    assert configs[2] in [config for config, why in watch.stops if "SIGKILL" in why]
    assert Counter(watch.ends) == dict.fromkeys(configs, 1)
    assert results(store) == results(serial) and leftovers(store) == []
    assert multiprocessing.active_children() == []


@long_form
def test_a_cell_that_always_kills_its_worker_is_reported_and_the_others_go_on(tmp_path, photos, monkeypatch):
    monkeypatch.setattr("vitadapt.benchmark.parallel.processes.ATTEMPTS", 2)  # every new worker costs seconds
    monkeypatch.setattr("vitadapt.benchmark.parallel.executor.ATTEMPTS", 2)
    (fatal,) = cells(photos, 1, ("lora",), epochs=3000)
    (well,) = cells(photos, 1, ("linear-probe",))
    store, watch = Store(tmp_path), Kills(fatal, times=2)
    broken, done = run_bench([fatal, well], store, Environment(), watch, one_worker)
    assert broken.record is None and "2 attempts" in broken.failure and "memory" in broken.failure
    assert isinstance(done, Outcome) and done.record is not None
    assert [path.stem for path in (store.root / "failures").iterdir()] == [fatal.digest()]


@long_form
def test_ctrl_c_stops_all_workers_at_once_with_one_line(tmp_path, photos):
    recipe, out = recipe_file(tmp_path / "b.toml", photos, seeds=3, epochs=60), tmp_path / "runs"
    line = [sys.executable, "-m", "vitadapt.cli.main", "bench", str(recipe), "--out", str(out), "--no-cache"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*line, "--workers", "2"], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    while not list((out / "records").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from there" in output and "Traceback" not in output
    store = Store(out)
    assert 0 < len(store.records()[0]) < 9 and store.records()[1] == []
