"""Damage files at random and read them: `python tests/fuzz/run.py [--minutes 10] [--seed 0] [--only zip] [--once 20]`.

Every kind of files gets the same share of the processor's time, within it every target, and each at least LEAST
examples. Prints one line per target at the end and writes every file that broke the law to --keep, with what was
raised. The same seed and the same number of examples per target (--once) give the same files. The counts are added to
--counts, which tally.py sums up.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import logging
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from heapq import heapreplace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

import torch  # noqa: E402
from law import Target, outcome  # noqa: E402
from mutate import mutate  # noqa: E402
from tally import add_counts  # noqa: E402
from targets import TARGETS  # noqa: E402

from vitadapt.data.readers import load_mat, matlab  # noqa: E402

MEMORY = 4 << 30  # bytes of address space beyond what there was before: a reader that wants more has no bound
SLOW = 20.0  # seconds of one example
LEAST = 10  # examples of a target, however slow it is
IN_MEMORY = Path("/dev/shm")  # where files cost no disk


class Run:
    """One target with its files in a folder, and what became of every example so far."""

    def __init__(self, target: Target, folder: Path, keep: Path, seed: int) -> None:
        self.target, self.folder, self.keep = target, folder, keep
        folder.mkdir(parents=True)
        self.files = {path: path.read_bytes() for path in target.prepare(folder)}
        self.paths, self.others = list(self.files), tuple(self.files.values())
        self.damaged: Path | None = None
        self.rng = random.Random(f"{seed} {target.name}")
        self.counts: Counter[str] = Counter()
        self.broken: dict[str, str] = {}
        self.seconds = 0.0
        target.read(folder)  # sound files are read

    def example(self) -> None:
        start = used()
        path = self.rng.choice(self.paths)
        data = mutate(self.files[path], self.rng, self.others)
        if self.damaged not in (path, None):
            self.damaged.write_bytes(self.files[self.damaged])
        self.damaged = path
        path.write_bytes(data)
        try:
            result = outcome(self.target, self.folder, path)
            self.counts["value" if result == "value" else "refused"] += 1
            if used() - start > SLOW:
                raise TimeoutError(f"{used() - start:.0f} s")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what we look for
            self._broke(error, data, path)
        self.seconds += used() - start

    def _broke(self, error: BaseException, data: bytes, path: Path) -> None:
        self.counts["broken"] += 1
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "vitadapt" in f.filename and "fuzz" not in f.filename]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
        key = f"{type(error).__name__} at {place}"
        if key not in self.broken:
            self.broken[key] = " ".join(str(error).split())[:300]
            self.keep.mkdir(parents=True, exist_ok=True)
            stem = f"{self.target.name} {len(self.broken)} {path.name}".replace(" ", "_")
            (self.keep / stem).write_bytes(data)
            (self.keep / f"{stem}.txt").write_text("".join(traceback.format_exception(error))[-4000:], errors="replace")


def mat_in_a_fork(data: bytes, *names: str) -> bytes:
    """As `matlab._in_a_process`, in a copy of this process, where scipy is imported already."""
    from scipy.io import loadmat  # noqa: F401

    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 1)
        sys.stdin, sys.argv = io.TextIOWrapper(io.BytesIO(data)), ["load_mat", *names]
        status = 1
        with suppress(BaseException):
            load_mat._main()
            sys.stdout.flush()
            status = 0
        os._exit(status)
    os.close(writing)
    with open(reading, "rb") as output:
        written = output.read()
    if os.waitpid(child, 0)[1]:
        raise ValueError("damaged, or too large")
    return written


def used() -> float:
    """Seconds of the processor, with those of the processes that a reader started."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def turns(runs: list[Run], once: int, end: float) -> Iterator[Run]:
    """Every target `once` times; or, when that is 0, always the one that is furthest behind its share, until `end`."""
    if once:
        yield from (run for _ in range(once) for run in runs)
        return
    alike = Counter(run.target.kind for run in runs)
    queue = [(0.0, number) for number in range(len(runs))]
    while time.monotonic() < end:
        number = queue[0][1]
        run = runs[number]
        yield run
        heapreplace(queue, (run.seconds * alike[run.target.kind], number))
    for run in runs:
        yield from (run for _ in range(LEAST - run.counts.total()))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--once", type=int, default=0, help="examples per target, instead of minutes")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", default="", help="targets whose names match this pattern")
    options.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    options.add_argument("--counts", type=Path, default=Path("runs/fuzz/counts.jsonl"))
    given = options.parse_args()
    torch.set_num_threads(1)
    faulthandler.enable()
    logging.disable()
    matlab._in_a_process = mat_in_a_fork
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as place:
        chosen = [target for name, target in TARGETS.items() if re.search(given.only, name)]
        runs = [Run(t, Path(place) / t.name.replace(" ", "-"), given.keep, given.seed) for t in chosen]
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        start = time.monotonic()
        with suppress(KeyboardInterrupt):  # what was found until then is told
            for run in turns(runs, given.once, start + 60 * given.minutes):
                run.example()
        for run in runs:
            print(f"{run.target.name:28} " + ", ".join(f"{n} {what}" for what, n in sorted(run.counts.items())))
            for key, result in run.broken.items():
                print(f"    {key}: {result}")
        total = sum((run.counts for run in runs), Counter())
        add_counts(given.counts, "random", {run.target.name: run.counts for run in runs}, seed=given.seed)
        print(f"{total.total()} examples in {(time.monotonic() - start) / 60:.1f} minutes: {dict(total)}")
    return 1 if total["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
