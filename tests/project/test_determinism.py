"""The same configuration gives the same bytes on a CPU, whatever else is different: a table of what else may be.

Killed commands that go on to the same bytes are the business of tests/faults, other releases of torch and other
processors that of test_golden_table.py; docs/numbers.md says all of it in one place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_cases import OFTEN, TASTE, Scenario, Workplace, make_photos, root, server, without

from vitadapt.benchmark.results.store import Store
from vitadapt.utils.files import bytes_digest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a warm process for every variation")

BENCH = """
[bench]
backbone = "random:tiny"
dataset = "photos"
shots = 3
[[bench.part]]
method = ["linear-probe", "lora", "kadaptation", "fine-tune"]
[[bench.part]]
method = "linear-probe"
protocol = "cv"
[recipe]
epochs = 2
batch_size = 2
"""
RUN = Scenario("bench", ("bench", "bench.toml", "--out", "runs", "--cache", "cache"), kept=("runs",))
FEW = ("--recipe", "epochs=2", "--folds", "2")
FIT = Scenario(
    "fit",
    ("fit", "photos", "--backbone", "random:tiny", "--method", "lora", *FEW, "--cache", "cache", "--out", "model"),
    kept=("model",),
)
# Folders are listed backwards, as another file system might.
BACKWARDS = """
import os, pathlib
plain, scan = os.listdir, os.scandir
class Backwards:
    def __init__(self, entries): self.entries = iter(entries)
    def __iter__(self): return self
    def __next__(self): return next(self.entries)
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def close(self): pass
os.listdir = lambda *place: sorted(plain(*place), reverse=True)
os.scandir = lambda *place: Backwards(sorted(scan(*place), key=lambda entry: entry.name, reverse=True))
"""


@dataclass(frozen=True)
class Variation:
    """What is different: the folder, words of the command, the process."""

    folder: Callable[[Path], None] = lambda folder: None
    words: Callable[[list[str]], list[str]] = lambda line: line
    before: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    commands: tuple[Scenario, ...] = (RUN,)
    fresh: bool = False
    killed: bool = False


def created_backwards(folder: Path) -> None:
    """The same pictures, later ones of every class and later classes first, the test set before the training set."""
    old = folder / "photos"
    new = folder / "again"
    for path in sorted(old.rglob("*.png"), reverse=True):
        target = new / path.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)  # a new date, too
    shutil.rmtree(old)
    new.rename(old)


def moved(folder: Path) -> None:
    (folder / "other place").mkdir()
    (folder / "photos").rename(folder / "other place" / "photos")
    (folder / "bench.toml").write_text(BENCH.replace('"photos"', '"other place/photos"'))


def without_cache(line: list[str]) -> list[str]:
    at = line.index("--cache")
    return [*line[:at], "--no-cache", *line[at + 2 :]]


BOTH = (RUN, FIT)
STRANGE = {"PYTHONHASHSEED": "77", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
VARIATIONS = {
    "once more": Variation(commands=BOTH),
    "other hashes, time zone and locale": Variation(environment=tuple(STRANGE.items()), fresh=True),
    "folders are listed backwards": Variation(before=(BACKWARDS,), commands=BOTH),
    "files were created backwards": Variation(created_backwards, commands=BOTH),
    "no cache": Variation(words=without_cache),
    "two workers": Variation(words=lambda line: [*line, "--workers", "2"]),
    "random numbers were drawn before": Variation(
        before=("import torch, random, numpy; torch.rand(7); random.random(); numpy.random.rand(3)",), commands=BOTH
    ),
    "killed in the middle": Variation(before=(OFTEN,), killed=True),
    "the pictures are elsewhere": Variation(moved),
}

QUICK = ("other hashes, time zone and locale", "folders are listed backwards", "two workers")  # each is also once more
TRIED = QUICK if TASTE else tuple(VARIATIONS)


def place(name: str) -> Workplace:
    folder = root() / "determinism" / name.replace(" ", "-")
    make_photos(folder / "photos")
    (folder / "bench.toml").write_text(BENCH)
    return Workplace(folder, server())


def call(place: Workplace, command: Scenario, variation: Variation) -> None:
    line = variation.words(list(command.line))
    if variation.fresh:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **dict(variation.environment)}
        code = "import torch; torch.set_num_threads(1); from vitadapt.__main__ import start; start()"
        program = [sys.executable, "-c", code, *line]
        done = subprocess.run(program, cwd=place.folder, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return
    faults: dict[str, Any] = {"before": variation.before, "environment": dict(variation.environment)}
    if variation.killed:
        steps = len(reference()[0])
        assert place.call(command, line, **faults, fault="kill", at=steps // 2).status < 0
    assert place.call(command, line, **faults).status == 0


def tensors_of(adapter: Path) -> str:
    """Digest of what follows the header of a safetensors file."""
    data = adapter.read_bytes()
    return bytes_digest(data[8 + int.from_bytes(data[:8], "little") :])


def numbers_of(place: Workplace) -> dict[str, object]:
    """Method and protocol -> the record without what names the pictures' folder: its digest, and the adapter's text."""
    store = Store(place.folder / "runs")
    found = {}
    for record in store.records()[0]:
        plain = without(vars(record))
        files = {**record.files, "adapters": tensors_of(store.path("adapters", record.digest))}
        changed = {"files": files, "digest": "", "config": {**plain["config"], "dataset": ""}}
        found[f"{record.config['method']['name']} {record.config['protocol']}"] = {**plain, **changed}
    assert len(found) == 5
    return found


@cache
def reference() -> tuple[list[tuple[str, str]], dict[str, dict[str, object]], dict[str, object]]:
    """The steps of the benchmark; what each command leaves where nothing is different; the numbers of its records."""
    origin = place("nothing")
    done = [origin.call(command, before=(OFTEN,)) for command in BOTH]
    assert [one.status for one in done] == [0, 0], done
    return done[0].steps, {command.name: origin.left(command) for command in BOTH}, numbers_of(origin)


@pytest.mark.parametrize("name", TRIED)
def test_the_same_bytes_whatever_is_different(name: str) -> None:
    variation, there = VARIATIONS[name], place(name)
    _, left, numbers = reference()
    variation.folder(there.folder)
    for command in variation.commands:
        call(there, command, variation)
        if variation.folder is not moved:
            assert there.left(command) == left[command.name]
    assert numbers_of(there) == numbers


def test_another_seed_is_seen() -> None:
    """The comparison above is of what depends on the numbers."""
    there = place("another seed")
    (there.folder / "bench.toml").write_text(BENCH.replace("shots = 3", "shots = 3\nseed = 1"))
    call(there, RUN, Variation())
    found, wanted = numbers_of(there), reference()[2]
    assert found.keys() == wanted.keys()
    assert all(found[name]["files"] != wanted[name]["files"] for name in found)


def test_another_number_of_threads_changes_little_if_anything() -> None:
    """torch then adds in another order; all else is the same."""
    reference()
    there = place("two threads")
    call(there, RUN, Variation(words=lambda line: [*line, "--threads", "2"]))
    stores = [Store(root() / "determinism" / name / "runs") for name in ("nothing", "two-threads")]
    records, _ = stores[0].records()
    for record in records:
        other = stores[1].get(record.digest)
        a, b = (store.predictions(one)[0] for store, one in zip(stores, (record, other), strict=True))
        assert np.abs(a - b).max() < 1e-5
        assert np.allclose(record.losses, other.losses, rtol=1e-5)
