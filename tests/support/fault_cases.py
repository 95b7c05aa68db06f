"""Commands under faults: where they work, what they must leave behind, and what may be seen half-way."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitadapt.benchmark.results.store import Store
from vitadapt.utils.files import bytes_digest, sha256_of

HERE = Path(__file__).parent
FEWEST, SHORT = 4, 12  # kills up to which only the cheapest commands, and only some commands, are disturbed
KILLS = int(os.environ.get("VITADAPT_KILLS", FEWEST))
TASTE = KILLS <= FEWEST
long_form = pytest.mark.skipif(TASTE, reason="takes minutes: make test-faults (or VITADAPT_KILLS=12)")
with_forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
MODULES = (
    "vitadapt.cli.main",
    "vitadapt.benchmark.sweep",
    "vitadapt.benchmark.runner",
    "vitadapt.classifier.fit",
    "vitadapt.cli.progress",
)
MODULES += (
    "vitadapt.report.table",
    "vitadapt.benchmark.parallel.executor",
    "vitadapt.benchmark.results.index",
    "vitadapt.report.run_report",
)
MODULES += ("PIL.Image", "torchvision", "torch._dynamo")  # what a first training would import, a second at a time
MODULES += ("sklearn.linear_model", "sklearn.metrics", "matplotlib.backends.backend_agg")  # and a fit
OFTEN = "import vitadapt.training.checkpoint as c; c.Checkpoint.__init__.__defaults__ = (0.0,)"  # a state an epoch
INDEXED = "import vitadapt.benchmark.results.index as i; i.WORTH = 0"  # an index for a handful of records
PASSING = ("created", "seconds", "peak_memory_mb", "checksum", "milliseconds", "speed_ratio", "versions")
FOREIGN = ("README.md", "report.html", "index")  # they hold the time, of files or of day
RUN = ("--dataset", "photos", "--backbone", "random:tiny", "--shots", "3", "--cache", "cache", "--out", "runs")


def make_photos(root: Path, seed: int = 3) -> Path:
    """Two classes that are hard to tell apart, so that the upper rungs of a ladder are tried; old files."""
    rng = np.random.default_rng(seed)
    for label, level in {"dark": 119, "light": 121}.items():
        for part, count in (("train", 6), ("test", 5)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(level, 60, (33, 35, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
                os.utime(folder / f"{i}.png", (1.6e9, 1.6e9))
    return root


@dataclass(frozen=True)
class Scenario:
    """A command, what must have happened before it, and where it leaves something: `kept` are the folders compared.

    `once` is what it makes and will not make again: it refuses when that is there.
    """

    name: str
    line: tuple[str, ...]
    first: tuple[tuple[str, ...], ...] = ()
    before: tuple[str, ...] = ()
    kept: tuple[str, ...] = ("runs", "cache")
    once: str = ""


def training(method: str, *more: str) -> tuple[str, ...]:
    return ("run", *RUN, "--method", method, *more)


def worded(line: Sequence[str]) -> Iterator[str]:
    """The same with a backbone that has a text tower."""
    yield from ("random:tiny-clip" if word == "random:tiny" else word for word in line)


FITTED = ("fit", "photos", "--backbone", "random:tiny", "--method", "lora", "--recipe", "epochs=3", "--folds", "2")
FITTED += ("--cache", "cache", "--out", "model")
BENCH = ("bench", "bench.toml", "--out", "runs", "--cache", "cache")
WARM = training("linear-probe", "--recipe", "epochs=2")
SCENARIOS = {
    one.name: one
    for one in (
        Scenario("caching", training("linear-probe")),
        Scenario("caching text", tuple(worded(training("zero-shot")))),
        Scenario("training", training("lora", "--recipe", "epochs=6,batch_size=2"), first=(WARM,), before=(OFTEN,)),
        Scenario("searching", training("linear-probe", "--protocol", "cv", "--recipe", "epochs=2"), first=(WARM,)),
        Scenario("halving", training("lora", "--protocol", "halving", "--recipe", "epochs=3"), first=(WARM,)),
        Scenario("recording", training("adapter", "--recipe", "epochs=1"), first=(WARM,)),
        Scenario("benching", BENCH, first=(WARM,), before=(OFTEN,)),
        Scenario("indexing", ("results", "runs"), first=(WARM, BENCH), before=(INDEXED,)),
        Scenario("fitting", FITTED, before=(OFTEN,), kept=("model", "cache")),
        Scenario(
            "exporting",
            ("export", "model", "--to", "timm", "-o", "exported"),
            first=(FITTED,),
            kept=("model", "exported"),
            once="exported",
        ),
        Scenario(
            "submitting",
            ("submit", "board", "-o", "mine.zip", "--partial", "--model-name", "ours"),
            kept=("board", "mine.zip"),
        ),
        Scenario("reporting", ("report", "runs", "-o", "report.html"), first=(WARM, BENCH), kept=("runs",)),
    )
}


class Workplace:
    """A folder with photos, a benchmark and a small board of records, in which commands are run by a fork server."""

    def __init__(self, folder: Path, server: Server, notes: Path | None = None) -> None:
        """What commands say is written below `notes`, else beside the folder."""
        self.folder, self.server, self.notes = folder, server, notes or folder.parent

    def furnish(self) -> Workplace:
        from leaderboard_cases import fill

        make_photos(self.folder / "photos")
        lines = ['backbone = "random:tiny"', 'dataset = "photos"', "shots = 3", "seed = [0, 1]"]
        lines += ['method = ["linear-probe", "lora", "kadaptation"]', "[recipe]", "epochs = 2", "batch_size = 2"]
        (self.folder / "bench.toml").write_text("\n".join(["[bench]", *lines]) + "\n")
        fill(Store(self.folder / "board"), ["kitti-distance", "rendered-sst2"], seeds=(0, 1, 2))
        return self

    def age(self) -> None:
        """Make all files a minute old: what a command does with files that are too young depends on its speed."""
        past = time.time() - 60
        for path in self.folder.rglob("*"):
            if path.is_file() and path.stat().st_mtime > past:
                os.utime(path, (past, past))

    def copy(self, folder: Path, notes: Path | None = None) -> Workplace:
        shutil.copytree(self.folder, folder)
        return Workplace(folder, self.server, notes)

    def call(self, scenario: Scenario, line: Sequence[str] | None = None, **fault: object) -> Done:
        """Run the command, or another `line`, with the fault."""
        request, aside = self._request(scenario, line, fault)
        status = self.server.ask(request)["status"]
        return self._done(status, aside)

    def start(self, scenario: Scenario, **fault: object) -> int:
        """Run the command meanwhile -> its process id; `wait` ends it."""
        request, _ = self._request(scenario, None, fault)
        return int(self.server.ask({**request, "meanwhile": True})["process"])

    def wait(self, process: int) -> Done:
        status = self.server.ask({"wait": process})["status"]
        return self._done(status, self.notes / f"{self.folder.name}.meanwhile")

    @staticmethod
    def is_stopped(process: int) -> bool:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def _request(self, scenario: Scenario, line: Sequence[str] | None, fault: dict) -> tuple[dict, Path]:
        aside = self.notes / f"{self.folder.name}.{'meanwhile' if line is None and 'before' in fault else 'said'}"
        aside.mkdir(exist_ok=True)
        request = {"line": list(line or scenario.line), "folder": str(self.folder), "watch": [str(self.folder)]}
        request |= {name: str(aside / name) for name in ("out", "err", "log")}
        request |= {"before": scenario.before, **fault}
        (aside / "log").unlink(missing_ok=True)
        return request, aside

    @staticmethod
    def _done(status: int, aside: Path) -> Done:
        steps = json.loads((aside / "log").read_text()) if (aside / "log").exists() else []
        out, err = ((aside / name).read_text() if (aside / name).exists() else "" for name in ("out", "err"))
        return Done(status, out, err, [tuple(step) for step in steps])  # killed at once, it has said nothing

    def left(self, scenario: Scenario) -> dict[str, object]:
        """Name -> what must be the same however often it was cut off; locks are empty and stay."""
        found: dict[str, object] = {}
        for place in scenario.kept:
            paths = [self.folder / place] if (self.folder / place).is_file() else (self.folder / place).rglob("*")
            for path in paths:
                if path.is_file() and path.suffix != ".lock" and not path.name.startswith("digests.sqlite"):
                    found[str(path.relative_to(self.folder))] = lasting(path)
        return found

    def records(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.glob("*/records/*.json")}

    def check_halfway(self) -> None:
        """What is there under its own name is whole, whatever was cut off."""
        for root in ("runs", "board"):
            if (self.folder / root / "records").is_dir():
                check_store(Store(self.folder / root))


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str
    steps: list[tuple[str, str]]

    @property
    def complaints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("vitadapt: ")]

    def other_complaints(self, usual: Sequence[str] = ()) -> list[str]:
        """What it complains of besides what it `usual`ly does; a trace is no complaint."""
        assert "Traceback" not in self.err + self.out, self.err
        return [line for line in self.complaints if line not in usual]

    def is_one_line(self, usual: Sequence[str] = ()) -> bool:
        """There is one complaint, in one line."""
        return len(self.other_complaints(usual)) == 1


def lasting(path: Path) -> object:
    """The bytes of a file; of a JSON text what does not tell the time; of a list of checksums which files fit it."""
    if path.name in FOREIGN:
        return "there"
    if path.name == "SHA256SUMS":
        sums = dict(reversed(line.split("  ", 1)) for line in path.read_text().splitlines())
        return {name: sha256_of(path.parent / name) == value for name, value in sums.items()}
    data = path.read_bytes()
    if path.suffix != ".json":
        return bytes_digest(data)
    return without(json.loads(data))


def without(value: object) -> object:
    if isinstance(value, dict):
        return {name: without(inner) for name, inner in value.items() if name not in PASSING}
    return [without(inner) for inner in value] if isinstance(value, list) else value


def check_store(store: Store) -> None:
    """Every record is whole, and so is every file that it names."""
    whole, damaged = store.records()
    assert damaged == []
    for record in whole:
        for kind, seal in record.files.items():
            assert bytes_digest(store.path(kind, record.digest).read_bytes()) == seal


def litter(folder: Path) -> list[str]:
    """What nobody will ever look at again."""
    found = [path for path in folder.rglob("*") if ".tmp" in path.name or path.name.startswith(".")]
    return sorted(str(path.relative_to(folder)) for path in found)


def remove_temporary(folder: Path) -> None:
    """What a killed process was writing stays under a name that nobody else uses; see docs/faults.md."""
    for path in folder.rglob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@cache
def server() -> Server:
    """The one of this process."""
    made = Server(("matplotlib.pyplot", "timm", "vitadapt.classifier.export.timm") if KILLS > SHORT else ())
    atexit.register(made.close)
    return made


@cache
def root() -> Path:
    """Where all of it happens: in memory where that can be had, because a disk takes its time to sync."""
    memory = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="vitadapt-faults-", dir=memory if os.access(memory, os.W_OK) else None)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


@cache
def furnished() -> Workplace:
    return Workplace(root() / "furnished", server()).furnish()


@dataclass(frozen=True)
class Prepared:
    """A command; the place just before it and just after it; what it must leave; its steps; how long it takes."""

    scenario: Scenario
    before: Workplace
    after: Workplace
    wanted: dict[str, object]
    complaints: list[str]
    steps: list[tuple[str, str]]
    seconds: float

    def copy(self, done: bool = False) -> Workplace:
        return (self.after if done else self.before).copy(Path(tempfile.mkdtemp(dir=root())) / "place")

    def check_done(
        self,
        place: Workplace,
        where: object,
        kept: dict[Path, bytes] | None = None,
        lost: str = "",
        killed: bool = False,
    ) -> None:
        """Undisturbed, the command ends as if nothing had happened, and nothing of what was finished has changed.

        Only `lost`, which saves time and went when nobody needed it any more, may be absent; and what was being written
        when a process was `killed` may lie there.
        """
        made = bool(self.scenario.once) and (place.folder / self.scenario.once).exists()
        done = place.call(self.scenario)
        if killed:
            remove_temporary(place.folder)
        if made:  # the fault came when all was done
            assert done.status == 2 and done.is_one_line(self.complaints), (where, done.err)
            assert done.complaints[-1].startswith(f"vitadapt: {self.scenario.once} is in use already"), where
        else:
            assert (done.status, done.complaints) == (0, self.complaints), (where, done.err)
        left = {"said": self.wanted["said"] if made else table(done.out), **place.left(self.scenario)}
        both = {name: (self.wanted.get(name), left.get(name)) for name in sorted(left.keys() | self.wanted)}
        changed = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
        changed = {name: pair for name, pair in changed.items() if pair[1] or not lost or not name.startswith(lost)}
        assert not changed, (where, changed)  # wanted, found
        assert litter(place.folder) == [], where
        assert all(path.read_bytes() == data for path, data in (kept or {}).items()), where
        shutil.rmtree(place.folder.parent)


@cache
def prepared(name: str) -> Prepared:
    scenario = SCENARIOS[name]
    before = furnished().copy(root() / name.replace(" ", "-") / "before")
    for line in scenario.first:
        assert before.call(scenario, line).status == 0
    before.age()
    after = before.copy(before.folder.with_name("after"))
    start = time.monotonic()
    done = after.call(scenario)
    seconds = time.monotonic() - start
    assert (done.status, litter(after.folder)) == (0, []), done.err
    wanted = {"said": table(done.out), **after.left(scenario)}
    return Prepared(scenario, before, after, wanted, done.complaints, done.steps, seconds)


def table(text: str) -> list[str]:
    """The table that a command prints, without lines that tell times, and without the times in its last column."""
    return [re.sub(r" +\d+$", "", line) for line in text.splitlines() if not re.search(r"\d m?s\b", line)]


def spread(count: int, steps: Sequence[int], chance: random.Random) -> list[int]:
    """So many of `steps`, one at random from each of equal parts of them; all when there are no more."""
    if count >= len(steps):
        return list(steps)
    borders = [len(steps) * i // count for i in range(count + 1)]
    return [steps[chance.randrange(low, high)] for low, high in itertools.pairwise(borders)]


class Server:
    """A warm process that runs commands in forks of itself (fault_server.py)."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        line = [sys.executable, str(HERE / "fault_server.py"), *MODULES, *modules]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.answer()

    def ask(self, request: dict) -> dict:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def until(true, seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)
